"""What there is and how it does: models, health, figures."""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from suite.messages.actions.base import ModelId, Reply, Request

ModelStatus: TypeAlias = Literal["unloaded", "loading", "loaded", "unloading", "invalid"]


class MemoryEstimate(msgspec.Struct, frozen=True, kw_only=True):
    """What a model will need, from its file and settings alone."""

    weights_bytes: int
    kv_bytes: int
    compute_bytes: int

    @property
    def total_bytes(self) -> int:
        """All of it."""
        return self.weights_bytes + self.kv_bytes + self.compute_bytes


class InstanceInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A model's process on this node."""

    node: str
    instance_id: str
    pid: int | None
    resident_bytes: int
    """Measured when it was loaded; while it loads, 0."""
    reserved_bytes: int
    """What it counts against the memory limit."""
    load_progress: float
    """0 to 1."""
    load_ms: float | None
    running: int
    """Generations that run or wait in it."""
    loaded_at: str | None
    last_used_at: str | None
    idle_ms: float


class ModelInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One model of the catalogue, and its instance when it has one."""

    model_id: str
    display_name: str
    aliases: tuple[str, ...]
    capabilities: tuple[str, ...]
    model_path: str
    """Its file; of a split model the first one."""
    file_bytes: int
    sha256: str | None
    """None until the file has been read through once."""
    architecture: str | None
    parameters: int | None
    quantization: str | None
    trained_context_tokens: int | None
    n_ctx: int
    """The context that it is loaded with, in tokens."""
    n_gpu_layers: int
    n_threads: int
    serving_method: Literal["gguf_direct"] = "gguf_direct"
    priority: int | str
    idle_timeout_seconds: float
    has_chat_template: bool
    estimate: MemoryEstimate | None
    estimated_vram_mb: int
    """The whole of the estimate, in units of 2**20 bytes; 0 for a file that cannot be loaded."""
    loaded: bool
    status: ModelStatus
    error: str | None
    """Why the file cannot be loaded, or why the last load failed."""
    last_used: str | None
    """By this node's instance, or as the usage in the log says."""
    idle_time: float | None
    """Seconds since then; None if it was never used."""
    instance: InstanceInfo | None


class ListModelsRequest(Request, frozen=True, kw_only=True):
    """All models of the catalogue."""


class ListModelsReply(Reply, frozen=True, kw_only=True):
    """The catalogue, by id."""

    models: tuple[ModelInfo, ...]


class GetModelStatusRequest(Request, frozen=True, kw_only=True):
    """One model, or all as a map."""

    model_id: ModelId | None = None


class GetModelStatusReply(Reply, frozen=True, kw_only=True):
    """``model`` when an id was given, else ``models`` by id."""

    model: ModelInfo | None = None
    models: dict[str, ModelInfo] | None = None


class HealthCheckRequest(Request, frozen=True, kw_only=True):
    """Is the service well?"""


class HealthCheckReply(Reply, frozen=True, kw_only=True):
    """How the node is that answered; its figures are since its start."""

    status: Literal["success", "HEALTHY", "degraded"] = "HEALTHY"
    problems: tuple[str, ...] = ()
    """Why it is degraded, and what to do."""
    agent: Literal["ModelManagerSuite"] = "ModelManagerSuite"
    node: str
    version: str
    uptime: float
    """Seconds."""
    timestamp: str
    """``YYYY-MM-DD HH:MM:SS``, UTC."""
    models_loaded: int
    models_tracked: int
    commands_processed: int
    foreign_messages: int = 0
    """Messages in the log that are no events of the suite; they are skipped, and the status stays."""
    first_foreign_message: str | None = None
    """Where the first of them stands, and why it is none."""


class GetStatsRequest(Request, frozen=True, kw_only=True):
    """Counts and sizes of the node that answers, since its start."""


class ProjectionInfo(msgspec.Struct, frozen=True, kw_only=True):
    """How far a read model is."""

    name: str
    seq: int
    """Every event up to here is in it."""
    lag_events: int
    """Events that wait to be folded, as the log last told."""
    rebuilding: bool
    problem: str | None


class GetLogEndRequest(Request, frozen=True, kw_only=True):
    """How far does the log go?"""


class GetLogEndReply(Reply, frozen=True, kw_only=True):
    """The end of the log, every event counted that was acknowledged before."""

    last_seq: int
    """The sequence of the newest event; 0: there is none."""


class OldStats(msgspec.Struct, frozen=True, kw_only=True):
    """Counts under the names that the older services had.

    Those that may be null are from the log, so they survive a restart; null: their read model cannot be
    read at the moment.
    """

    performance_logs: int | None
    trust_score_updates: int | None
    models_tracked: int
    """Now."""
    predictions_made: int
    """Since the node's start."""
    models_loaded: int | None
    models_unloaded: int | None


class GetStatsReply(Reply, frozen=True, kw_only=True):
    """Counts since the node's start, its memory now, and in ``metrics`` what the older services counted."""

    node: str
    epoch: int
    """The sequence of the node's started event."""
    uptime_ms: float
    models_tracked: int
    models_loaded: int
    commands_processed: int
    loads: int
    unloads: int
    crashes: int
    generations: int
    generations_running: int
    prompt_tokens: int
    reused_tokens: int
    completion_tokens: int
    memory_limit_bytes: int
    memory_reserved_bytes: int
    last_seq: int
    """The newest event of its own or of its instances that this node knows of."""
    metrics: OldStats
    projections: tuple[ProjectionInfo, ...]
