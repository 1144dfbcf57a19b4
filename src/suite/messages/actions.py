"""What clients send and what they get back: one request and one reply type an action.

A request is a JSON object; a field that the type does not have is ignored and named in the reply's
``warnings``. A reply has ``status: success`` and the fields of its type, or ``status: error`` with
``code`` and ``message``. Units stand in the names: ``_ms``, ``_bytes``, ``_tokens``; times are RFC 3339.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import Meta

from suite.messages.events import Outcome

Text: TypeAlias = Annotated[str, Meta(min_length=1)]
ModelId: TypeAlias = Annotated[str, Meta(min_length=1, description="The model's id or one of its aliases.")]
GenerationId: TypeAlias = Annotated[str, Meta(min_length=1, max_length=255)]
ConversationId: TypeAlias = Annotated[str, Meta(min_length=1, max_length=255)]


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What every request is."""


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """What every successful reply has."""

    status: Literal["success", "HEALTHY"] = "success"
    warnings: tuple[str, ...] = ()


class ErrorReply(msgspec.Struct, frozen=True, kw_only=True):
    """What every refused request gets; it also has the micro headers ``Nats-Service-Error`` and ``-Code``."""

    status: Literal["error"] = "error"
    code: str
    message: str
    event_id: str | None = None
    """Of ``unknown_outcome``: the event to ask about."""
    warnings: tuple[str, ...] = ()


# --- residency --------------------------------------------------------------------------------------------


class LoadModelRequest(Request, frozen=True, kw_only=True):
    """Load a model; a model that is loaded already answers at once."""

    model_id: ModelId
    wait: bool = True
    """False: answer when the load has begun."""
    stream: bool = False
    """True: send progress until the final reply."""


class LoadModelReply(Reply, frozen=True, kw_only=True):
    """The model is loaded, or with ``wait: false`` is being loaded."""

    model_id: str
    loaded: bool
    message: str
    seq: int
    """The event that says so: loaded, or load_started."""
    load_ms: float
    resident_bytes: int


class UnloadModelRequest(Request, frozen=True, kw_only=True):
    """Unload a model; unloading what is not loaded succeeds."""

    model_id: ModelId
    drain_ms: Annotated[int, Meta(ge=0, le=600_000)] = 30_000
    """How long running generations may go on before they are cancelled."""


class UnloadModelReply(Reply, frozen=True, kw_only=True):
    """The model's process is gone and its memory is back."""

    model_id: str
    unloaded: bool
    message: str
    seq: int | None
    freed_bytes: int


# --- generation -------------------------------------------------------------------------------------------


class ChatMessage(msgspec.Struct, frozen=True, kw_only=True):
    """One message of a chat."""

    role: Annotated[str, Meta(min_length=1, max_length=64)]
    content: str


class GenerateTextRequest(Request, frozen=True, kw_only=True):
    """Generate text; the model is loaded first if it is not.

    Give ``messages`` for a chat through the model's own template, or ``prompt`` for text that is
    continued as it stands. ``system_prompt`` becomes the first message, or stands before the prompt
    with an empty line between. ``conversation_id`` says whose tokens are likely still in memory; what is
    reused is decided by comparing tokens, so the whole prompt or chat is sent each time.
    """

    model_id: ModelId
    prompt: str | None = None
    messages: tuple[ChatMessage, ...] | None = None
    system_prompt: str | None = None
    max_tokens: Annotated[int, Meta(ge=1)] = 512
    temperature: Annotated[float, Meta(ge=0, le=10)] = 0.7
    """0 takes the likeliest token."""
    top_p: Annotated[float, Meta(gt=0, le=1)] = 0.95
    top_k: Annotated[int, Meta(ge=0)] = 40
    """0: no limit."""
    min_p: Annotated[float, Meta(ge=0, le=1)] = 0.05
    repeat_penalty: Annotated[float, Meta(gt=0, le=10)] = 1.0
    seed: Annotated[int, Meta(ge=0, lt=2**32)] | None = None
    """The same seed, model and prompt give the same text; none: a fresh one, told in the reply."""
    stop: str | Annotated[tuple[Text, ...], Meta(max_length=16)] = ()
    """Text before which the answer ends."""
    stream: bool = False
    """True: one message a chunk, then the final reply, then an empty message."""
    conversation_id: ConversationId | None = None
    generation_id: GenerationId | None = None
    """To cancel by; made by the service if left out. The same id within two minutes is counted once."""


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens of one generation. ``reused_tokens`` of the prompt's were in memory and not decoded again."""

    prompt_tokens: int
    reused_tokens: int
    completion_tokens: int


class Timings(msgspec.Struct, frozen=True, kw_only=True):
    """Where the time of one generation went, from the node's acceptance on."""

    queue_ms: float
    prompt_ms: float
    time_to_first_token_ms: float | None
    generation_ms: float
    tokens_per_second: float | None


class GenerateTextReply(Reply, frozen=True, kw_only=True):
    """The whole text and its figures; of a streamed generation too."""

    text: str
    model_id: str
    generation_id: str
    conversation_id: str | None
    using_kv_cache: bool
    """True when any token was reused."""
    finish_reason: Outcome
    seed: int
    usage: Usage
    timings: Timings
    seq: int
    """The ``usage.generated`` event of this generation."""


class CancelGenerationRequest(Request, frozen=True, kw_only=True):
    """End a generation early; its requester gets what there is, with ``finish_reason: cancelled``."""

    generation_id: GenerationId


class CancelGenerationReply(Reply, frozen=True, kw_only=True):
    """The generation was told to end."""

    generation_id: str
    cancelled: bool


# --- status -----------------------------------------------------------------------------------------------

ModelState: TypeAlias = Literal["unloaded", "loading", "loaded", "unloading", "invalid"]


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
    file_name: str
    file_bytes: int
    sha256: str | None
    """None until the file has been read through once."""
    architecture: str | None
    parameters: int | None
    quantization: str | None
    trained_context_tokens: int | None
    context_tokens: int
    gpu_layers: int
    threads: int
    idle_timeout_seconds: float
    has_chat_template: bool
    estimate: MemoryEstimate | None
    loaded: bool
    state: ModelState
    error: str | None
    """Why the file cannot be loaded, or why the last load failed."""
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
    """It is; the figures are of the node that answered, since its start."""

    status: Literal["success", "HEALTHY"] = "HEALTHY"
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


class GetStatsRequest(Request, frozen=True, kw_only=True):
    """Counts and sizes of the node that answers, since its start."""


class GetStatsReply(Reply, frozen=True, kw_only=True):
    """Counts since the node's start, and its memory now."""

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
