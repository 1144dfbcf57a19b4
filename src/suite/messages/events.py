"""The facts of the log, past tense. Each class is one version of one fact; none is ever changed or removed.

A new version is a new class and an upcaster from the one before (`upcasters.py`)::

    @event("instance", "loaded")            # type name suite.instance.loaded.v1
    class InstanceLoaded(Event): ...
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import ClassVar, Literal, TypeVar

import msgspec


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """What every fact has: the aggregate it belongs to, its name there, and its version."""

    aggregate: ClassVar[str]
    fact: ClassVar[str]
    type: ClassVar[str]

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids of the aggregate, as they stand in the subject."""
        raise NotImplementedError


class UnknownEvent(Event, frozen=True, kw_only=True):
    """A fact of a later version than this reader knows: its body as it came."""

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


@event("node", "started")
class NodeStarted(NodeEvent, frozen=True, kw_only=True):
    """A node is up. Its sequence is the epoch that fences an older process of the same name."""

    version: str
    host: str
    pid: int
    memory_limit_bytes: int


@event("node", "stopped")
class NodeStopped(NodeEvent, frozen=True, kw_only=True):
    """A node ended in order."""

    epoch: int


@event("node", "lost")
class NodeLost(NodeEvent, frozen=True, kw_only=True):
    """A node's lease ran out without a stop; ``observer`` is the node that noticed."""

    epoch: int
    observer: str


# --- model ------------------------------------------------------------------------------------------------


class ModelEvent(Event, frozen=True, kw_only=True):
    """A fact about one model: a GGUF file under an id."""

    model_id: str

    @property
    def ids(self) -> tuple[str, ...]:  # noqa: D102 - as the base says
        return (self.model_id,)


@event("model", "registered")
class ModelRegistered(ModelEvent, frozen=True, kw_only=True):
    """A node found this file under this id, new or with other content than before."""

    node: str
    file_name: str
    file_bytes: int
    sha256: str
    architecture: str
    parameters: int
    quantization: str
    trained_context_tokens: int


@event("model", "removed")
class ModelRemoved(ModelEvent, frozen=True, kw_only=True):
    """The file is gone from the node's model directories."""

    node: str


# --- instance ---------------------------------------------------------------------------------------------

UnloadReason = Literal[
    "requested", "idle", "evicted", "shutdown", "node_lost", "file_removed", "file_changed"
]


class InstanceEvent(Event, frozen=True, kw_only=True):
    """A fact about a loaded model on one node. ``instance_id`` tells one life of it from the next."""

    node: str
    model_id: str
    instance_id: str

    @property
    def ids(self) -> tuple[str, ...]:  # noqa: D102 - as the base says
        return (self.node, self.model_id)


@event("instance", "load_started")
class InstanceLoadStarted(InstanceEvent, frozen=True, kw_only=True):
    """Memory is reserved and the model's process begins to load."""

    reserved_bytes: int
    context_tokens: int
    evicting: tuple[str, ...] = ()
    """The models that make room."""


@event("instance", "loaded")
class InstanceLoaded(InstanceEvent, frozen=True, kw_only=True):
    """The model answers. ``resident_bytes`` is measured, ``load_ms`` runs from the start of the load."""

    pid: int
    resident_bytes: int
    load_ms: float


@event("instance", "load_failed")
class InstanceLoadFailed(InstanceEvent, frozen=True, kw_only=True):
    """The model did not come up; ``code`` is the error that the requester got."""

    code: str
    message: str


@event("instance", "unloaded")
class InstanceUnloaded(InstanceEvent, frozen=True, kw_only=True):
    """The model's process is gone and its memory is back with the system."""

    reason: UnloadReason
    freed_bytes: int


@event("instance", "crashed")
class InstanceCrashed(InstanceEvent, frozen=True, kw_only=True):
    """The model's process died by itself, with its running generations."""

    exit_code: int
    generations: int


# --- usage ------------------------------------------------------------------------------------------------

Outcome = Literal["stop", "length", "context_full", "cancelled", "client_gone", "deadline", "failed"]


@event("usage", "generated")
class Generated(Event, frozen=True, kw_only=True):
    """One generation, in figures only: no prompt and no answer is ever stored."""

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

    @property
    def ids(self) -> tuple[str, ...]:  # noqa: D102 - as the base says
        return (self.model_id,)


@event("usage", "recorded")
class UsageRecorded(Event, frozen=True, kw_only=True):
    """A model made vectors, or a client says that it used one, which may be before it is registered."""

    model_id: str
    usage_type: str
    conversation_id: str | None = None

    @property
    def ids(self) -> tuple[str, ...]:  # noqa: D102 - as the base says
        return (self.model_id,)


# --- metric -----------------------------------------------------------------------------------------------


@event("metric", "logged")
class MetricLogged(Event, frozen=True, kw_only=True):
    """One sample of a metric, as an agent measured it."""

    metric_id: str
    agent_name: str
    metric_name: str
    value: float
    timestamp: datetime
    """When it was measured, as the agent says."""
    context: str | None = None
    """What the agent gave beside it: its text, or its object as JSON."""

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
    """How a model did in one evaluation cycle."""

    cycle_id: str
    trust_score: float
    """0 to 1."""
    accuracy: float | None = None
    f1_score: float | None = None
    avg_latency_ms: float = 0.0
    """0: not measured."""
    evaluation_timestamp: datetime
    comparison_data: str | None = None
    """What the evaluator gave beside it: its text, or its object as JSON."""


@event("evaluation", "retracted")
class EvaluationRetracted(EvaluationEvent, frozen=True, kw_only=True):
    """An evaluation was wrong and counts no longer."""

    reason: str | None = None


# --- error ------------------------------------------------------------------------------------------------

Severity = Literal["info", "warning", "error", "critical"]


@event("error", "reported")
class ErrorReported(Event, frozen=True, kw_only=True):
    """Something went wrong in a node that no other fact tells of."""

    node: str
    error_type: str
    """The error's stable code."""
    message: str
    severity: Severity

    @property
    def ids(self) -> tuple[str, ...]:  # noqa: D102 - as the base says
        return (self.severity,)
