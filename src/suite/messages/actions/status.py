"""The state of models and of a node: catalogue, health, statistics."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta

from suite.messages.actions.base import AdapterChoice, FleetReply, Limit, ModelId, Reply, Request
from suite.messages.events import BreakerKind

Source: TypeAlias = Literal["directory", "huggingface", "lmstudio", "ollama"]
"""Where a model's file is: a directory of files, or the folder of another program."""
GenerationState: TypeAlias = Literal["loading", "waiting", "generating"]
KvCacheForm: TypeAlias = Literal["separate", "unified"]
"""separate: each slot has its own part of the KV cache; unified: all slots share it."""
ModelStatus: TypeAlias = Literal["unloaded", "loading", "loaded", "unloading", "invalid"]
FileState: TypeAlias = Annotated[
    Literal["present", "arriving", "incomplete", "unreachable", "gone"],
    Meta(
        description="arriving: still being copied; incomplete: a download that is not finished, or a part is "
        "missing; unreachable: its directory cannot be read at the moment; gone: deleted while it is loaded."
    ),
]


class MemoryEstimate(msgspec.Struct, frozen=True, kw_only=True):
    """The estimated memory of a model, from its file and settings alone."""

    weights_bytes: int
    kv_bytes: int
    compute_bytes: int

    @property
    def total_bytes(self) -> int:
        """The sum of all parts."""
        return self.weights_bytes + self.kv_bytes + self.compute_bytes


class MemoryInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A memory of a node, and who uses it, in bytes."""

    node: str = ""
    """The node that it belongs to; empty from older nodes."""
    name: str
    """``ram``, or a GPU: ``gpu0``."""
    limit_bytes: int
    """What all models together may have."""
    reserved_bytes: int
    """What those count for that are loaded or loading. Where no GPU is known, what llama.cpp has allocated
    on one counts for ``ram``."""
    measured_bytes: int
    """What the models' processes were measured to use, with their helpers, and with a process that stands
    ready for the next load. Pages of files count too. On a GPU, at least what llama.cpp has allocated
    there."""
    others_bytes: int | None = None
    """What other programs use of the machine, and this node itself beside its models; page cache does not
    count. Null: not known."""
    admissible_bytes: int
    """What all models together may have at the moment: the limit, or less where others leave less."""


class KvCacheInfo(msgspec.Struct, frozen=True, kw_only=True):
    """The KV cache of a model: the tokens of its conversations that need not be decoded again."""

    form: KvCacheForm
    slots: int
    """How many conversations have their tokens in it, and how many generations run at once."""
    tokens: int
    """How many tokens all slots together have room for."""


class InstanceInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A model's process on this node."""

    node: str
    instance_id: str
    pid: int | None
    sha256: str | None = None
    """The digest of the content that it has loaded; the file may have other content by now. None: unknown."""
    resident_bytes: int
    """Measured after loading; 0 while it loads."""
    reserved_bytes: int
    """The memory that it counts for, in all memories together."""
    gpus: dict[str, int] = {}
    """The part of it on each GPU, ``gpu0`` and so on, in bytes."""
    measured_bytes: int = 0
    """What its processes were measured to use last, with their helpers; pages of files count too."""
    file_bytes: int = 0
    """The part of that which are pages of files, above all mapped weights."""
    peak_bytes: int = 0
    """The most that its processes were measured to use."""
    load_progress: float
    """0 to 1."""
    load_ms: float | None
    running: int
    """The number of its running and waiting generations."""
    threads: int = 0
    """How many threads it computes with at this moment; busy models share the cores. 0: it is idle, or waits
    until others use fewer cores."""
    loaded_at: str | None
    last_used_at: str | None
    idle_ms: float


class GenerationInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A generation that a node has not finished. Prompts and texts are not told."""

    generation_id: str
    """What ``cancel_generation`` takes."""
    model_id: str
    state: GenerationState
    """``loading``: its model is not ready; ``waiting``: for a slot in it; ``generating``: it has one."""
    elapsed_ms: float
    """Since the node got the request."""
    completion_tokens: int | None
    """Tokens generated so far; null if the model's process does not say within half a second."""
    conversation_id: str | None
    client: str | None
    """How its requester calls itself, in the header ``Suite-Client``; null if it does not."""
    node: str = ""
    """The node that has it; empty from older nodes."""


class QuarantineInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Why a model is not loaded for now: it failed again and again."""

    until: str
    failures: int
    """How many times in a row it failed."""
    reason: str
    """How it failed the last time."""


class VariantInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What a name stands for that is a model with adapters, or an adapter of which no model is chosen yet."""

    base: str | None
    """The id of the model, which is loaded for it; null: a request has to say."""
    adapters: tuple[AdapterChoice, ...]
    """What it is computed with."""
    rank: int | None = None
    """Of an adapter's file: how much it can change."""
    trained_on: str | None = None
    """Of an adapter's file: the model that it was trained on, as its author calls it."""
    fits: tuple[str, ...] = ()
    """Of an adapter's file: the ids of the models that it can change."""


class ModelInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One model of the catalogue, with its instance if it has one.

    Where several nodes have it, what is not about all of them is that of a node that has it loaded, or else
    of the node that answers.
    """

    model_id: str
    display_name: str
    aliases: tuple[str, ...]
    """Those of the configuration, and those of the log that stand for it."""
    log_aliases: tuple[str, ...] = ()
    """Those of them that are the log's: a promotion may have them stand for another model at any time."""
    version: int | None = None
    """The version that it is at, by number. Null: the log does not know it yet."""
    capabilities: tuple[str, ...]
    model_path: str
    """The path of its file; of a split model, of the first part."""
    projector: str | None = None
    """The path of the projector (mmproj) by which it reads pictures; null: it reads none."""
    file_state: FileState = "present"
    """Whether its file is there and whole; the error says more."""
    file_bytes: int
    sha256: str | None
    """Null until the file has been read once."""
    architecture: str | None
    parameters: int | None
    quantization: str | None
    trained_context_tokens: int | None
    n_ctx: int
    """The context that it is loaded with, in tokens."""
    kv_cache: KvCacheInfo | None = None
    """The KV cache that it is loaded with; null for a model that has none or cannot be loaded."""
    draft_model: str | None = None
    """The model that guesses its next tokens and is loaded with it; null if there is none."""
    n_gpu_layers: int
    n_threads: int
    """The most threads that it computes with: those that are configured, or one for each core."""
    serving_method: Literal["gguf_direct"] = "gguf_direct"
    priority: int | str
    idle_timeout_seconds: float
    """After how many unused seconds it is unloaded; 0: never."""
    pinned: bool = False
    """Whether it is kept loaded on this node, or on one of those that were asked."""
    pinned_on: tuple[str, ...] = ()
    """The nodes that keep it loaded."""
    waiting: int = 0
    """How many requests wait until there is memory for it."""
    place: int | None = None
    """1: it is the next model to be loaded; null if nothing waits for it."""
    quarantine: QuarantineInfo | None = None
    """Until when it is not loaded on this node, and why; null if it may be. `release_model` ends that."""
    has_chat_template: bool
    estimate: MemoryEstimate | None
    need_bytes: int = 0
    """The memory that a load reserves: what its last loads were measured to need, or else the estimate. In
    all memories together."""
    need_gpus: dict[str, int] = {}
    """The part of it on each GPU, ``gpu0`` and so on, in bytes."""
    is_measured: bool = False
    """Whether ``need_bytes`` was measured."""
    estimated_vram_mb: int
    """The total estimate in MiB (2**20 bytes); 0 for a file that cannot be loaded."""
    loaded: bool
    status: ModelStatus
    error: str | None
    """Why the file cannot be loaded, or why the last load failed."""
    last_used: str | None
    """The last use on this node, or by the usage in the log if that is later."""
    idle_time: float | None
    """Seconds since the last use; null if it was never used."""
    instance: InstanceInfo | None
    instances: tuple[InstanceInfo, ...] = ()
    """Those of all nodes that were asked."""
    nodes: tuple[str, ...] = ()
    """The nodes that have it, of those that were asked."""
    settings: str = ""
    """A short digest of the settings that change how it loads: alike on nodes that load it alike."""
    source: Source = "directory"
    repository: str | None = None
    """Where the program of the ``source`` has it from, such as ``bartowski/Llama-3.2-1B-Instruct-GGUF``."""
    defaults: dict[str, Any] = {}
    """Values that its ``source`` has for fields of generate_text; used if a request does not have the field.

    ``system_prompt`` is only used for chats that have no system message.
    """
    variant: VariantInfo | None = None
    """Not null: it is a model with adapters. It is loaded where that model is, whose instances and memory
    stand there alone."""


