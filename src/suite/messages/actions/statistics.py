"""How the service did over time: requests, models in memory, bets, metrics, and the quality of models."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import Meta

from suite.messages.actions.base import (
    Limit,
    ModelId,
    Moment,
    Name,
    NodeName,
    Query,
    Reply,
    TimeWindow,
)
from suite.messages.actions.prediction import CalibrationInfo
from suite.messages.decisions import Purpose
from suite.messages.events import BetOutcome, BetReason

Cursor: TypeAlias = Annotated[str, Meta(max_length=2000)]


class OverTime(Query, frozen=True, kw_only=True):
    """A question about a window of time, which is widened to whole steps."""

    since: Moment | None = None
    """Null: a day before ``until``."""
    until: Moment | None = None
    """Exclusive. Null: now."""


class SeriesReply(Reply, frozen=True, kw_only=True):
    """The base of replies about a window of time."""

    since: str
    until: str
    """The window that was counted, in whole steps; it begins no earlier than what there is."""
    step_seconds: int
    """How long a step is."""


# --- requests ---------------------------------------------------------------------------------------------


class GetRequestStatisticsRequest(OverTime, frozen=True, kw_only=True):
    """Get how many requests there were over time, how long they took, and what was reused."""

    model_id: ModelId | None = None
    """Null: all models together."""
    limit: Annotated[int, Meta(ge=0, le=1000)] = 20
    """The most models that are told of on their own; 0: none, which is faster."""


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """Times of requests, from when the node had them, waits for memory and loads included."""

    count: int
    mean_ms: float
    p50_ms: float
    """Percentiles are within 2 %."""
    p95_ms: float
    p99_ms: float


class RequestFigures(msgspec.Struct, frozen=True, kw_only=True):
    """Requests that ended in some time."""

    requests: int
    """Generations and embeddings."""
    failed: int
    """Generations that an error or their deadline ended."""
    cancelled: int
    """Generations that were cancelled, or whose clients had gone."""
    refused: int
    """Requests for a model that the service could not serve, such as for lack of memory. They are not in
    `requests`. What nodes wanted to load themselves does not count, such as for a bet or a pin."""
    refusals: dict[str, int] = {}
    """How many of these by the code of their error, the most first."""
    cold_starts: int
    """Loads that were begun because a request needed the model."""
    prompt_tokens: int
    reused_tokens: int
    """Of the prompts: those that did not have to be read again."""
    completion_tokens: int
    first_token: Latency | None
    """Until the first token. Null: there was none."""
    total: Latency | None
    """Until the end."""


class RequestPoint(msgspec.Struct, frozen=True, kw_only=True):
    """One step of time."""

    start: str
    figures: RequestFigures


class ModelRequests(msgspec.Struct, frozen=True, kw_only=True):
    """One model in the whole window."""

    model_id: str
    figures: RequestFigures


class GetRequestStatisticsReply(SeriesReply, frozen=True, kw_only=True):
    """The figures of the whole window, of each step in which there were any, and of the most used models."""

    total: RequestFigures
    points: tuple[RequestPoint, ...]
    models: tuple[ModelRequests, ...]
    """The most used first; empty if the request names a model."""


# --- residency --------------------------------------------------------------------------------------------


class GetResidencyTimelineRequest(Query, frozen=True, kw_only=True):
    """Get when which models were in memory, and why they came and left."""

    since: Moment | None = None
    """Null: a day before ``until``."""
    until: Moment | None = None
    """Null: now."""
    model_id: ModelId | None = None
    of_node: NodeName = None
    """Only what was on this node."""
    resolution_seconds: Annotated[float, Meta(ge=0, le=1e9)] | None = None
    """Stays that are shorter than that, and follow each other within that time, are told as one. Null: a
    400th of the window."""
    limit: Limit = 200
    """The most lanes."""
    cursor: Cursor | None = None
    """``next_cursor`` of the page before."""


StayEnd: TypeAlias = Literal[
    "requested",
    "idle",
    "evicted",
    "shutdown",
    "node_lost",
    "file_removed",
    "file_changed",
    "spare",
    "crashed",
    "cancelled",
    "failed",
]
"""Why a stay ended: the reason of the unload, or `crashed`, or the load was `cancelled` or has `failed`."""


class Stay(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A model in memory once, from the start of its load until it was gone; or several short ones."""

    begun_at: str
    begun_seq: int
    """The event that began the load: explain it to see why."""
    purpose: Purpose = "request"
    """What it was loaded for."""
    ready_at: str | None = None
    """Null: it loads, or was never ready."""
    ended_at: str | None = None
    """Null: it is there."""
    ended_seq: int | None = None
    """The event that ended it: explain it to see why."""
    end: str | None = None
    """One of `StayEnd`."""
    end_detail: str = ""
    """The model that it left for, who had it unloaded, or the code of the error."""
    bytes: int = 0
    """The memory that was reserved for it, or that it was measured to take if it was ready."""
    content: str = ""
    """The SHA-256 of its files; empty if it is not known."""
    version: int = 0
    """Which version of the model it was, by number; 0: not known."""
    stays: int = 1
    """How many stays this stands for. If more than one, it says of the last how it ended."""
    resident_seconds: float = 0.0
    """How long it was ready in that time, within the window."""


