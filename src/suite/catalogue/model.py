"""A model of the catalogue, and the changes that a scan found."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec

from suite.catalogue.files import ModelFile
from suite.catalogue.kv_cache import KvCache, budget, smaller
from suite.catalogue.outage import Outage
from suite.catalogue.projectors import UNPAIRED, Pairing
from suite.config import ModelSettings
from suite.domain.footprint import NOTHING, Footprint
from suite.engine.gguf.adapter import AdapterInfo
from suite.engine.gguf.estimate import PROCESS_BYTES
from suite.engine.gguf.file import GgufInfo
from suite.engine.gguf.placement import place
from suite.engine.gguf.projector import ProjectorInfo
from suite.errors import ModelFileIncomplete, ModelFileInvalid, SuiteError
from suite.messages.actions.status import FileState, MemoryEstimate
from suite.messages.decisions import RAM

_KEY_CHARACTERS = 16
_encode = msgspec.json.Encoder(order="deterministic").encode
_DEFAULTS = ModelSettings()
_NO_OTHER_VERSION = frozenset(
    {
        "display_name",
        "model_path",
        "n_threads",
        "prompt_step_tokens",
        "max_step_ms",
        "idle_timeout_seconds",
        "keep_alive",
        "capabilities",
        "aliases",
        "priority",
        "enabled",
    }
)
"""The settings with which a model is the same version: they change neither its answers nor its memory. Any
other one, also one to come, makes another version."""


class Draft(msgspec.Struct, frozen=True, kw_only=True):
    """A model that is loaded with another one, to guess its next tokens."""

    model_id: str
    file: ModelFile
    fingerprint: str
    info: GgufInfo
    flash_attention: bool
    estimate: MemoryEstimate
    """Of a process of its own, with the KV cache of the other model."""


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """A model file under its id. It is immutable: a scan that finds a change replaces it in the catalogue."""

    model_id: str
    file: ModelFile
    info: GgufInfo | None
    """None when the file cannot be loaded; it is there when only the settings are wrong."""
    error: SuiteError | None
    """Why the model cannot be loaded."""
    adapter: AdapterInfo | None = None
    """What changes other models, and is loaded with one of them only; None for a model."""
    settled: bool = True
    """False while its file is still being written."""
    outage: Outage | None = None
    """Why its file is out of reach at the moment; everything else is as it was before."""
    sha256: str | None
    """The digest of its content; None until its files have been read."""
    sha256_before: str | None = None
    """The digest that it had when its files were touched, until they have been read again."""
    fingerprint: str
    """Shows at once that content is other, not that it is the same. Empty when there is an error."""
    settings: ModelSettings
    template: str | None = None
    """The text of the chat template that is configured, as it was when the model was inspected."""
    kv_cache: KvCache | None
    """None when there is an error."""
    estimate: MemoryEstimate | None
    draft: Draft | None = None
    """The model that guesses its next tokens; None: none is configured, or there is an error."""

    pairing: Pairing = UNPAIRED
    """By which projector it reads pictures, or why it reads none."""

    @property
    def projector(self) -> ProjectorInfo | None:
        """The projector by which it reads pictures; None: it reads none."""
        return self.pairing.projector

    @property
    def reads_no_pictures(self) -> str:
        """Why it reads no pictures."""
        return self.pairing.lack

    @property
    def file_state(self) -> FileState:
        """Whether its file is there and whole."""
        if self.outage is not None:
            return "unreachable"
        if not self.settled:
            return "arriving"
        return "incomplete" if isinstance(self.error, ModelFileIncomplete) else "present"

    @property
    def path(self) -> Path:
        """The absolute path of its file; of a split model, of the first part."""
        return self.file.path

    @property
    def file_name(self) -> str:
        """The name of its file."""
        return self.file.path.name

    @property
    def display_name(self) -> str:
        """The name to show to people."""
        return self.settings.display_name or self.model_id

    @property
    def info_name(self) -> str | None:
        """What its file calls it."""
        return self.info.name if self.info is not None else None

    @property
    def capabilities(self) -> tuple[str, ...]:
        """The configured capabilities, or else those guessed from the file."""
        if self.settings.capabilities or self.info is None:
            return self.settings.capabilities
        return (*self.info.capabilities, *(("vision",) if self.projector else ()))

    @property
    def context_tokens(self) -> int:
        """The context of one conversation, in tokens; 0 when there is an error."""
        return self.kv_cache.context_tokens if self.kv_cache else 0

    @property
    def settings_key(self) -> str:
        """A short digest of those settings that change how it loads or what memory it takes.

        The KV cache stands in it as it was decided, so a memory limit that changes the cache changes the key.
        """
        settings, cache = self.settings, self.kv_cache
        form = cache and (
            cache.form,
            cache.slots,
            cache.context_tokens,
            cache.cache_tokens,
            cache.flash_attention,
        )
        projector = () if self.projector is None else (self.projector.path.name, self.projector.tensor_bytes)
        draft = () if self.draft is None else (self.draft.fingerprint,)
        loads = (form, settings.batch_tokens, settings.n_gpu_layers, settings.n_threads, *projector, *draft)
        return _digest(loads)

    @property
    def version_settings(self) -> dict[str, str | int | float | bool]:
        """Those of its settings that tell versions apart, as far as they are not the defaults (ADR 70).

        They stand as they are configured, so that nodes with other memories have the same version.
        """
        told = {
            name: value if isinstance(value, str | int | float) else _encode(value).decode()
            for name, value, default in _values(self.settings)
            if value != default and name not in _NO_OTHER_VERSION
        }
        long = {"chat_template": self.template, "parameters": self.file.entry.parameters}
        return told | {name: _digest(value) for name, value in long.items() if value}

    @property
    def source(self) -> str:
        """Where it is from: the program whose folder it is in, and the repository if that is known."""
        entry = self.file.entry
        return f"{entry.source} {entry.repository}" if entry.repository else entry.source

    @property
    def need_bytes(self) -> int:
        """The estimated memory of loading it where RAM is the only memory, in bytes."""
        draft = self.draft.estimate.total_bytes - PROCESS_BYTES if self.draft else 0
        return self.estimate.total_bytes + draft if self.estimate else 0

    def footprint(self, limits: Footprint) -> Footprint:
        """The estimated memory of loading it on a node with these memories."""
        return self._footprint(limits, self.settings.n_gpu_layers)

    def smaller(self, limits: Footprint) -> str:
        """Which of its settings would make it fit into these limits; empty if it does, or if none would."""
        if self.info is None or self.footprint(limits).is_within(limits):
            return ""
        limit_bytes = budget(self.settings, limits)
        ways = [smaller(self.settings, self.info, limit_bytes)] if self.need_bytes > limit_bytes else []
        if limits.gpus and self.settings.n_gpu_layers:
            ways.append(self._fewer_gpu_layers(limits))
        return " or ".join(filter(None, ways))

    def _fewer_gpu_layers(self, limits: Footprint) -> str:
        """The most layers on GPUs with which it fits, as in TOML; empty if it does with none."""
        layers = self.info.block_count if self.info else 0
        fitting = (each for each in range(layers, -1, -1) if self._footprint(limits, each).is_within(limits))
        most = next(fitting, None)
        return "" if most is None else f"n_gpu_layers = {most}"

    def _footprint(self, limits: Footprint, gpu_layers: int) -> Footprint:
        if self.estimate is None or self.info is None or self.kv_cache is None:
            return NOTHING
        own = self._placed(self.info, self.estimate, self.kv_cache, limits, gpu_layers)
        if self.draft is None:
            return own
        draft = self._placed(self.draft.info, self.draft.estimate, self.kv_cache, limits, gpu_layers)
        return own + draft - Footprint(PROCESS_BYTES)

    def _placed(
        self, info: GgufInfo, estimate: MemoryEstimate, cache: KvCache, limits: Footprint, gpu_layers: int
    ) -> Footprint:
        placed = place(
            info,
            estimate,
            cache_tokens=cache.stream_tokens,
            batch_tokens=self.settings.batch_tokens,
            gpu_layers=gpu_layers,
            gpus=limits.gpus,
        )
        if self.projector is not None and (on_gpu := next((each for each in placed if each != RAM), None)):
            placed[on_gpu] += self.projector.tensor_bytes  # in RAM, the estimate has it
        return Footprint(placed.pop(RAM), placed)


def _digest(value: object) -> str:
    """A short digest of what is too long to be told."""
    return sha256(_encode(value)).hexdigest()[:_KEY_CHARACTERS]


def _values(settings: ModelSettings) -> Iterator[tuple[str, Any, Any]]:
    """Each setting with its default."""
    for name in settings.__struct_fields__:
        yield name, getattr(settings, name), getattr(_DEFAULTS, name)


def with_claim_checked(model: Model) -> Model:
    """The model, or if its content is not what its store says it is, a model that cannot be loaded."""
    claimed = model.file.entry.sha256
    if claimed is None or model.sha256 in (None, claimed):
        return model
    error = ModelFileInvalid(
        f"{model.model_id} is damaged: its file has another SHA-256 than its name in the store says; "
        f"let {model.file.entry.source} download it again"
    )
    return msgspec.structs.replace(
        model, error=error, info=None, kv_cache=None, estimate=None, pairing=UNPAIRED
    )


def with_digest_before(now: Model, before: Model | None) -> Model:
    """The model after a scan, with its earlier digest if its files may have been touched only."""
    if before is None or now.sha256 is not None or now.info is None or now.fingerprint != before.fingerprint:
        return now
    return msgspec.structs.replace(now, sha256_before=before.sha256 or before.sha256_before)


def has_changed(before: Model, now: Model) -> bool:
    """Whether a scan found other content, another projector or another state.

    False also while that is not known yet.
    """
    if now.projector != before.projector:
        return True
    if now.sha256_before is not None:
        return False
    return now.sha256 is None or now.sha256 != (before.sha256 or before.sha256_before)


class Changes(msgspec.Struct, frozen=True, kw_only=True):
    """The ids of models that a scan found added, removed, or changed in content or state."""

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    touched: tuple[str, ...] = ()
    """Those whose files must be read to know whether they have changed: see `Catalogue.digest`."""

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed or self.touched)


def changes_between(
    before: Mapping[str, Model],
    now: Mapping[str, Model],
    fresh: Mapping[str, Model],
    *,
    rewritten: Collection[str],
    dropped: Sequence[str],
) -> Changes:
    """What a scan changed. `fresh` are the models that it inspected, `dropped` ids that lost their file.

    A model counts once its file is settled; of `rewritten` ones the file is being overwritten.
    """
    settled = {id for id, model in before.items() if model.settled}
    again = [id for id in fresh if id in settled]
    gone = [id for id in (*before, *dropped) if id not in now and (id in settled or id not in before)]
    back = [id for id, model in now.items() if id in settled and before[id].outage and not model.outage]
    unread = [id for id in back if now[id].info is not None and now[id].sha256 is None]
    touched = [id for id in again if fresh[id].sha256_before is not None]
    return Changes(
        added=tuple(id for id in now if id in fresh and id not in settled),
        removed=tuple(dict.fromkeys(gone)),
        touched=tuple(dict.fromkeys(touched + unread)),
        changed=(*(id for id in again if has_changed(before[id], fresh[id])), *rewritten),
    )
