"""Ollama's store: manifests like those of a container registry, whose layers name blobs::

    manifests/registry.ollama.ai/library/llama3.2/1b    JSON: layers with mediaType, digest and size
    blobs/sha256-<hex>                                  weights, parameters, system prompt, template, ...

What is used of it, and what is not, is in ADR 27.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from suite.catalogue.entry import Entry, ParameterValue
from suite.catalogue.folder import ids_of
from suite.catalogue.outage import Outage, absence, outage_at
from suite.catalogue.stores.small_file import read_small
from suite.engine.gguf.file import MAX_CONTEXT_TOKENS
from suite.messages.actions.generation import GenerateTextRequest

_T = TypeVar("_T")

_LAYER = "application/vnd.ollama.image."
_DEFAULT_HOST = "registry.ollama.ai"
_DEFAULT_NAMESPACE = "library"
_DEFAULT_TAG = "latest"
_DIGEST = re.compile(r"sha256:(?P<hex>[0-9a-f]{64})")
_SAME_NAME: Final = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "typical_p",
    "repeat_penalty",
    "presence_penalty",
    "frequency_penalty",
    "seed",
    "stop",
)
_FIELDS: Final = {name: name for name in _SAME_NAME} | {"num_predict": "max_tokens"}
"""The fields of a request by the names of Ollama's parameters."""
_WITHOUT_EFFECT: Final = (
    "num_ctx",
    "num_keep",
    "num_gpu",
    "num_thread",
    "num_batch",
    "main_gpu",
    "use_mmap",
    "use_mlock",
    "low_vram",
    "f16_kv",
    "numa",
)
"""Parameters that do not change what is sampled; the first one is the context, which is used elsewhere."""
_NAME_LIMIT = 64
MAX_SYSTEM_PROMPT_BYTES: Final = 64 << 10
"""It is part of each chat, and of each description of the model: a message must have room for more."""


