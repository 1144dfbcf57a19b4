"""The client's methods for metrics of agents and evaluations of models."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, TypeAlias, Unpack

from suite.client.asking import Asking
from suite.client.windows import Page, Window
from suite.messages.actions.base import Moment
from suite.messages.actions.evaluation import (
    CompareModelsReply,
    CompareModelsRequest,
    GetModelEvaluationScoresReply,
    GetModelEvaluationScoresRequest,
    GetPerformanceMetricsReply,
    GetPerformanceMetricsRequest,
    LogModelEvaluationReply,
    LogModelEvaluationRequest,
    LogPerformanceMetricReply,
    LogPerformanceMetricRequest,
    ModelEvaluation,
    PerformanceMetric,
    RetractModelEvaluationReply,
    RetractModelEvaluationRequest,
    SummaryReply,
    SummaryRequest,
)

Attachment: TypeAlias = str | Mapping[str, Any] | Sequence[Any] | None
"""A text, stored as it is, or an object or list, stored as JSON."""

PAGE_ROWS = 100
"""Rows in a page when iterating: a page is one message, and a row may have a lot of text."""


class Evaluations(Asking):
    """The actions for metrics and evaluations.

    A write replies with its ``seq``; a query with that as ``min_seq`` sees the write. Times are RFC 3339,
    ``YYYY-MM-DD HH:MM:SS`` in UTC, or seconds since 1970; ``until`` is exclusive.
    """

    # --- metrics ------------------------------------------------------------------------------------------

    async def log_performance_metric(
        self,
        agent_name: str,
        metric_name: str,
        value: float,
        *,
        context: Attachment = None,
        metric_id: str | None = None,
        timestamp: Moment | None = None,
    ) -> LogPerformanceMetricReply:
        """Log a sample. With a ``metric_id`` it is stored once, however often it is sent.

        Raises Conflict when the id was used for other content.
        """
        request = LogPerformanceMetricRequest(
            agent_name=agent_name,
            metric_name=metric_name,
            value=value,
            context=_plain(context),
            metric_id=metric_id,
            timestamp=timestamp,
        )
        return await self._ask("log_performance_metric", request, LogPerformanceMetricReply)

    async def get_performance_metrics(
        self,
        *,
        agent_name: str | None = None,
        metric_name: str | None = None,
        **page: Unpack[Page],
    ) -> GetPerformanceMetricsReply:
        """Get a page of samples, newest first."""
        request = GetPerformanceMetricsRequest(agent_name=agent_name, metric_name=metric_name, **page)
        return await self._ask("get_performance_metrics", request, GetPerformanceMetricsReply)

    async def performance_metrics(
        self,
        *,
        agent_name: str | None = None,
        metric_name: str | None = None,
        **window: Unpack[Window],
    ) -> AsyncGenerator[PerformanceMetric, None]:
        """Iterate over all samples, newest first."""
        cursor: str | None = None
        while True:
            page = await self.get_performance_metrics(
                agent_name=agent_name,
                metric_name=metric_name,
                limit=PAGE_ROWS,
                cursor=cursor,
                **window,
            )
            for metric in page.metrics:
                yield metric
            if (cursor := page.next_cursor) is None:
                return

    async def summary(
        self,
        metric_name: str,
        *,
        agent_name: str | None = None,
        **window: Unpack[Window],
    ) -> SummaryReply:
        """Count, mean and percentiles of a metric over a time window, which is widened to whole minutes."""
        request = SummaryRequest(metric_name=metric_name, agent_name=agent_name, **window)
        return await self._ask("summary", request, SummaryReply)

    # --- evaluations --------------------------------------------------------------------------------------

    async def log_model_evaluation(
        self,
        model_name: str,
        cycle_id: str,
        trust_score: float,
        *,
        accuracy: float | None = None,
        f1_score: float | None = None,
        avg_latency_ms: float = 0.0,
        comparison_data: Attachment = None,
        evaluation_id: str | None = None,
        evaluation_timestamp: Moment | None = None,
        version: int | None = None,
    ) -> LogModelEvaluationReply:
        """Log an evaluation of a model; the trust score is 0 to 1. The same ``evaluation_id`` is stored once.

        ``version``: which one was evaluated; None: the one that the model is at. Raises Conflict when the id
        was used for other content, and VersionNotFound.
        """
        request = LogModelEvaluationRequest(
            model_name=model_name,
            cycle_id=cycle_id,
            trust_score=trust_score,
            accuracy=accuracy,
            f1_score=f1_score,
            avg_latency_ms=avg_latency_ms,
            comparison_data=_plain(comparison_data),
            evaluation_id=evaluation_id,
            evaluation_timestamp=evaluation_timestamp,
            version=version,
        )
        return await self._ask("log_model_evaluation", request, LogModelEvaluationReply)

    async def get_model_evaluation_scores(
        self,
        *,
        model_name: str | None = None,
        cycle_id: str | None = None,
        **page: Unpack[Page],
    ) -> GetModelEvaluationScoresReply:
        """Get a page of evaluations, newest first, without retracted ones."""
        request = GetModelEvaluationScoresRequest(model_name=model_name, cycle_id=cycle_id, **page)
        return await self._ask("get_model_evaluation_scores", request, GetModelEvaluationScoresReply)

    async def model_evaluations(
        self,
        *,
        model_name: str | None = None,
        cycle_id: str | None = None,
        **window: Unpack[Window],
    ) -> AsyncGenerator[ModelEvaluation, None]:
        """Iterate over all evaluations, newest first."""
        cursor: str | None = None
        while True:
            page = await self.get_model_evaluation_scores(
                model_name=model_name,
                cycle_id=cycle_id,
                limit=PAGE_ROWS,
                cursor=cursor,
                **window,
            )
            for evaluation in page.evaluations:
                yield evaluation
            if (cursor := page.next_cursor) is None:
                return

    async def retract_model_evaluation(
        self, evaluation_id: str, *, reason: str | None = None
    ) -> RetractModelEvaluationReply:
        """Retract an evaluation; retracting it again is no error. Raises EvaluationNotFound."""
        request = RetractModelEvaluationRequest(evaluation_id=evaluation_id, reason=reason)
        return await self._ask("retract_model_evaluation", request, RetractModelEvaluationReply)

    async def compare_models(
        self, model_names: Sequence[str] = (), *, min_seq: int = 0
    ) -> CompareModelsReply:
        """Compare these models, or all that were evaluated or have crashed, the most trusted first."""
        request = CompareModelsRequest(model_names=tuple(model_names), min_seq=min_seq)
        return await self._ask("compare_models", request, CompareModelsReply)


def _plain(attachment: Attachment) -> str | dict[str, Any] | list[Any] | None:
    if attachment is None or isinstance(attachment, str):
        return attachment
    return dict(attachment) if isinstance(attachment, Mapping) else list(attachment)
