"""Metrics of agents and evaluations of models."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from suite.messages.actions.base import EntryId, Moment, Name, Page, Query, Reply, Request
from suite.messages.benchmarks import BenchmarkResult


class LogPerformanceMetricRequest(Request, frozen=True, kw_only=True):
    """Log one sample of a metric. The same ``metric_id`` is stored once; other content is refused."""

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
    """Get the samples of an agent, of a metric, or all."""

    agent_name: Name | None = None
    metric_name: Name | None = None


class PerformanceMetric(msgspec.Struct, frozen=True, kw_only=True):
    """One sample of a metric."""

    metric_id: str
    agent_name: str
    metric_name: str
    value: float
    timestamp: str
    context: str | None


class GetPerformanceMetricsReply(Reply, frozen=True, kw_only=True):
    """A page of samples, newest first; ``next_cursor`` is null on the last page."""

    metrics: tuple[PerformanceMetric, ...]
    next_cursor: str | None


class SummaryRequest(Query, frozen=True, kw_only=True):
    """Summarise the samples of a metric over a time window, which is widened to whole minutes."""

    metric_name: Name
    agent_name: Name | None = None
    since: Moment | None = None
    until: Moment | None = None


class MetricSummary(msgspec.Struct, frozen=True, kw_only=True):
    """Statistics of one metric. Percentiles are accurate to ``relative_error``, everything else is exact."""

    agent_name: str | None
    """Null: all agents together."""
    count: int
    mean: float
    min: float
    max: float
    p50: float
    p95: float
    p99: float


class SummaryReply(Reply, frozen=True, kw_only=True):
    """The statistics of all agents together, null if there is no sample, and of each agent."""

    metric_name: str
    since: str | None
    until: str | None
    """The window that was counted, in whole minutes; null: no limit."""
    relative_error: float
    total: MetricSummary | None
    by_agent: tuple[MetricSummary, ...]


class LogModelEvaluationRequest(Request, frozen=True, kw_only=True):
    """Log an evaluation of a model. The same ``evaluation_id`` is stored once; other content is refused."""

    model_name: Name
    cycle_id: Name
    trust_score: Annotated[float, Meta(ge=0, le=1)]
    accuracy: Annotated[float, Meta(ge=-1e12, le=1e12)] | None = None
    f1_score: Annotated[float, Meta(ge=-1e12, le=1e12)] | None = None
    avg_latency_ms: Annotated[float, Meta(ge=0, le=1e12)] = 0.0
    """0: not measured."""
    comparison_data: str | dict[str, Any] | list[Any] | None = None
    evaluation_id: EntryId | None = None
    evaluation_timestamp: Moment | None = None
    version: Annotated[int, Meta(ge=1)] | None = None
    """Which version of the model was evaluated; ``model_name`` may also be ``NAME@3``. Null: the one that the
    model is at, if the service knows such a model."""


class LogModelEvaluationReply(Reply, frozen=True, kw_only=True):
    """The evaluation is in the log."""

    message: str
    evaluation_id: str
    seq: int


class GetModelEvaluationScoresRequest(Page, frozen=True, kw_only=True):
    """Get the evaluations of a model, of a cycle, or all, without retracted ones."""

    model_name: Name | None = None
    cycle_id: Name | None = None
    version: Annotated[int, Meta(ge=1)] | None = None
    """Only of this version of the model. Null: of all."""


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
    version: int | None = None
    """Which version of the model was evaluated. Null: it is not known."""


class GetModelEvaluationScoresReply(Reply, frozen=True, kw_only=True):
    """A page of evaluations, newest first; ``next_cursor`` is null on the last page."""

    evaluations: tuple[ModelEvaluation, ...]
    next_cursor: str | None


class RetractModelEvaluationRequest(Request, frozen=True, kw_only=True):
    """Retract an evaluation that was wrong. Retracting it again succeeds."""

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
    """Compare these models, or all that were evaluated or have crashed."""

    model_names: Annotated[tuple[Name, ...], Meta(max_length=1000)] = ()


class Scores(msgspec.Struct, frozen=True, kw_only=True):
    """The scores of a model: means over the evaluations of one cycle, null if there are none."""

    trust: float | None
    """The model's trust, from all its evaluations, crashes and latencies (ADR 11)."""
    trust_score: float | None
    """The mean of the trust scores that its evaluators gave in the cycle."""
    accuracy: float | None
    f1_score: float | None
    avg_latency_ms: float | None


class ModelComparison(msgspec.Struct, frozen=True, kw_only=True):
    """One model in its latest cycle, and the change since its previous cycle."""

    model_name: str
    cycle_id: str | None
    previous_cycle_id: str | None
    evaluations: int
    crashes: int
    scores: Scores
    change: Scores
    """Latest minus previous; null if there is nothing to compare."""
    benchmark: BenchmarkResult | None = None
    """The result of its last benchmark; null: it has none, or the evaluation of that one was retracted."""
    benchmark_node: str | None = None
    """The node that the benchmark has measured."""


class CompareModelsReply(Reply, frozen=True, kw_only=True):
    """The models, the most trusted first."""

    models: tuple[ModelComparison, ...]
