"""The facts in the log, in past tense. Each class is one version of one fact; none is changed or removed.

A new version is a new class, with an upcaster from the version before (`upcasters.py`)::

    @event("instance", "loaded")            # type name suite.instance.loaded.v1
    class InstanceLoaded(Event): ...
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, ClassVar, Literal, TypeAlias, TypeVar

import msgspec
from msgspec import UNSET, Meta, UnsetType

from suite.messages.benchmarks import (
    AnswerSample,
    BenchmarkResult,
    BrokenLine,
    LoadSample,
    NumberedQuestion,
    RoundSample,
)
from suite.messages.decisions import Decision
from suite.messages.promotion import Finding, Gates, TakeBackReason


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """The base of all facts: each has the name of its aggregate, its own name, and a versioned type."""

    aggregate: ClassVar[str]
    fact: ClassVar[str]
    type: ClassVar[str]

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids of the aggregate, in the order of the subject."""
        raise NotImplementedError


class UnknownEvent(Event, frozen=True, kw_only=True):
    """A fact of a later version than this reader knows, with its unread body."""

    body: bytes


REGISTRY: dict[str, type[Event]] = {}

E = TypeVar("E", bound=Event)


def event(aggregate: str, fact: str, version: int = 1) -> Callable[[type[E]], type[E]]:
    """Give a fact its type name, ``suite.<aggregate>.<fact>.v<version>``, and register it."""

    def register(kind: type[E]) -> type[E]:
        kind.aggregate, kind.fact = aggregate, fact
        kind.type = f"suite.{aggregate}.{fact}.v{version}"
        REGISTRY[kind.type] = kind
        return kind

    return register


# --- node -------------------------------------------------------------------------------------------------


class NodeEvent(Event, frozen=True, kw_only=True):
    """A fact about one node: one suite process on one machine."""

    node: str

    @property
    def ids(self) -> tuple[str, ...]:  # noqa: D102 - as the base says
        return (self.node,)


class NodeLifeEvent(NodeEvent, frozen=True, kw_only=True):
    """A fact that begins or ends a life of a node: what an earlier one had in memory is gone."""


@event("node", "started")
class NodeStarted(NodeLifeEvent, frozen=True, kw_only=True, omit_defaults=True):
    """A node has started. The event's sequence is the epoch that fences older processes of the same name."""

    version: str
    host: str
    pid: int
    memory_limit_bytes: int
    """What all models together may have in RAM."""
    gpus: dict[str, int] = {}
    """What they may have on each GPU, ``gpu0`` and so on, in bytes. Empty: its only memory is RAM."""


@event("node", "stopped")
class NodeStopped(NodeLifeEvent, frozen=True, kw_only=True):
    """A node has stopped in order."""

    epoch: int


@event("node", "lost")
class NodeLost(NodeLifeEvent, frozen=True, kw_only=True):
    """A node's lease ran out although it had not stopped; ``observer`` is the node that noticed."""

    epoch: int
    observer: str


@event("node", "draining")
class NodeDraining(NodeEvent, frozen=True, kw_only=True):
    """A node is being taken out of service: it gets no new work, until it is started again or has resumed."""

    epoch: int
    requested_by: str
    """How the requester calls itself; empty if it does not."""


@event("node", "resumed")
class NodeResumed(NodeEvent, frozen=True, kw_only=True):
    """A node that was being drained takes work again."""

    epoch: int
    requested_by: str
    """How the requester calls itself; empty if it does not."""


# --- model ------------------------------------------------------------------------------------------------


class ModelEvent(Event, frozen=True, kw_only=True):
    """A fact about one model: a GGUF file under an id."""

    model_id: str

    @property
    def ids(self) -> tuple[str, ...]:  # noqa: D102 - as the base says
        return (self.model_id,)


@event("model", "registered")
class ModelRegistered(ModelEvent, frozen=True, kw_only=True, omit_defaults=True):
    """A node found this file under this id; it is new, or has other content or settings than before.

    Each content with each settings is a version of the model, numbered in the order of the log (ADR 70).
    """

    node: str
    file_name: str
    file_bytes: int
    sha256: str
    architecture: str
    parameters: int
    quantization: str
    trained_context_tokens: int
    settings: dict[str, str | int | float | bool] | None = None
    """The settings that tell versions apart, as far as they are not the defaults; a chat template as its
    digest. None in events of versions that did not say it."""
    source: str = ""
    """Where it is from: the program whose folder it is in, and the repository if that is known. Empty in
    events of versions that did not say it."""


