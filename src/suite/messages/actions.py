"""What clients send and what they get back: one request and one reply type an action.

A request is a JSON object; a field that the type does not have is ignored and named in the reply's
``warnings``. A reply has ``status: success`` and the fields of its type, or ``status: error`` with
``code`` and ``message``. Units stand in the names: ``_ms``, ``_bytes``, ``_tokens``; times are RFC 3339.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import Meta

from suite.messages.events import Outcome, Severity
from suite.messages.logprobs import TokenLogprobs

Text: TypeAlias = Annotated[str, Meta(min_length=1)]
ModelId: TypeAlias = Annotated[str, Meta(min_length=1, description="The model's id or one of its aliases.")]
GenerationId: TypeAlias = Annotated[str, Meta(min_length=1, max_length=255)]
ConversationId: TypeAlias = Annotated[str, Meta(min_length=1, max_length=255)]
Name: TypeAlias = Annotated[str, Meta(min_length=1, max_length=255)]
EntryId: TypeAlias = Annotated[str, Meta(min_length=1, max_length=200)]
"""What a client calls the thing that it logs: the same id is stored once."""
Moment: TypeAlias = Annotated[
    str | float, Meta(description="A time: RFC 3339, `YYYY-MM-DD HH:MM:SS` in UTC, or seconds since 1970.")
]
Limit: TypeAlias = Annotated[int, Meta(ge=1, le=1000)]
Sequence: TypeAlias = Annotated[int, Meta(ge=0)]


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What every request is."""


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """What every successful reply has."""

    status: Literal["success", "HEALTHY", "degraded"] = "success"
    warnings: tuple[str, ...] = ()


class Query(Request, frozen=True, kw_only=True):
    """A request that is answered from a read model."""

    min_seq: Sequence = 0
    """Answer only when this event is in the read model: what a write replied as ``seq``."""


class Page(Query, frozen=True, kw_only=True):
    """A query for rows, the newest first."""

    since: Moment | None = None
    until: Moment | None = None
    """Exclusive."""
    limit: Limit = 100
    cursor: Annotated[str, Meta(max_length=200)] | None = None
    """``next_cursor`` of the page before."""


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


class FunctionCall(msgspec.Struct, frozen=True, kw_only=True):
    """Which function the model wants called."""

    name: Name
    arguments: str
    """A JSON object as text, as the model wrote it: check it before it is used."""


class ToolCall(msgspec.Struct, frozen=True, kw_only=True):
    """A call that the model asks for; answer it with a message of role ``tool``."""

    id: Annotated[str, Meta(min_length=1, max_length=200)]
    type: Literal["function"] = "function"
    function: FunctionCall


class ChatMessage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One message of a chat."""

    role: Annotated[str, Meta(min_length=1, max_length=64)]
    """``system``, ``user``, ``assistant``, ``tool``, and what else the model's template knows."""
    content: str | None = None
    """May be left out where there are ``tool_calls``."""
    tool_calls: Annotated[tuple[ToolCall, ...], Meta(max_length=128)] | None = None
    """Of an assistant's message: the calls that it asked for."""
    tool_call_id: Annotated[str, Meta(max_length=200)] | None = None
    """Of a tool's message: the call that it answers."""
    name: Name | None = None
    """Of a tool's message: the function that was called."""

    def __post_init__(self) -> None:
        if self.content is None and not self.tool_calls:
            raise ValueError("content is missing: send it, or tool_calls")


class Function(msgspec.Struct, frozen=True, kw_only=True):
    """A function that the model may ask to have called."""

    name: Annotated[str, Meta(min_length=1, max_length=128)]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    """A JSON schema of its arguments, an object."""


class Tool(msgspec.Struct, frozen=True, kw_only=True):
    """Something that the model may use."""

    type: Literal["function"] = "function"
    function: Function


class SchemaFormat(msgspec.Struct, frozen=True, kw_only=True):
    """The ``json_schema`` of a response format, as OpenAI's API has it."""

    schema: dict[str, Any] | None = None
    name: str | None = None
    strict: bool | None = None


