"""The client's methods for how the service did over time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, Unpack

from suite.client.asking import Asking, told
from suite.client.windows import Page, Window
from suite.messages.actions.replay import PolicyName, ReplayHistoryReply, ReplayHistoryRequest
from suite.messages.actions.statistics import (
    GetBetsReply,
    GetBetsRequest,
    GetBetStatisticsReply,
    GetBetStatisticsRequest,
    GetMetricSeriesReply,
    GetMetricSeriesRequest,
    GetModelQualityReply,
    GetModelQualityRequest,
    GetRequestStatisticsReply,
    GetRequestStatisticsRequest,
    GetResidencyTimelineReply,
    GetResidencyTimelineRequest,
    ListMetricsReply,
    ListMetricsRequest,
)
from suite.messages.signals import Replaying


class Statistics(Asking):
    """How the service did over time. ``since``: null is a day before ``until``; ``until``: null is now."""

    async def get_request_statistics(
        self,
        model_id: str | None = None,
        *,
        limit: int = 20,
        **window: Unpack[Window],
    ) -> GetRequestStatisticsReply:
        """Get how many requests there were over time, how long they took, and what was reused."""
        request = GetRequestStatisticsRequest(model_id=model_id, limit=limit, **window)
        return await self._ask("get_request_statistics", request, GetRequestStatisticsReply)

    async def get_residency_timeline(
        self,
        model_id: str | None = None,
        *,
        of_node: str | None = None,
        resolution_seconds: float | None = None,
        **page: Unpack[Page],
    ) -> GetResidencyTimelineReply:
        """Get when which models were in memory, and why they came and left."""
        request = GetResidencyTimelineRequest(
            model_id=model_id, of_node=of_node, resolution_seconds=resolution_seconds, **page
        )
        return await self._ask("get_residency_timeline", request, GetResidencyTimelineReply)

    async def get_bet_statistics(
        self,
        model_id: str | None = None,
        **window: Unpack[Window],
    ) -> GetBetStatisticsReply:
        """Get what bets on the next use of models have brought over time, and how good their chances were."""
        request = GetBetStatisticsRequest(model_id=model_id, **window)
        return await self._ask("get_bet_statistics", request, GetBetStatisticsReply)

    async def get_bets(
        self,
        model_id: str | None = None,
        *,
        outcome: Literal["open", "hit", "waste"] | None = None,
        **page: Unpack[Page],
    ) -> GetBetsReply:
        """Get a page of bets, the newest first. Without ``since``, of all time."""
        request = GetBetsRequest(model_id=model_id, outcome=outcome, **page)
        return await self._ask("get_bets", request, GetBetsReply)

    async def list_metrics(self, *, limit: int = 1000, min_seq: int = 0) -> ListMetricsReply:
        """List the metrics that agents have logged."""
        return await self._ask(
            "list_metrics", ListMetricsRequest(limit=limit, min_seq=min_seq), ListMetricsReply
        )

    async def get_metric_series(
        self,
        metric_name: str,
        agent_name: str | None = None,
        **window: Unpack[Window],
    ) -> GetMetricSeriesReply:
        """Get how a metric went over time, by agent."""
        request = GetMetricSeriesRequest(metric_name=metric_name, agent_name=agent_name, **window)
        return await self._ask("get_metric_series", request, GetMetricSeriesReply)

    async def get_model_quality(
        self,
        model_names: Sequence[str],
        *,
        limit: int = 200,
        **window: Unpack[Window],
    ) -> GetModelQualityReply:
        """Get the evaluations of models and how the trust in them went. Without ``since``, of all time."""
        request = GetModelQualityRequest(model_names=tuple(model_names), limit=limit, **window)
        return await self._ask("get_model_quality", request, GetModelQualityReply)

    async def replay_history(
        self,
        *,
        policies: Sequence[PolicyName] = ("best_lately",),
        memory_gb: Sequence[float] = (),
        with_bets: bool = True,
        of_node: str | None = None,
        requests: int = 10_000,
        on_progress: Callable[[Replaying], None] | None = None,
    ) -> ReplayHistoryReply:
        """Replay the newest uses under several policies and budgets. It can take minutes.

        ``on_progress`` is called with how far it is. When this call is cancelled, the replay ends in seconds.
        """
        request = ReplayHistoryRequest(
            policies=tuple(policies),
            memory_gb=tuple(memory_gb),
            with_bets=with_bets,
            of_node=of_node,
            requests=requests,
            stream=True,  # so that the node knows when nobody waits for it any more
        )
        return await self._exchange(
            "replay_history", request, ReplayHistoryReply, told(Replaying, on_progress)
        )