@event("model", "removed")
class ModelRemoved(ModelEvent, frozen=True, kw_only=True):
    """The file is gone from the node's model directories."""

    node: str


@event("model", "pinned")
class ModelPinned(ModelEvent, frozen=True, kw_only=True, omit_defaults=True):
    """The node keeps this model loaded from now on."""

    node: str
    may_move: bool = False
    """Whether another node keeps it instead when this one drains or is lost: nobody has named this one."""


@event("model", "unpinned")
class ModelUnpinned(ModelEvent, frozen=True, kw_only=True):
    """The node need not keep this model loaded any more."""

    node: str


@event("model", "quarantined")
class ModelQuarantined(ModelEvent, frozen=True, kw_only=True):
    """The model failed again and again on this node, which does not load it before `until` (ADR 43).

    That holds for this content with these settings only.
    """

    node: str
    content: str
    """The SHA-256 of the files that failed; empty if it was not known yet."""
    settings_key: str
    """The digest of the settings that they failed with, as in ``load_started``."""
    failures: int
    """How many times in a row it failed."""
    until: datetime
    instance_id: str
    """The instance that failed last."""
    reason: str
    """How that one failed, for people."""


ReleaseReason = Literal["requested", "worked"]


@event("model", "released")
class ModelReleased(ModelEvent, frozen=True, kw_only=True):
    """The node loads this model again like any other: somebody has said so, or it was tried and worked."""

    node: str
    reason: ReleaseReason


# --- instance ---------------------------------------------------------------------------------------------

UnloadReason = Literal[
    "requested", "idle", "evicted", "shutdown", "node_lost", "file_removed", "file_changed", "spare"
]
"""Why a model was unloaded; `spare`: it was a copy, and those on other nodes are enough."""


class InstanceEvent(Event, frozen=True, kw_only=True):
    """A fact about a loaded model on one node. Each load has its own ``instance_id``."""

    node: str
    model_id: str
    instance_id: str

    @property
    def ids(self) -> tuple[str, ...]:  # noqa: D102 - as the base says
        return (self.node, self.model_id)


@event("instance", "load_started")
class InstanceLoadStarted(InstanceEvent, frozen=True, kw_only=True, omit_defaults=True):
    """Memory was reserved, and the model's process has started to load."""

    reserved_bytes: int
    """In all memories together."""
    gpus: dict[str, int] = {}
    """The part of it on each GPU, ``gpu0`` and so on, in bytes."""
    context_tokens: int
    evicting: tuple[str, ...] = ()
    """The models that are unloaded to make room."""
    content: str = ""
    """The SHA-256 of the model's files; empty if it was not known yet."""
    settings_key: str = ""
    """A short digest of those of its settings that change how it loads or what memory it takes; empty in
    events of versions that did not know it."""
    version: int = 0
    """Which version of the model it is, by number; 0: not known, or not yet."""
    decision: Decision | None = None
    """What was weighed, and what would have changed it. None in events of versions that did not say it."""


@event("instance", "loaded")
class InstanceLoaded(InstanceEvent, frozen=True, kw_only=True, omit_defaults=True):
    """The model is ready. ``resident_bytes`` is measured; ``load_ms`` counts from the start of the load.

    What could not be measured is left out.
    """

    pid: int
    resident_bytes: int
    """The resident memory of its processes, mapped files included."""
    load_ms: float
    estimated_bytes: int = 0
    """What its file and its settings let expect; ``resident_bytes`` minus this is the error."""
    anonymous_bytes: int = 0
    """The part of ``resident_bytes`` that only the end of its processes frees."""
    file_bytes: int = 0
    """The part of ``resident_bytes`` that are pages of files, above all its weights."""
    weights_bytes: int = 0
    """What llama.cpp has allocated or mapped for the weights; of a page that was never touched nothing is
    resident."""
    kv_bytes: int = 0
    """What llama.cpp has allocated for the KV cache."""
    compute_bytes: int = 0
    """What llama.cpp has allocated to compute in."""
    gpu_bytes: int = 0
    """The part of these three that is in the memory of GPUs."""
    gpus: dict[str, int] = {}
    """What it has on each GPU, ``gpu0`` and so on, in bytes: as the driver says, or at least what llama.cpp
    has allocated there. Empty in events of versions that did not tell GPUs apart."""
    process_ms: float | None = None
    """The part of ``load_ms`` since its process was begun: without the wait for the memory of others that had
    to leave first. None in events of versions that did not say it."""
    content: str = ""
    """The SHA-256 of the files that it has loaded; empty if it is not known."""
    settings_key: str = ""
    """As in the start of the load."""
    version: int = 0
    """Which version of the model it is, by number; 0: not known, or not yet."""