class _Layer(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    media_type: str
    digest: str
    size: int


class _Manifest(msgspec.Struct, frozen=True, kw_only=True):
    layers: tuple[_Layer, ...]

    def of_kind(self, kind: str) -> list[_Layer]:
        return [layer for layer in self.layers if layer.media_type == f"{_LAYER}{kind}"]


class _Unusable(Exception):
    """Why a model cannot be served."""


class _Away(Exception):
    """What is out of reach, so that nothing can be said of a model."""

    def __init__(self, outage: Outage) -> None:
        self.outage = outage


def is_store(directory: Path, names: Collection[str]) -> bool:
    """Whether a folder with folders of these names is a store, be it one whose blobs are out of reach."""
    manifests = directory / "manifests"
    return manifests.name in names and ("blobs" in names or (manifests / _DEFAULT_HOST).is_dir())


class OllamaStore:
    """The folder that has `manifests` and `blobs`."""

    folders = frozenset({"manifests", "blobs"})

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._roots = (directory.resolve(),)

    def entries(self, failed: Callable[[OSError], None], warn: Callable[[str], None]) -> Iterator[Entry]:
        """Yield a model for each manifest, under the name that `ollama list` shows.

        The chat template is that of the weights' own file: Ollama's is in Go's language, not in Jinja.
        """
        manifests = self._directory / "manifests"
        for directory, names, files in os.walk(manifests, onerror=failed):
            names[:] = sorted(name for name in names if not name.startswith("."))
            for file in sorted(file for file in files if not file.startswith(".")):
                path = Path(directory, file)
                parts = path.relative_to(manifests).parts
                if len(parts) >= 4:
                    yield self._entry(path, parts, warn)

    def _entry(self, manifest: Path, parts: tuple[str, ...], warn: Callable[[str], None]) -> Entry:
        host, *names, tag = parts
        repository = _repository(host, names)
        entry = Entry(
            ids=ids_of(f"{repository}:{tag}", self._directory),
            path=manifest,
            named_by=manifest,
            aliases=(repository,) if tag == _DEFAULT_TAG else (),
            source="ollama",
            repository=repository,
            roots=self._roots,
        )
        try:
            return self._with_layers(entry, _decoded(manifest, "its manifest", _Manifest), warn)
        except _Unusable as unusable:
            return msgspec.structs.replace(entry, problem=str(unusable))
        except _Away as away:
            return msgspec.structs.replace(entry, outage=away.outage)

    def _with_layers(self, entry: Entry, manifest: _Manifest, warn: Callable[[str], None]) -> Entry:
        """Add what the layers say. Raises _Unusable."""
        name, weights = entry.ids[0], _weights(manifest)
        blob = self._blob(weights)
        _check_whole(blob, weights, name)
        stored = self._stored_parameters(manifest)
        parameters, unused = _fields(stored)
        if unused:
            warn(f"{name!r}: these of its parameters are not used: {', '.join(unused)}")
        if manifest.of_kind("messages"):
            warn(f"{name!r}: the messages of its Modelfile are not used")
        if system := self._system_prompt(manifest):
            parameters["system_prompt"] = system
        return msgspec.structs.replace(
            entry,
            path=blob,
            sha256=_hex(weights),
            parameters=parameters,
            projectors=tuple(map(self._blob, manifest.of_kind("projector"))),
            context_tokens=_context_tokens(stored),
        )

    def _stored_parameters(self, manifest: _Manifest) -> dict[str, Any]:
        stored: dict[str, Any] = {}
        for layer in manifest.of_kind("params"):
            stored |= _decoded(self._blob(layer), "the file of its parameters", dict[str, Any])
        return stored

    def _system_prompt(self, manifest: _Manifest) -> str:
        prompt = ""
        for layer in manifest.of_kind("system"):
            text = _read(self._blob(layer), "its system prompt")
            prompt = f"{prompt}\n{text}" if prompt else text
            if len(prompt.encode()) > MAX_SYSTEM_PROMPT_BYTES:
                raise _Unusable(
                    f"its system prompt has over {MAX_SYSTEM_PROMPT_BYTES >> 10} KiB: make it shorter with "
                    "`ollama create`"
                )
        return prompt

    def _blob(self, layer: _Layer) -> Path:
        return self._directory / "blobs" / f"sha256-{_hex(layer)}"


def _repository(host: str, names: list[str]) -> str:
    """The name without its tag, as short as people may type it."""
    if host != _DEFAULT_HOST:
        return "/".join((host, *names))
    return "/".join(names[1:] if names[0] == _DEFAULT_NAMESPACE else names)


def _hex(layer: _Layer) -> str:
    match = _DIGEST.fullmatch(layer.digest)
    if match is None:  # a path must not be made of it
        raise _Unusable("its manifest names a blob by something that is not a SHA-256")
    return match["hex"]


def _weights(manifest: _Manifest) -> _Layer:
    """The layer of the weights. Raises _Unusable if the model is more than those of one file."""
    weights = manifest.of_kind("model")
    if not weights:
        raise _Unusable("its manifest has no GGUF file: it runs elsewhere, or is in another format")
    if len(weights) > 1:
        raise _Unusable("its weights are in several blobs, which is not supported")
    if manifest.of_kind("adapter"):
        raise _Unusable("it needs an adapter (LoRA), which is not supported; merge it into the weights")
    return weights[0]


def _check_whole(blob: Path, layer: _Layer, name: str) -> None:
    try:
        size = blob.stat().st_size
    except OSError as error:
        if (outage := outage_at(blob, error) or absence(blob.parent)) is not None:
            raise _Away(outage) from None
        raise _Unusable(f"its blob {blob.name} is missing: `ollama pull {name}` brings it back") from None
    if size != layer.size:
        raise _Unusable(f"its blob has {size} of {layer.size} bytes: `ollama pull {name}` completes it")


def _read(path: Path, what: str) -> str:
    try:
        return read_small(path).decode()
    except OSError as error:
        if (outage := outage_at(path, error)) is not None:
            raise _Away(outage) from None
        raise _Unusable(f"{what} cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise _Unusable(f"{what} is not UTF-8") from None


def _decoded(path: Path, what: str, kind: type[_T]) -> _T:
    try:
        return msgspec.json.decode(_read(path, what), type=kind)
    except (msgspec.DecodeError, RecursionError):
        raise _Unusable(f"{what} is not the JSON that Ollama writes") from None


def _fields(stored: dict[str, Any]) -> tuple[dict[str, ParameterValue], list[str]]:
    """The parameters as fields of a request, and the names of those that are none or out of range."""
    fields: dict[str, ParameterValue] = {}
    unused: list[str] = []
    for name, value in sorted(stored.items()):
        if name in _WITHOUT_EFFECT:
            continue
        field = _FIELDS.get(name)
        request = _request_with(field, value) if field else None
        if field and request:
            fields[field] = getattr(request, field)
        else:
            unused.append(name[:_NAME_LIMIT])
    return fields, unused


def _request_with(field: str, value: object) -> GenerateTextRequest | None:
    """A request with this field, so that its limits are those of requests; None if they refuse the value."""
    try:
        return msgspec.convert({"model_id": "-", field: value}, GenerateTextRequest)
    except msgspec.ValidationError:
        return None


def _context_tokens(stored: dict[str, Any]) -> int | None:
    tokens = stored.get("num_ctx")
    return tokens if type(tokens) is int and 0 < tokens <= MAX_CONTEXT_TOKENS else None
