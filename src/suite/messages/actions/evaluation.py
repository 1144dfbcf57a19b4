"""Metrics of agents and evaluations of models."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from suite.messages.actions.base import EntryId, Moment, Name, Page, Query, Reply, Request


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