LoadFailureReason = Literal["out_of_memory", "not_started"]


@event("instance", "load_failed")
class InstanceLoadFailed(InstanceEvent, frozen=True, kw_only=True, omit_defaults=True):
    """The model could not be loaded; ``code`` is the error that the requester got."""

    code: str
    message: str
    reason: LoadFailureReason | None = None
    """`out_of_memory`: the kernel killed its process for lack of memory; `not_started`: the system could not
    start one. None: neither, or not known."""
    resident_bytes: int = 0
    """What it was measured to need, on GPUs too, if that was more than it can have."""
    gpus: dict[str, int] = {}
    """The part of it on each GPU, in bytes."""
    content: str = ""
    """The SHA-256 of the files that it was measured with."""
    settings_key: str = ""
    """The settings that it was measured with."""


@event("instance", "grew")
class InstanceGrew(InstanceEvent, frozen=True, kw_only=True, omit_defaults=True):
    """The model's processes were measured to need more memory than it counted for."""

    reserved_bytes: int
    """What it counts for from now on, in all memories together."""
    gpus: dict[str, int] = {}
    """The part of it on each GPU, in bytes."""


@event("instance", "unloaded")
class InstanceUnloaded(InstanceEvent, frozen=True, kw_only=True, omit_defaults=True):
    """The model's process has ended, and its memory is freed."""

    reason: UnloadReason
    freed_bytes: int
    peak_bytes: int = 0
    """The most memory that its processes had together, on GPUs too."""
    gpus: dict[str, int] = {}
    """The part of it on each GPU, in bytes."""
    evicted_for: str = ""
    """The model that was loaded into its memory; empty: none, or not known."""
    decision_seq: int = 0
    """The event that has the decision to load that model; 0: none, or not known."""
    decision: Decision | None = None
    """What was weighed when it left because all models together needed more memory than there is."""
    requested_by: str = ""
    """How the client that had it unloaded calls itself; empty: not known."""
    unused_seconds: float | None = None
    """For how long it had not been used. None: not known."""
    keep_alive_seconds: float | None = None
    """After how many unused seconds it was to be unloaded, for those that left because they were idle."""


CrashReason = Literal["out_of_memory"]


@event("instance", "crashed")
class InstanceCrashed(InstanceEvent, frozen=True, kw_only=True, omit_defaults=True):
    """The model's process died unexpectedly, with its running generations."""

    exit_code: int
    generations: int
    version: int = 0
    """Which version of the model it was, by number; 0: not known."""
    reason: CrashReason | None = None
    """`out_of_memory`: the kernel killed it for lack of memory. None: not known."""
    peak_bytes: int = 0
    """The most memory that its processes had together, on GPUs too."""
    gpus: dict[str, int] = {}
    """The part of it on each GPU, in bytes."""


# --- admission ---------------------------------------------------------------------------------------------


class AdmissionEvent(Event, frozen=True, kw_only=True):
    """A fact about the requests for one model on one node that did not get it at once (ADR 46)."""

    node: str
    model_id: str

    @property
    def ids(self) -> tuple[str, ...]:  # noqa: D102 - as the base says
        return (self.node, self.model_id)


@event("admission", "wait_started")
class WaitStarted(AdmissionEvent, frozen=True, kw_only=True, omit_defaults=True):
    """Requests wait for a model, and have done so for a while. One event for all of them."""

    place: int
    """1: it is the next."""
    waits_for: tuple[str, ...] = ()
    """The models that have to leave first."""
    decision: Decision
    """What was weighed; it says how many requests wait, and for how long."""


@event("admission", "wait_ended")
class WaitEnded(AdmissionEvent, frozen=True, kw_only=True, omit_defaults=True):
    """Nobody waits for the model any longer."""

    served: int = 0
    """How many of the requests got the model."""
    refused: int = 0
    """How many waited in vain."""
    withdrawn: int = 0
    """How many did not wait to the end: their clients have gone."""
    longest_seconds: float
    """How long the longest wait was."""