class Lane(msgspec.Struct, frozen=True, kw_only=True):
    """One model on one node."""

    model_id: str
    lane_node: str
    loads: int
    """How many stays there are in the window."""
    resident_seconds: float
    """How long it was ready within the window."""
    stays: tuple[Stay, ...]


class GetResidencyTimelineReply(Reply, frozen=True, kw_only=True):
    """The models that were in memory in a window of time, by id and node."""

    since: str
    """It begins no earlier than the first stay of all."""
    until: str
    resolution_seconds: float
    lanes: tuple[Lane, ...]
    next_cursor: str | None
    """Null on the last page."""


# --- bets -------------------------------------------------------------------------------------------------


class GetBetStatisticsRequest(OverTime, frozen=True, kw_only=True):
    """Get what bets on the next use of models have brought over time, and how good their chances were."""

    model_id: ModelId | None = None


class BetFigures(msgspec.Struct, frozen=True, kw_only=True):
    """Bets that were taken in some time."""

    made: int
    hits: int
    """Models that were in memory when they were used."""
    wastes: int
    open: int
    """Those of which it is not known yet."""
    expected_seconds: float
    """What all were expected to save."""
    expected_hits: float
    """The sum of the chances of those that are settled."""
    saved_seconds: float
    """What hits have saved of waiting for loads."""
    wasted_byte_seconds: float
    """The memory that wastes had, times how long."""


class BetPoint(msgspec.Struct, frozen=True, kw_only=True):
    """The bets that were taken in one step of time."""

    start: str
    figures: BetFigures


class BetReasonCount(msgspec.Struct, frozen=True, kw_only=True):
    """How many bets have ended for a reason."""

    reason: BetReason
    detail: str
    """Why it left, or the code of the error with which it was not loaded."""
    count: int


class GetBetStatisticsReply(SeriesReply, frozen=True, kw_only=True):
    """The figures of the whole window, and of each step in which bets were taken."""

    total: BetFigures
    points: tuple[BetPoint, ...]
    reasons: tuple[BetReasonCount, ...]
    """Why bets have ended, the most frequent first."""
    calibration: CalibrationInfo
    """Of the chances that these bets were taken with, as far as it is known whether the models were used."""


class GetBetsRequest(TimeWindow, frozen=True, kw_only=True):
    """Get bets, the newest first."""

    model_id: ModelId | None = None
    outcome: Literal["open", "hit", "waste"] | None = None
    limit: Limit = 100
    cursor: Cursor | None = None
    """``next_cursor`` of the page before."""


