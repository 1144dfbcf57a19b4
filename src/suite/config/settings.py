"""What a node can be told from outside, and what holds when it is not."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import msgspec
import platformdirs
from msgspec import Meta

_SECONDS_A_DAY = 86_400
_LARGEST = 2**31 - 1

Tracing: TypeAlias = Literal["off", "console", "otlp"]
Count: TypeAlias = Annotated[int, Meta(ge=1, le=_LARGEST)]
Port: TypeAlias = Annotated[int, Meta(ge=0, le=65535)]
"""0: a free one."""
# Every number has an upper limit, which infinity is over and NaN is not under.
Seconds: TypeAlias = Annotated[float, Meta(ge=0, le=1e9)]
Days: TypeAlias = Annotated[float, Meta(ge=0, le=36_500)]


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
    n_gpu_layers: Annotated[int, Meta(ge=-1, le=_LARGEST)] = -1
    """-1: all."""
    n_threads: Count | None = None
    batch_size: Count = 512
    """Tokens decoded at once at most; as many as there are slots in any case."""
    slots: Annotated[int, Meta(ge=1, le=64)] = 8
    """How many generations run at once, and conversations keep their tokens ready."""
    cache_tokens: Count | None = None
    """What all slots have room for together; left out, as much as they need within 128 MiB."""
    prompt_step_tokens: Count = 256
    """Of prompts, decoded in a step at most while answers run: less, and these stall less."""
    idle_timeout_seconds: Seconds | None = None
    """0: never unloaded for idleness; left out: the service's own."""
    capabilities: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    priority: Annotated[int, Meta(ge=-_LARGEST, le=_LARGEST)] | str = 0
    """Told to those who ask for the model's status; a number, or a word such as `high`."""
    chat_template: str | None = None
    """Used instead of the model's own, or where it has none: a Jinja template, or a file's path."""
    enabled: bool = True

    @property
    def batch_tokens(self) -> int:
        """Tokens decoded at once at most: llama.cpp aborts where not each slot has one."""
        return max(self.batch_size, self.slots)


class NatsSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An existing NATS to use; without a URL the node starts a nats-server of its own."""

    url: str | None = None
    user: str | None = None
    password: str | None = None
    credentials: str | None = None
    """Path of a NATS credentials file."""
    inbox_prefix: str = "_INBOX"
    """Where this user may receive replies."""
    port: Port = 0
    """Of the node's own server; 0: a free one."""


class LegacySettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where old clients are served over ZeroMQ, if `enable_backward_compatibility` is on."""

    host: str = "127.0.0.1"
    """The address to listen on; old clients give no credentials, so the default is this machine alone."""
    port: Port = 7011
    health_check_port: Port = 7111
    errors_port: Port = 7150
    """Where errors are published."""
    error_bus: str | None = None
    """ZeroMQ address of an error bus elsewhere, as `tcp://10.0.0.2:7150`, to use instead of `errors_port`."""


class SnapshotSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is kept of conversations that have no slot: their tokens and cache, for each model by itself.

    Snapshots hold what was said, as token ids: their files are private, and nothing is kept when it is off.
    """

    enabled: bool = True
    memory_mb: Annotated[int, Meta(ge=0, le=1 << 20)] = 256
    """In units of 2**20 bytes."""
    disk_mb: Annotated[int, Meta(ge=0, le=1 << 24)] = 1024
    """What survives the model's process; 0: nothing does."""
    max_conversations: Count = 50
    max_age_seconds: Seconds = 3600.0


class RetentionSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many days samples are kept, in the log and in the read models; 0: for ever. Facts stay."""

    metric_days: Days = 90.0
    usage_days: Days = 365.0
    error_days: Days = 90.0

    def seconds(self) -> Mapping[str, int]:
        """Whole seconds by aggregate, at least 1 where samples expire; 0: for ever."""
        days = {"metric": self.metric_days, "usage": self.usage_days, "error": self.error_days}
        # The server refuses a message TTL below a second.
        return {name: max(1, round(each * _SECONDS_A_DAY)) if each else 0 for name, each in days.items()}


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that a node is told from outside."""

    node: str = msgspec.field(default_factory=socket.gethostname)
    data_dir: Path = msgspec.field(default_factory=default_data_dir)
    models_directories: tuple[Path, ...] = (Path("models"),)
    """Also called `models_directory`."""
    subject_root: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]+\Z")] = "suite"
    memory_limit_gb: Annotated[float, Meta(gt=0, le=1_000_000)] | None = None
    """Left out: four fifths of the machine's memory. A gigabyte is 2**30 bytes.

    Also called `vram_limit_gb`.
    """
    idle_timeout_seconds: Seconds = 300.0
    drain_seconds: Seconds = 10.0
    """How long a stop waits for running generations."""
    queue_limit: Count = 64
    """Generations that may wait in one model before `overloaded`."""
    standby: bool = True
    """Whether a process stands ready for the next load, so that the load does not wait for its start.

    It takes about 40 MB, within the memory limit and only while no model needs them.
    """
    trace: Tracing = "off"
    sqlite_db_path: Path | None = None
    """The read model of metrics and evaluations; left out: projections/model_evaluation.db in `data_dir`."""
    enable_gguf_management: bool = True
    """Whether models are loaded and run here."""
    enable_model_evaluation: bool = True
    """Whether metrics and evaluations are logged and can be asked for."""
    enable_predictive_loading: bool = False
    """Whether models are loaded before they are asked for."""
    prediction_interval_seconds: Annotated[float, Meta(gt=0, le=1e9)] = 300.0
    """How often it is predicted which models are needed next."""
    enable_backward_compatibility: bool = False
    """Whether old clients are served, as `legacy` says."""
    dependencies: tuple[str, ...] = ()
    """Names of NATS micro services that this one needs."""
    wait_for_dependencies: bool = False
    """Whether the start waits until the dependencies answer."""
    dependency_timeout_seconds: Seconds = 60.0
    """How long it waits before it gives up."""
    nats: NatsSettings = NatsSettings()
    legacy: LegacySettings = LegacySettings()
    retention: RetentionSettings = RetentionSettings()
    snapshots: SnapshotSettings = SnapshotSettings()
    models: dict[str, ModelSettings] = {}

    def for_model(self, model_id: str) -> ModelSettings:
        """The settings of one model."""
        return self.models.get(model_id, ModelSettings())