@event("admission", "refused")
class RequestsRefused(AdmissionEvent, frozen=True, kw_only=True, omit_defaults=True):
    """Requests for a model were refused: the first of a kind at once, those that follow counted together."""

    code: str
    """The stable code of the error that they got."""
    message: str
    requests: int = 1
    within_seconds: float = 0.0
    """In what time that many were refused; 0 for the first."""
    waited_seconds: float = 0.0
    """How long the longest of them had waited."""
    decision: Decision | None = None
    """What was weighed, and what would have changed it."""


# --- usage ------------------------------------------------------------------------------------------------

Outcome = Literal["stop", "length", "context_full", "cancelled", "client_gone", "deadline", "failed"]


class AppliedAdapter(msgspec.Struct, frozen=True, kw_only=True):
    """A LoRA adapter that a model was computed with."""

    id: str
    sha256: str
    """The digest of its file."""
    scale: float


@event("usage", "generated")
class Generated(Event, frozen=True, kw_only=True):
    """The token counts and timings of one generation. Prompt and answer are never stored."""

    model_id: str
    node: str
    instance_id: str
    generation_id: str
    conversation_id: str | None = None
    prompt_tokens: int
    reused_tokens: int
    completion_tokens: int
    queue_ms: float
    time_to_first_token_ms: float | None
    generation_ms: float
    outcome: Outcome
    waited_ms: float | UnsetType = UNSET
    """For memory and the load, before the model's process had the request; left out by older versions."""
    requester: str | UnsetType = UNSET
    """For whom, such as the id of an API key; left out if the request did not say."""
    adapters: tuple[AppliedAdapter, ...] | UnsetType = UNSET
    """What the model was computed with; left out if it was the model alone."""
    version: int | UnsetType = UNSET
    """Which version of the model answered, by number; left out if it is not known."""
    drafted_tokens: int | UnsetType = UNSET
    """Tokens that were guessed, and checked together with those before them; left out if none were."""
    accepted_tokens: int | UnsetType = UNSET
    """How many of these guesses were right; left out if there were none."""

    @property
    def ids(self) -> tuple[str, ...]:  # noqa: D102 - as the base says
        return (self.model_id,)


@event("usage", "recorded")
class UsageRecorded(Event, frozen=True, kw_only=True, omit_defaults=True):
    """A model made embeddings, or a client reported a use of a model, which need not be registered."""

    model_id: str
    usage_type: str
    conversation_id: str | None = None
    node: str = ""
    """Whose model made the embeddings; empty: a client reported the use."""
    version: int = 0
    """Which version of the model made them, by number; 0: not known."""
    requester: str | None = None
    """For whom, such as the id of an API key; null if the request did not say."""

    @property
    def ids(self) -> tuple[str, ...]:  # noqa: D102 - as the base says
        return (self.model_id,)


# --- prediction -------------------------------------------------------------------------------------------


class PredictionEvent(Event, frozen=True, kw_only=True):
    """A fact about a bet: a node expects that a model will be used soon, and loads it before anybody asks."""

    model_id: str
    node: str
    prediction_id: str

    @property
    def ids(self) -> tuple[str, ...]:  # noqa: D102 - as the base says
        return (self.model_id,)