class ResponseFormat(msgspec.Struct, frozen=True, kw_only=True):
    """What the answer has to be: any text, any JSON object, or JSON that follows a schema."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: SchemaFormat | None = None
    schema: dict[str, Any] | None = None
    """The same without the object around it."""


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
    tools: Annotated[tuple[Tool, ...], Meta(max_length=128)] = ()
    """What the model may call, told by its chat template; refused where the template knows of no tools."""
    truncate: Literal["left"] | None = None
    """What to do with a prompt that is longer than the context: None refuses it.

    ``left`` cuts it at its beginning, so far that the answer has room too: ``max_tokens``, but at most a
    quarter of the context. Of a chat the oldest turns go first, from one user's message to the next, and
    messages before the first user's stay.
    """
    system_prompt: str | None = None
    max_tokens: Annotated[int, Meta(ge=1)] = 512
    temperature: Annotated[float, Meta(ge=0, le=10)] = 0.7
    """0 takes the likeliest token."""
    top_p: Annotated[float, Meta(gt=0, le=1)] = 0.95
    top_k: Annotated[int, Meta(ge=0)] = 40
    """0: no limit."""
    min_p: Annotated[float, Meta(ge=0, le=1)] = 0.05
    typical_p: Annotated[float, Meta(gt=0, le=1)] = 1.0
    repeat_penalty: Annotated[float, Meta(gt=0, le=10)] = 1.0
    """This and the next two look 64 tokens back, into the prompt too."""
    presence_penalty: Annotated[float, Meta(ge=-2, le=2)] = 0.0
    frequency_penalty: Annotated[float, Meta(ge=-2, le=2)] = 0.0
    logit_bias: Annotated[dict[str, Annotated[float, Meta(ge=-100, le=100)]], Meta(max_length=1000)] = {}
    """Token ids of the model, as text, to what is added to their logits."""
    logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    """Tell of each token how likely it was, and of so many others that were likely in its place."""
    grammar: Annotated[str, Meta(min_length=1, max_length=65_536)] | None = None
    """GBNF, llama.cpp's form of grammars, that the answer follows. At most one of this and the next two."""
    json_schema: dict[str, Any] | None = None
    """A JSON schema that the answer follows; warnings name what of it cannot be enforced."""
    response_format: ResponseFormat | None = None
    seed: Annotated[int, Meta(ge=0, lt=2**32)] | None = None
    """The same seed, model and prompt give the same text; none: a fresh one, told in the reply."""
    stop: str | Annotated[tuple[Text, ...], Meta(max_length=16)] = ()
    """Text before which the answer ends."""
    stream: bool = False
    """True: one message a chunk, then the final reply, then an empty message."""
    conversation_id: ConversationId | None = None
    continue_: bool = msgspec.field(default=False, name="continue")
    """True: the prompt or messages are the new turn only, and go on after all that the conversation holds;
    refused with ``conversation_gone`` when its tokens are no longer kept. An answer that ``max_tokens`` cut
    is held without its last token."""
    priority: Annotated[int, Meta(ge=-100, le=100)] = 0
    """Higher goes first where generations wait for a slot."""
    deadline_ms: Annotated[int, Meta(ge=1, le=86_400_000)] | None = None
    """From its acceptance by the model on: what there is by then is the answer (``deadline``)."""
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
    """What was generated; without the calls, if ``tool_calls`` has them. Chunks show calls as written."""
    tool_calls: tuple[ToolCall, ...] | None = None
    """The calls that the model asks for, if ``tools`` were sent; what cannot be read as one stays text."""
    truncated_tokens: int = 0
    """Tokens of the prompt that ``truncate`` has cut."""
    model_id: str
    generation_id: str
    conversation_id: str | None
    using_kv_cache: bool
    """True when any token was reused."""
    finish_reason: Outcome
    seed: int
    logprobs: tuple[TokenLogprobs, ...] | None = None
    """Of every token of the text, if they were asked for."""
    usage: Usage
    timings: Timings
    seq: int
    """The ``usage.generated`` event of this generation."""


