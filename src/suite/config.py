"""Settings: from a TOML file, environment variables over it, and command-line flags over both.

``suite.toml``::

    memory_limit_gb = 12
    models_directories = ["models"]

    [models."smollm2"]
    context_length = 4096
    aliases = ["small"]

Each top-level value has an environment variable: ``SUITE_MEMORY_LIMIT_GB=12``; those of ``[nats]`` are
``SUITE_NATS_URL`` and so on. Lists are separated as the PATH is.
"""

from __future__ import annotations

import os
import socket
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias
from urllib.parse import unquote, urlsplit

import msgspec
import platformdirs
from msgspec import Meta

from suite.errors import InvalidConfiguration, InvalidRequest
from suite.messages.actor import NatsAccess
from suite.messages.subjects import escape

Tracing: TypeAlias = Literal["off", "console", "otlp"]
Count: TypeAlias = Annotated[int, Meta(ge=1)]


def default_data_dir() -> Path:
    """Where a node keeps its log, and where clients look for it, unless told otherwise."""
    return Path(platformdirs.user_data_path("model-manager-suite"))


class ModelSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How one model is to be loaded; what is left out is chosen from its file and the machine."""

    display_name: str | None = None
    model_path: str | None = None
    """Relative to a model directory, for a file whose name is not the id."""
    context_length: Count | None = None
    """Tokens; left out, what the model was trained for, at most 4096."""
    n_gpu_layers: Annotated[int, Meta(ge=-1)] = -1
    """-1: all."""
    n_threads: Count | None = None
    batch_size: Count = 512
    slots: Annotated[int, Meta(ge=1, le=64)] = 4
    """How many conversations keep their tokens in memory."""
    idle_timeout_seconds: Annotated[float, Meta(ge=0)] | None = None
    """0: never unloaded for idleness; left out: the service's own."""
    capabilities: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    enabled: bool = True


class NatsSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An existing NATS to use; without a URL the node starts a nats-server of its own."""

    url: str | None = None
    user: str | None = None
    password: str | None = None
    credentials: str | None = None
    """Path of a NATS credentials file."""
    inbox_prefix: str = "_INBOX"
    """Where this user may receive replies."""
    port: Annotated[int, Meta(ge=0, le=65535)] = 0
    """Of the node's own server; 0: a free one."""


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that a node is told from outside."""

    node: str = msgspec.field(default_factory=socket.gethostname)
    data_dir: Path = msgspec.field(default_factory=default_data_dir)
    models_directories: tuple[Path, ...] = (Path("models"),)
    subject_root: Annotated[str, Meta(pattern="^[A-Za-z0-9_-]+$")] = "suite"
    memory_limit_gb: Annotated[float, Meta(gt=0, le=1_000_000)] | None = None
    """Left out: four fifths of the machine's memory. A gigabyte here is 2**30 bytes."""
    idle_timeout_seconds: Annotated[float, Meta(ge=0)] = 300.0
    drain_seconds: Annotated[float, Meta(ge=0)] = 10.0
    """How long a stop waits for running generations."""
    queue_limit: Count = 64
    """Generations that may wait in one model before `overloaded`."""
    trace: Tracing = "off"
    nats: NatsSettings = NatsSettings()
    models: dict[str, ModelSettings] = {}

    def for_model(self, model_id: str) -> ModelSettings:
        """The settings of one model."""
        return self.models.get(model_id, ModelSettings())


class ConnectionFile(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """``connection.json``: how to reach a node, in its data directory, readable by its owner only."""

    url: str
    user: str | None = None
    password: str | None = None
    inbox_prefix: str = "_INBOX"
    subject_root: str = "suite"
    node: str
    pid: int

    @staticmethod
    def path(data_dir: Path) -> Path:
        """Where the file lies."""
        return data_dir / "connection.json"

    @classmethod
    def read(cls, data_dir: Path) -> ConnectionFile:
        """The file of a node. Raises FileNotFoundError when none serves from there."""
        return msgspec.json.decode(cls.path(data_dir).read_bytes(), type=cls)

    def write(self, data_dir: Path) -> None:
        """Put the file in place at once and whole."""
        path = self.path(data_dir)
        new = path.with_suffix(".new")
        new.unlink(missing_ok=True)
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(self)))
        new.replace(path)

    @property
    def access(self) -> NatsAccess:
        """What a connection needs to know."""
        return NatsAccess(
            url=self.url, user=self.user, password=self.password, inbox_prefix=self.inbox_prefix
        )


Layer: TypeAlias = Mapping[str, Any]

_LISTS = {"models_directories"}


def load_settings(
    file: Path | None = None,
    *,
    environ: Mapping[str, str] = os.environ,
    flags: Layer | None = None,
) -> Settings:
    """The settings in force. Flags that are None count as not given.

    Raises InvalidConfiguration with the path to the value that is wrong.
    """
    merged: dict[str, Any] = {}
    for layer in (_from_file(file), _from_environment(environ), flags or {}):
        merged = _merge(merged, layer)
    try:
        settings = msgspec.convert(merged, Settings, strict=False, dec_hook=_decode)
        for model_id in settings.models:
            escape(model_id)
    except (msgspec.ValidationError, InvalidRequest) as error:
        raise InvalidConfiguration(f"the configuration is wrong: {error}") from None
    return msgspec.structs.replace(settings, nats=_without_secrets_in_url(settings.nats))


def split_url(url: str) -> tuple[str, str | None, str | None]:
    """An address of NATS without its credentials, and the user and password that stood in it."""
    parts = urlsplit(url if "://" in url else f"nats://{url}")
    bare = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    if not parts.username:
        return bare, None, None
    return bare, unquote(parts.username), unquote(parts.password or "")


def _without_secrets_in_url(nats: NatsSettings) -> NatsSettings:
    """The same access, with the credentials where nothing prints them."""
    if nats.url is None or "@" not in nats.url:
        return nats
    url, user, password = split_url(nats.url)
    return msgspec.structs.replace(nats, url=url, user=nats.user or user, password=nats.password or password)


def _from_file(file: Path | None) -> Layer:
    if file is None:
        return {}
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidConfiguration(f"{file} cannot be read as TOML: {error}") from None


def _from_environment(environ: Mapping[str, str]) -> Layer:
    top: dict[str, Any] = {}
    for name in (field.name for field in msgspec.structs.fields(Settings)):
        value = environ.get(f"SUITE_{name.upper()}")
        if value:
            top[name] = value.split(os.pathsep) if name in _LISTS else value
    nats = {
        field.name: environ[variable]
        for field in msgspec.structs.fields(NatsSettings)
        if environ.get(variable := f"SUITE_NATS_{field.name.upper()}")
    }
    return {name: value for name, value in top.items() if name not in ("nats", "models")} | (
        {"nats": nats} if nats else {}
    )


def _merge(below: Layer, above: Layer) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            merged[key] = _merge(merged[key], value)
        elif value is not None:
            merged[key] = value
    return merged


def _decode(kind: type, value: object) -> object:
    if kind is Path and isinstance(value, str | Path):
        return Path(value).expanduser()
    raise NotImplementedError