class ModelsPage(Request, frozen=True, kw_only=True):
    """A query for models, sorted by id."""

    limit: Limit | None = None
    """The most models on a page; null: as many as fit into one message."""
    cursor: Annotated[str, Meta(max_length=400)] | None = None
    """``next_cursor`` of the previous page."""
    active: bool = False
    """True: only those that are loaded, loading, unloading or waited for, as the nodes have them where that
    is so."""


class ListModelsRequest(ModelsPage, frozen=True, kw_only=True):
    """List the models of the catalogue, and those that are loaded though their files are gone."""


class ListModelsReply(FleetReply, frozen=True, kw_only=True):
    """A page of models, sorted by id; ``next_cursor`` is null on the last page."""

    models: tuple[ModelInfo, ...]
    next_cursor: str | None = None


class GetModelStatusRequest(ModelsPage, frozen=True, kw_only=True):
    """Get the status of one model, or of all."""

    model_id: ModelId | None = None


class EvictionInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Who decides which models leave when another needs their memory."""

    policy: str
    """The policy in force."""
    follows: str = ""
    """The policy that `best_lately` follows now; empty for others."""
    instead_of: str = ""
    """The policy that was chosen and has failed; empty: the chosen one is in force."""
    last_seq: int
    """The newest event of the log that it has learned from; 0: none yet."""


class GetModelStatusReply(FleetReply, frozen=True, kw_only=True):
    """``model`` if an id was given, otherwise a page of ``models`` by id."""

    model: ModelInfo | None = None
    models: dict[str, ModelInfo] | None = None
    generations: tuple[GenerationInfo, ...] = ()
    """The unfinished generations of this model, or of all; the oldest first."""
    memories: tuple[MemoryInfo, ...] = ()
    """The memories of all nodes that were asked, first those of the node that answers."""
    eviction: EvictionInfo | None = None
    """Who decides on the node that answers which models leave; null from older nodes."""
    next_cursor: str | None = None


class HealthCheckRequest(Request, frozen=True, kw_only=True):
    """Check the health of the service."""


class LogServers(msgspec.Struct, frozen=True, kw_only=True):
    """The NATS servers that store the log, as its leader sees them, some seconds ago at most."""

    replicas: int
    """How many servers are to have a copy of it."""
    leader: str | None
    """None: a server that is alone, or one of a cluster that has lost its leader, which stores nothing."""
    current: tuple[str, ...] = ()
    """The servers that have all of it and answer, the leader first."""
    missing: tuple[str, ...] = ()
    """Those that cannot be reached or are catching up."""
    survives_loss: bool
    """Whether any one of these servers may be lost now, and events are still stored and none is gone."""


ConfinedPart: TypeAlias = Literal["privileges", "limits", "files", "network", "system_calls"]


class Confinement(msgspec.Struct, frozen=True, kw_only=True):
    """How processes of models are confined to what they need."""

    on: tuple[ConfinedPart, ...] = ()
    """privileges: they gain none, and have none of root's but those on files; limits: of memory, open files,
    the size of files, and threads; files: they open those only that they need; network: they connect to the
    ports of NATS only, and of the collector of traces; system_calls: they make none that they never need."""
    off: dict[ConfinedPart, str] = {}
    """What is not confined, and why."""


class BreakerInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A circuit breaker: something that is left alone for a while when it fails again and again."""

    node: str
    """The node that uses it."""
    kind: BreakerKind | Literal["model"]
    """A `model` is one that is quarantined; the events of the others are those of ``breaker``."""
    name: str
    state: Literal["closed", "open", "half_open"]
    """`open`: it is left alone; `half_open`: its next use is a trial; `closed`: it is used."""
    failures: int
    """How many times in a row it failed."""
    since: str
    """When it came into this state."""
    until: str | None = None
    """Until when it is left alone; null if it is not."""
    reason: str = ""
    """How it failed the last time."""


class NodeHealth(msgspec.Struct, frozen=True, kw_only=True):
    """The health of one node."""

    node: str
    status: Literal["HEALTHY", "degraded"]
    version: str
    uptime: float
    """Seconds."""
    models_loaded: int
    models_tracked: int
    confinement: Confinement | None = None
    """How the processes of its models are confined; null from older nodes."""
    cores: int = 0
    """How many cores its models share; 0 from older nodes."""