class EmbedRequest(Request, frozen=True, kw_only=True):
    """Turn texts into vectors; the model is loaded first if it is not."""

    model_id: ModelId
    input: Text | Annotated[tuple[Text, ...], Meta(min_length=1, max_length=256)]
    """One text or several; each has to fit into the model's context, at most 2048 tokens for a model that
    was not made for embeddings."""
    normalize: bool = True
    """True: vectors of length 1, so that the dot product of two is their cosine."""


class EmbedReply(Reply, frozen=True, kw_only=True):
    """A vector for each text, in their order."""

    model_id: str
    embeddings: tuple[tuple[float, ...], ...]
    dimensions: int
    usage: Usage


class CancelGenerationRequest(Request, frozen=True, kw_only=True):
    """End a generation early; its requester gets what there is, with ``finish_reason: cancelled``."""

    generation_id: GenerationId


class CancelGenerationReply(Reply, frozen=True, kw_only=True):
    """The generation was told to end."""

    generation_id: str
    cancelled: bool


class ClearKvCacheRequest(Request, frozen=True, kw_only=True):
    """Forget tokens that the loaded models of the node that answers keep for reuse.

    One conversation's, one model's, both together, or all. It waits for no generation: a conversation that
    generates goes on unharmed and is forgotten when that ends. What is not loaded has nothing to clear.
    """

    model_id: ModelId | None = None
    conversation_id: ConversationId | None = None


class ClearKvCacheReply(Reply, frozen=True, kw_only=True):
    """No generation that begins from now on reuses any of these tokens."""

    message: str
    cleared_conversations: int
    """Counted in each model; prompts without a ``conversation_id`` count too."""
    cleared_tokens: int
    """Of a conversation that generates, those it held at that moment."""


# --- usage ------------------------------------------------------------------------------------------------


class RecordUsageRequest(Request, frozen=True, kw_only=True):
    """Record that a model was used elsewhere; the model need not be known."""

    model_id: Name
    usage_type: Name = "inference"
    conversation_id: ConversationId | None = None


class RecordUsageReply(Reply, frozen=True, kw_only=True):
    """The usage is in the log."""

    message: str
    seq: int


UsageKey: TypeAlias = Literal["model", "hour", "day", "conversation", "usage_type"]


class UsageRequest(Query, frozen=True, kw_only=True):
    """How much was used: every generation and every recorded usage, counted by these keys."""

    model_id: ModelId | None = None
    conversation_id: ConversationId | None = None
    since: Moment | None = None
    until: Moment | None = None
    group_by: tuple[UsageKey, ...] = ("model",)
    limit: Limit = 100