class Bet(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One bet: what was expected, and what came."""

    model_id: str
    node: str
    made_at: str
    made_seq: int
    """The event of the bet: explain it to see what else was weighed."""
    chance: float
    saves_seconds: float
    costs_seconds: float
    bytes: int
    settled_at: str | None = None
    """Null: it is open."""
    settled_seq: int | None = None
    outcome: BetOutcome | None = None
    reason: BetReason | None = None
    detail: str = ""
    saved_seconds: float = 0.0
    byte_seconds: float = 0.0


class GetBetsReply(Reply, frozen=True, kw_only=True):
    """A page of bets; ``next_cursor`` is null on the last page."""

    bets: tuple[Bet, ...]
    next_cursor: str | None


# --- metrics ----------------------------------------------------------------------------------------------


class ListMetricsRequest(Query, frozen=True, kw_only=True):
    """List the metrics that agents have logged."""

    limit: Limit = 1000


class MetricName(msgspec.Struct, frozen=True, kw_only=True):
    """One metric."""

    metric_name: str
    agents: tuple[str, ...]
    newest_hour: str
    """The hour of the newest sample."""


class ListMetricsReply(Reply, frozen=True, kw_only=True):
    """The metrics, by name."""

    metrics: tuple[MetricName, ...]


class GetMetricSeriesRequest(OverTime, frozen=True, kw_only=True):
    """Get how a metric went over time, by agent."""

    metric_name: Name
    agent_name: Name | None = None


class AgentPoint(msgspec.Struct, frozen=True, kw_only=True):
    """The samples of one step of time. Percentiles are within 1 %, everything else is exact."""

    start: str
    count: int
    mean: float
    min: float
    max: float
    p50: float
    p95: float


class AgentSeries(msgspec.Struct, frozen=True, kw_only=True):
    """The steps in which an agent logged the metric."""

    agent_name: str
    points: tuple[AgentPoint, ...]


class GetMetricSeriesReply(SeriesReply, frozen=True, kw_only=True):
    """The series of each agent."""

    metric_name: str
    agents: tuple[AgentSeries, ...]


# --- quality ----------------------------------------------------------------------------------------------


class GetModelQualityRequest(Query, frozen=True, kw_only=True):
    """Get the evaluations of models over time, and how the trust in them went."""

    model_names: Annotated[tuple[Name, ...], Meta(min_length=1, max_length=20)]
    since: Moment | None = None
    """Null: as long as there is anything."""
    until: Moment | None = None
    """Exclusive. Null: now."""
    limit: Limit = 200
    """The most points of a model: of more, some are left out evenly."""


TrustCause: TypeAlias = Literal["evaluation", "load", "crash", "content"]
"""What changed the trust. `content`: the files changed, and what was known before counts no longer."""


class EvaluationPoint(msgspec.Struct, frozen=True, kw_only=True):
    """One evaluation."""

    evaluation_id: str
    cycle_id: str
    trust_score: float
    accuracy: float | None
    f1_score: float | None
    avg_latency_ms: float
    """0: not measured."""
    evaluation_timestamp: str
    version: int | None = None
    """Which version of the model was evaluated, by number. Null: not known."""


class TrustPoint(msgspec.Struct, frozen=True, kw_only=True):
    """The trust in a model after something happened, without evaluations that were retracted by now."""

    at: str
    trust: float
    cause: TrustCause


class ModelQuality(msgspec.Struct, frozen=True, kw_only=True):
    """One model."""

    model_name: str
    trust: float | None
    """Now. Null: nothing is known."""
    evaluations: tuple[EvaluationPoint, ...]
    """The oldest first."""
    evaluations_in_window: int
    trust_points: tuple[TrustPoint, ...]
    """The oldest first; the first one may be from before the window, and says how it began."""


class GetModelQualityReply(Reply, frozen=True, kw_only=True):
    """The models, in the order in which they were asked for."""

    models: tuple[ModelQuality, ...]