class HealthCheckReply(FleetReply, frozen=True, kw_only=True):
    """The health of all nodes, with counts since their start; it is degraded if one of them is or is missing.

    ``node``, ``version``, ``uptime`` and ``timestamp`` are those of the node that answers. A problem that not
    all nodes have begins with the names of those that have it.
    """

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
    """A model that several nodes have loaded counts for each of them."""
    models_tracked: int
    """How many models there are."""
    commands_processed: int
    foreign_messages: int = 0
    """Messages in the log that are no events of the suite; they are skipped, and the status stays."""
    first_foreign_message: str | None = None
    """Where the first of them stands, and why it is none."""
    nodes: tuple[str, ...] = ()
    """The nodes of the fleet that this one works with, and itself."""
    stopping: tuple[str, ...] = ()
    """The nodes that end what they have begun, and do not answer any more."""
    draining: tuple[str, ...] = ()
    """Those of them that take no new work: they are being drained, or they stop."""
    node_health: tuple[NodeHealth, ...] = ()
    """The health of each node that was asked, first of the one that answers."""
    fleet_models: int = 0
    """How many models all nodes of the fleet have together."""
    log_servers: LogServers | None = None
    """The servers that have the log; null before the node knows them."""
    breakers: tuple[BreakerInfo, ...] = ()
    """The circuit breakers of all nodes that are not closed. Only those of dependencies are problems too."""


class GetStatsRequest(Request, frozen=True, kw_only=True):
    """Get counts and sizes of the nodes, since their start."""


class ProjectionInfo(msgspec.Struct, frozen=True, kw_only=True):
    """The progress of a read model."""

    name: str
    seq: int
    """It includes all events up to this sequence."""
    lag_events: int
    """The number of events that it does not include yet, as last reported by the log."""
    rebuilding: bool
    problem: str | None


class GetLogEndRequest(Request, frozen=True, kw_only=True):
    """How far does the log go?"""


class GetLogEndReply(Reply, frozen=True, kw_only=True):
    """The end of the log, every event counted that was acknowledged before."""

    last_seq: int
    """The sequence of the newest event; 0: there is none."""


class OldStats(msgspec.Struct, frozen=True, kw_only=True):
    """Counts under the names of the older services.

    Those that may be null are from the log, so they survive a restart; they are null while their read model
    cannot be read.
    """

    performance_logs: int | None
    trust_score_updates: int | None
    models_tracked: int
    """The current number."""
    predictions_made: int
    """Since the node's start."""
    models_loaded: int | None
    models_unloaded: int | None


class NodeStats(msgspec.Struct, frozen=True, kw_only=True):
    """Counts of one node since its start, and its current memory."""

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
    """Of RAM."""
    memory_reserved_bytes: int
    """Of RAM."""


COUNTS: Final = (
    "commands_processed",
    "loads",
    "unloads",
    "crashes",
    "generations",
    "generations_running",
    "prompt_tokens",
    "reused_tokens",
    "completion_tokens",
)
"""What `NodeStats` counts since the start of a node."""


class GetStatsReply(FleetReply, frozen=True, kw_only=True):
    """Counts since the nodes' start, their current memory, and in ``metrics`` counts of the older services.

    Counts and sizes are sums over all nodes that were asked. ``node``, ``epoch``, ``uptime_ms``, ``metrics``
    and ``projections`` are those of the node that answers.
    """

    node: str
    epoch: int
    """The sequence of the node's started event."""
    uptime_ms: float
    models_tracked: int
    """How many models there are."""
    models_loaded: int
    """A model that several nodes have loaded counts for each of them."""
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
    """Of RAM."""
    memory_reserved_bytes: int
    """Of RAM."""
    memories: tuple[MemoryInfo, ...] = ()
    """RAM and each GPU of each node, with what was measured."""
    last_seq: int
    """The newest event that it knows."""
    metrics: OldStats
    projections: tuple[ProjectionInfo, ...]
    node_stats: tuple[NodeStats, ...] = ()
    """The counts of each node that was asked, first of the one that answers."""
    fleet_models: int = 0
    """How many models all nodes of the fleet have together."""
    breakers: tuple[BreakerInfo, ...] = ()
    """The circuit breakers of all nodes; of models only those that are not closed."""