class UsageCount(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The uses of one group; a key that was not asked for is left out."""

    model_id: str | None = None
    start: str | None = None
    """Of the hour or day, in UTC."""
    conversation_id: str | None = None
    usage_type: str | None = None
    """``generation`` for those that the service ran itself."""
    uses: int
    prompt_tokens: int
    reused_tokens: int
    completion_tokens: int
    generation_ms: float
    last_used_at: str


class UsageReply(Reply, frozen=True, kw_only=True):
    """The groups, the latest hour or day first, then the most used."""

    usage: tuple[UsageCount, ...]


# --- evaluation -------------------------------------------------------------------------------------------


class LogPerformanceMetricRequest(Request, frozen=True, kw_only=True):
    """Log one sample of a metric. The same ``metric_id`` again is stored once; with other content refused."""

    agent_name: Name
    metric_name: Name
    value: float
    context: str | dict[str, Any] | list[Any] | None = None
    metric_id: EntryId | None = None
    timestamp: Moment | None = None


class LogPerformanceMetricReply(Reply, frozen=True, kw_only=True):
    """The sample is in the log."""

    message: str
    metric_id: str
    seq: int


class GetPerformanceMetricsRequest(Page, frozen=True, kw_only=True):
    """The samples of an agent, of a metric, or all."""

    agent_name: Name | None = None
    metric_name: Name | None = None


class PerformanceMetric(msgspec.Struct, frozen=True, kw_only=True):
    """One sample."""

    metric_id: str
    agent_name: str
    metric_name: str
    value: float
    timestamp: str
    context: str | None


class GetPerformanceMetricsReply(Reply, frozen=True, kw_only=True):
    """A page of samples, the newest first; ``next_cursor`` is None on the last one."""

    metrics: tuple[PerformanceMetric, ...]
    next_cursor: str | None


class SummaryRequest(Query, frozen=True, kw_only=True):
    """What the samples of a metric come to, over a window that is widened to whole minutes."""

    metric_name: Name
    agent_name: Name | None = None
    since: Moment | None = None
    until: Moment | None = None


class MetricSummary(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of one metric. Percentiles are within ``relative_error`` of a sample; the rest is exact."""

    agent_name: str | None
    """None: of all agents together."""
    count: int
    mean: float
    min: float
    max: float
    p50: float
    p95: float
    p99: float


class SummaryReply(Reply, frozen=True, kw_only=True):
    """The figures of all agents together, None if there is no sample, and of each."""

    metric_name: str
    since: str | None
    until: str | None
    """The window that was counted, whole minutes; None: without a limit."""
    relative_error: float
    total: MetricSummary | None
    by_agent: tuple[MetricSummary, ...]


class LogModelEvaluationRequest(Request, frozen=True, kw_only=True):
    """Log how a model did. The same ``evaluation_id`` again is stored once; with other content refused."""

    model_name: Name
    cycle_id: Name
    trust_score: Annotated[float, Meta(ge=0, le=1)]
    accuracy: float | None = None
    f1_score: float | None = None
    avg_latency_ms: Annotated[float, Meta(ge=0)] = 0.0
    """0: not measured."""
    comparison_data: str | dict[str, Any] | list[Any] | None = None
    evaluation_id: EntryId | None = None
    evaluation_timestamp: Moment | None = None


class LogModelEvaluationReply(Reply, frozen=True, kw_only=True):
    """The evaluation is in the log."""

    message: str
    evaluation_id: str
    seq: int


class GetModelEvaluationScoresRequest(Page, frozen=True, kw_only=True):
    """The evaluations of a model, of a cycle, or all; what was retracted is not among them."""

    model_name: Name | None = None
    cycle_id: Name | None = None


class ModelEvaluation(msgspec.Struct, frozen=True, kw_only=True):
    """One evaluation."""

    evaluation_id: str
    model_name: str
    cycle_id: str
    trust_score: float
    accuracy: float | None
    f1_score: float | None
    avg_latency_ms: float
    evaluation_timestamp: str
    comparison_data: str | None


class GetModelEvaluationScoresReply(Reply, frozen=True, kw_only=True):
    """A page of evaluations, the newest first; ``next_cursor`` is None on the last one."""

    evaluations: tuple[ModelEvaluation, ...]
    next_cursor: str | None


class RetractModelEvaluationRequest(Request, frozen=True, kw_only=True):
    """Take an evaluation back: it was wrong. Retracting it again succeeds."""

    evaluation_id: EntryId
    reason: Annotated[str, Meta(max_length=1000)] | None = None


class RetractModelEvaluationReply(Reply, frozen=True, kw_only=True):
    """The retraction is in the log."""

    message: str
    evaluation_id: str
    model_name: str
    retracted: bool
    seq: int


class CompareModelsRequest(Query, frozen=True, kw_only=True):
    """Models side by side; all that were evaluated or have crashed when none is named."""

    model_names: Annotated[tuple[Name, ...], Meta(max_length=1000)] = ()


class Scores(msgspec.Struct, frozen=True, kw_only=True):
    """How a model stands; means over the evaluations of one cycle, None where there is none."""

    trust: float | None
    """The model's trust, from all that is known (ADR 11)."""
    trust_score: float | None
    """What its evaluators gave it in the cycle."""
    accuracy: float | None
    f1_score: float | None
    avg_latency_ms: float | None


class ModelComparison(msgspec.Struct, frozen=True, kw_only=True):
    """One model in its latest cycle, and the change since the cycle before."""

    model_name: str
    cycle_id: str | None
    previous_cycle_id: str | None
    evaluations: int
    crashes: int
    scores: Scores
    change: Scores
    """Now minus then; None where there is nothing to compare."""


class CompareModelsReply(Reply, frozen=True, kw_only=True):
    """The models, the most trusted first."""

    models: tuple[ModelComparison, ...]


# --- prediction -------------------------------------------------------------------------------------------


class PredictModelsRequest(Query, frozen=True, kw_only=True):
    """Which models are likely to be used next?"""

    limit: Annotated[int, Meta(ge=1, le=100)] = 3


class PredictModelsReply(Reply, frozen=True, kw_only=True):
    """The likeliest first; fewer when fewer were used."""

    predicted_models: tuple[str, ...]
    policy: str


class PreloadModelsRequest(Request, frozen=True, kw_only=True):
    """Load models before they are needed."""

    model_ids: Annotated[tuple[ModelId, ...], Meta(min_length=1, max_length=100)]


class PreloadOutcome(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of one model."""

    loaded: bool
    message: str
    code: str | None = None
    """Of the error, if it could not be loaded."""
    seq: int | None = None


class PreloadModelsReply(Reply, frozen=True, kw_only=True):
    """The outcome of each model, by the id that was sent."""

    message: str
    results: dict[str, PreloadOutcome]


class SelectModelRequest(Query, frozen=True, kw_only=True):
    """Which model should do this? One that is loaded rather than one that is not, then the most trusted."""

    capability: Name | None = None
    """One of ``capabilities`` in list_models; None: any."""


class SelectModelReply(Reply, frozen=True, kw_only=True):
    """The choice, and what came after it."""

    model_id: str
    loaded: bool
    trust: float | None
    """None: nothing is known of it."""
    others: tuple[str, ...]


# --- read models ------------------------------------------------------------------------------------------


class GetErrorsRequest(Page, frozen=True, kw_only=True):
    """What went wrong, the newest first: reported errors, failed loads, crashes, lost nodes."""

    severity: Severity | None = None
    model_id: ModelId | None = None


class ErrorEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One error."""

    seq: int
    error_type: str
    message: str
    severity: Severity
    node: str
    model_id: str | None
    timestamp: str


class GetErrorsReply(Reply, frozen=True, kw_only=True):
    """A page of errors; ``next_cursor`` is None on the last one."""

    errors: tuple[ErrorEntry, ...]
    next_cursor: str | None


class RebuildProjectionRequest(Request, frozen=True, kw_only=True):
    """Fold a read model anew from the log beside the live one, then put it in its place."""

    name: Literal["catalogue", "usage", "evaluation", "errors"]
    stream: bool = False
    """True: send progress until the final reply."""


class RebuildProjectionReply(Reply, frozen=True, kw_only=True):
    """The new read model answers."""

    name: str
    events: int
    seconds: float
    seq: int
    """Up to where it is folded."""


class GetFleetRequest(Query, frozen=True, kw_only=True):
    """Which models are where in the whole fleet, on nodes that are down too?"""


class FleetFile(msgspec.Struct, frozen=True, kw_only=True):
    """A model's file on one node, as it was registered last."""

    node: str
    node_up: bool
    """False: the node stopped or was lost."""
    file_name: str
    file_bytes: int
    sha256: str
    architecture: str
    parameters: int
    quantization: str
    trained_context_tokens: int
    registered_at: str


class FleetModel(msgspec.Struct, frozen=True, kw_only=True):
    """One model, where it is, and how its loads went on all nodes ever."""

    model_id: str
    files: tuple[FleetFile, ...]
    """By node; none while a node runs it whose file is not registered yet."""
    loaded_on: tuple[str, ...]
    """The nodes that have it loaded."""
    loads: int
    load_failures: int
    """Loads that somebody ended are not among them."""
    crashes: int
    mean_load_ms: float | None


class GetFleetReply(Reply, frozen=True, kw_only=True):
    """The models, by id."""

    models: tuple[FleetModel, ...]


# --- status -----------------------------------------------------------------------------------------------

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