class Loser(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A model on which no bet was taken, though there was a chance that it is used."""

    model_id: str
    chance: float
    saves_seconds: float
    costs_seconds: float | None = None
    """None: it has no room, even if all leave that may."""


@event("prediction", "made")
class PredictionMade(PredictionEvent, frozen=True, kw_only=True, omit_defaults=True):
    """A bet was taken: the model is loaded next, into free memory or into that of less likely models."""

    chance: float
    """That the model is used within the horizon, corrected by what became of earlier bets."""
    estimate: float
    """What the history of uses alone says."""
    horizon_seconds: float
    saves_seconds: float
    """Expected: the chance times the seconds that a load takes."""
    costs_seconds: float
    """The work of the load, and what is expected to be lost with the models that leave for it."""
    bytes: int
    """The memory that it takes, as estimated before its load."""
    evicting: tuple[str, ...] = ()
    """The models that may have to leave for it."""
    losers: tuple[Loser, ...] = ()
    """The most promising models on which no bet was taken at that moment."""


BetOutcome = Literal["hit", "waste"]
BetReason = Literal["used", "not_used", "left", "failed"]


@event("prediction", "settled")
class PredictionSettled(PredictionEvent, frozen=True, kw_only=True, omit_defaults=True):
    """It is known what a bet was worth: a hit was in memory when it was first used, all else is waste."""

    outcome: BetOutcome
    reason: BetReason
    """`not_used`: the horizon has passed; `left`: it left memory before it was used; `failed`: it was not
    loaded."""
    detail: str = ""
    """Why it left, or the code of the error with which it was not loaded."""
    chance: float
    """As it was told when the bet was taken."""
    used: bool | None = None
    """Whether the model was used within the horizon; None: nobody can know, as it was gone before that."""
    saved_seconds: float
    """The part of its load that was done when the first request came."""
    byte_seconds: float
    """The memory that it had, times the time until it was used, had left, or the horizon had passed."""


# --- metric -----------------------------------------------------------------------------------------------


@event("metric", "logged")
class MetricLogged(Event, frozen=True, kw_only=True):
    """One sample of a metric, measured by an agent."""

    metric_id: str
    agent_name: str
    metric_name: str
    value: float
    timestamp: datetime
    """When the agent measured it."""
    context: str | None = None
    """Additional data from the agent: a text, or an object as JSON."""

    @property
    def ids(self) -> tuple[str, ...]:  # noqa: D102 - as the base says
        return (self.agent_name,)


# --- evaluation -------------------------------------------------------------------------------------------


class EvaluationEvent(Event, frozen=True, kw_only=True):
    """A fact about one evaluation of a model."""

    evaluation_id: str
    model_name: str

    @property
    def ids(self) -> tuple[str, ...]:  # noqa: D102 - as the base says
        return (self.model_name,)


@event("evaluation", "logged")
class EvaluationLogged(EvaluationEvent, frozen=True, kw_only=True):
    """The scores of a model in one evaluation cycle."""

    cycle_id: str
    trust_score: float
    """0 to 1."""
    accuracy: float | None = None
    f1_score: float | None = None
    avg_latency_ms: float = 0.0
    """0: not measured."""
    evaluation_timestamp: datetime
    comparison_data: str | None = None
    """Additional data from the evaluator: a text, or an object as JSON."""
    version: int | UnsetType = UNSET
    """Which version of the model was evaluated, by number; left out if it is not known."""


@event("evaluation", "retracted")
class EvaluationRetracted(EvaluationEvent, frozen=True, kw_only=True):
    """An evaluation was wrong and no longer counts."""

    reason: str | None = None


# --- benchmark --------------------------------------------------------------------------------------------


class BenchmarkEvent(Event, frozen=True, kw_only=True):
    """A fact about one benchmark: a job of one node, which goes on with it after a restart (ADR 72)."""

    benchmark_id: str
    model_id: str
    """A model with adapters has a name of its own."""

    @property
    def ids(self) -> tuple[str, ...]:  # noqa: D102 - as the base says
        return (self.benchmark_id,)


@event("benchmark", "started")
class BenchmarkStarted(BenchmarkEvent, frozen=True, kw_only=True, omit_defaults=True):
    """Somebody wants a benchmark; the node runs it when it has finished those that came before."""

    node: str
    content: str
    """The SHA-256 of the model's files: of another content the benchmark would be another one."""
    settings_key: str
    """The digest of the settings that the model is loaded with, as in ``load_started``."""
    version: int = 0
    """Which version of the model it is, by number; 0: not known yet."""
    cycle_id: str
    """Of the evaluation that comes out of it."""
    streams: tuple[int, ...]
    """With how many generations beside each other the speed is measured; empty: it is not."""
    rounds: int
    prompt_tokens: int
    answer_tokens: int
    questions: tuple[NumberedQuestion, ...] = ()
    set_sha256: str = ""
    """The digest of the questions; empty: there are none."""
    broken_lines: tuple[BrokenLine, ...] = ()
    """The lines of the set that were left out, the first ones if there are many."""
    broken_line_count: int = 0
    judge: str = ""
    """The model that judges; empty: none is needed."""
    requested_by: str = ""
    """How the requester calls itself; empty if it does not."""


@event("benchmark", "progressed")
class BenchmarkProgressed(BenchmarkEvent, frozen=True, kw_only=True, omit_defaults=True):
    """More was measured, which need not be measured again after a restart."""

    load: LoadSample | None = None
    rounds: tuple[RoundSample, ...] = ()
    answers: tuple[AnswerSample, ...] = ()


@event("benchmark", "finished")
class BenchmarkFinished(BenchmarkEvent, frozen=True, kw_only=True):
    """All was measured. The evaluation with the result is the next event of the log."""

    evaluation_id: str
    result: BenchmarkResult


@event("benchmark", "failed")
class BenchmarkFailed(BenchmarkEvent, frozen=True, kw_only=True):
    """It cannot be run to its end."""

    code: str
    """The stable code of the error."""
    message: str


@event("benchmark", "cancelled")
class BenchmarkCancelled(BenchmarkEvent, frozen=True, kw_only=True, omit_defaults=True):
    """Somebody does not want it any more."""

    requested_by: str = ""
    """How the requester calls itself; empty if it does not."""


# --- alias ------------------------------------------------------------------------------------------------


class AliasEvent(Event, frozen=True, kw_only=True):
    """A fact about one alias: a name that stands for a version of a model (ADR 70, 71)."""

    alias: str

    @property
    def ids(self) -> tuple[str, ...]:  # noqa: D102 - as the base says
        return (self.alias,)


@event("alias", "set")
class AliasSet(AliasEvent, frozen=True, kw_only=True, omit_defaults=True):
    """The alias stands for this model from now on. A promotion of it that was under way has ended."""

    model_id: str
    version: int = 0
    """The version, by number. 0: whichever the model is at."""
    requested_by: str = ""
    """How the requester calls itself; empty if it does not."""


@event("alias", "removed")
class AliasRemoved(AliasEvent, frozen=True, kw_only=True, omit_defaults=True):
    """The alias stands for nothing any more, or for what is configured."""

    requested_by: str = ""
    """How the requester calls itself; empty if it does not."""


class PromotionEvent(AliasEvent, frozen=True, kw_only=True):
    """A fact about the promotion of a version: the alias is to stand for it."""

    promotion_id: str
    model_id: str
    """The model to be promoted."""
    version: int
    """Its version, by number."""


@event("alias", "promotion_started")
class PromotionStarted(PromotionEvent, frozen=True, kw_only=True, omit_defaults=True):
    """A version is to be promoted. Until it is ready, and the gates are met, the old one serves alone.

    If a promotion of the same version was under way, it goes on on these terms.
    """

    old_model_id: str
    """The model that serves now."""
    old_version: int = 0
    """Its version; 0: whichever the model is at."""
    canary_share: float = 0.0
    """Which part of the requests it gets once it is ready, 0 to 1."""
    gates: Gates | None = None
    """What evaluations must show. None: nothing."""
    take_back: tuple[TakeBackReason, ...] = ()
    """What takes it back by itself after it was promoted."""
    requested_by: str = ""
    """How the requester calls itself; empty if it does not."""


@event("alias", "canary_started")
class CanaryStarted(PromotionEvent, frozen=True, kw_only=True, omit_defaults=True):
    """The version is loaded, and gets its share of the requests from now on."""

    canary_share: float
    node: str = ""
    """Where it is loaded."""


@event("alias", "promoted")
class Promoted(PromotionEvent, frozen=True, kw_only=True, omit_defaults=True):
    """The version is ready, and the alias stands for it from now on."""

    old_model_id: str
    old_version: int = 0
    node: str = ""
    """Where it is loaded."""
    findings: tuple[Finding, ...] = ()
    """What the evaluations say about each gate."""


PromotionEnd: TypeAlias = Literal["requested", "gates", "crash_loop", "load_failed", "gone"]
"""Why a promotion ended before its version was promoted. `gates`: evaluations show that one will not be met;
`gone`: the version is on no node any more."""


@event("alias", "promotion_stopped")
class PromotionStopped(PromotionEvent, frozen=True, kw_only=True, omit_defaults=True):
    """The version is not promoted: the old one serves all requests."""

    reason: PromotionEnd
    detail: str = ""
    """More about the reason, for people."""
    findings: tuple[Finding, ...] = ()
    """What the evaluations say about each gate."""
    requested_by: str = ""
    """How the requester calls itself; empty if it does not, or if nobody asked for it."""


TakenBackReason: TypeAlias = Literal["requested", "retraction", "crash_loop"]


@event("alias", "taken_back")
class TakenBack(PromotionEvent, frozen=True, kw_only=True, omit_defaults=True):
    """A version that was promoted serves no more: the alias stands again for the one before it."""

    old_model_id: str
    """What the alias stands for again."""
    old_version: int = 0
    reason: TakenBackReason
    detail: str = ""
    """More about the reason, for people, such as the id of the evaluation."""
    findings: tuple[Finding, ...] = ()
    """What the evaluations that are left say about each gate."""
    requested_by: str = ""
    """How the requester calls itself; empty if it does not, or if nobody asked for it."""


# --- key --------------------------------------------------------------------------------------------------

KeyEndpoint: TypeAlias = Literal[
    "chat", "completions", "embeddings", "rerank", "tokens", "models", "view", "admin"
]
"""What a key may be used for. `tokens`: count tokens, and convert text to tokens and back; `models`: list and
describe them; `view`: look at all that is the case and all that has happened; `admin`: that too, unload
models, read metrics."""


class KeyEvent(Event, frozen=True, kw_only=True):
    """A fact about one key, with which programs use the gateway."""

    key_id: str
    name: str

    @property
    def ids(self) -> tuple[str, ...]:  # noqa: D102 - as the base says
        return (self.key_id,)


@event("key", "created")
class KeyCreated(KeyEvent, frozen=True, kw_only=True, omit_defaults=True):
    """A key was made. Its secret is not stored: it has 256 random bits, and its digest does not tell it."""

    sha256: str
    """The SHA-256 of the secret, in hexadecimal."""
    models: tuple[str, ...]
    """Patterns of the models that it may use; ``*`` stands for any text, ``?`` for any character."""
    endpoints: tuple[str, ...]
    """What it may be used for; a later version may know more than this one."""
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    """Of prompts and of answers together."""
    expires_at: Annotated[datetime, Meta(tz=True)] | None = None
    """None: never."""


@event("key", "revoked")
class KeyRevoked(KeyEvent, frozen=True, kw_only=True):
    """The key is worth nothing from now on."""


# --- error ------------------------------------------------------------------------------------------------

Severity = Literal["info", "warning", "error", "critical"]


@event("error", "reported")
class ErrorReported(Event, frozen=True, kw_only=True, omit_defaults=True):
    """An error in a node that no other fact describes.

    The first of a kind stands alone; those of that kind that follow soon are counted together.
    """

    node: str
    error_type: str
    """The error's stable code."""
    message: str
    """The newest one's."""
    severity: Severity
    model_id: str = ""
    """The model that it is about; empty: none, or not known."""
    count: int = 1
    """How many errors this stands for."""
    within_seconds: float = 0.0
    """In what time they happened; 0 for a single one."""

    @property
    def ids(self) -> tuple[str, ...]:  # noqa: D102 - as the base says
        return (self.severity,)


# --- breaker ----------------------------------------------------------------------------------------------

BreakerKind: TypeAlias = Literal["dependency", "gateway", "object_store", "otlp", "service"]
"""What is left alone when it fails again and again. `dependency`: a micro service that the node needs;
`gateway`: the process that serves HTTP beside it; `object_store`: a bucket through which models or
conversations travel; `otlp`: the collector of traces or metrics; `service`: the nodes, as the gateway beside
one reaches them. A model is `quarantined` instead."""


class BreakerEvent(Event, frozen=True, kw_only=True):
    """A fact about a circuit breaker of one node (ADR 65). They begin closed at each start of the node."""

    node: str
    kind: BreakerKind
    name: str
    """Which one of this kind, such as the name of a bucket."""

    @property
    def ids(self) -> tuple[str, ...]:  # noqa: D102 - as the base says
        return (self.node, self.kind, self.name)


@event("breaker", "opened")
class BreakerOpened(BreakerEvent, frozen=True, kw_only=True, omit_defaults=True):
    """It failed again and again, and is left alone for a while."""

    failures: int
    """How many times in a row it failed."""
    pause_seconds: float
    """For how long it is left alone; then one use is a trial."""
    reason: str
    """How it failed the last time."""
    after_trial: bool = False
    """Whether it was open before, and a trial has failed."""


@event("breaker", "half_opened")
class BreakerHalfOpened(BreakerEvent, frozen=True, kw_only=True):
    """The pause is over, and it is tried."""


@event("breaker", "closed")
class BreakerClosed(BreakerEvent, frozen=True, kw_only=True):
    """It works again."""

    failures: int
    """How many times in a row it had failed."""
    open_seconds: float
    """How long it was open, trials included."""
