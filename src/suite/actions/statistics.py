"""How the service did over time. Each node answers from its own read models, which are of the whole fleet."""

from __future__ import annotations

from functools import partial

import anyio.to_thread
from msgspec.structs import replace

from suite.bus.service import Call, action
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
    ModelQuality,
)
from suite.node.node import Node
from suite.projections import bets, metrics, quality, requests, stays
from suite.projections.page import window
from suite.projections.reply_size import as_many_as_fit, left_out


@action("get_request_statistics", is_lookup=True)
async def get_request_statistics(
    node: Node, request: GetRequestStatisticsRequest, _: Call
) -> GetRequestStatisticsReply:
    """Get how many requests there were over time, how long they took, and what was reused."""
    request = replace(request, model_id=_canonical(node, request.model_id))
    async with node.projections.usage.reading(request.min_seq, own_seq=node.last_seq) as db:
        return await requests.request_statistics(db, request, node.now())


@action("get_residency_timeline", is_lookup=True)
async def get_residency_timeline(
    node: Node, request: GetResidencyTimelineRequest, _: Call
) -> GetResidencyTimelineReply:
    """Get when which models were in memory, and why they came and left."""
    request = replace(request, model_id=_canonical(node, request.model_id))
    async with node.projections.history.reading(request.min_seq, own_seq=node.last_seq) as db:
        return await stays.timeline(db, request, node.now())


@action("get_bet_statistics", is_lookup=True)
async def get_bet_statistics(node: Node, request: GetBetStatisticsRequest, _: Call) -> GetBetStatisticsReply:
    """Get what bets on the next use of models have brought over time, and how good their chances were."""
    request = replace(request, model_id=_canonical(node, request.model_id))
    async with node.projections.history.reading(request.min_seq, own_seq=node.last_seq) as db:
        return await bets.bet_statistics(db, request, node.now())


@action("get_bets", is_lookup=True)
async def get_bets(node: Node, request: GetBetsRequest, _: Call) -> GetBetsReply:
    """Get bets on the next use of models, the newest first."""
    request = replace(request, model_id=_canonical(node, request.model_id))
    async with node.projections.history.reading(request.min_seq, own_seq=node.last_seq) as db:
        return await bets.bets(db, request)


@action("list_metrics", is_lookup=True)
async def list_metrics(node: Node, request: ListMetricsRequest, _: Call) -> ListMetricsReply:
    """List the metrics that agents have logged."""
    async with node.projections.evaluation.reading(request.min_seq, own_seq=node.last_seq) as db:
        return await metrics.list_metrics(db, request)


@action("get_metric_series", is_lookup=True)
async def get_metric_series(node: Node, request: GetMetricSeriesRequest, _: Call) -> GetMetricSeriesReply:
    """Get how a metric went over time, by agent."""
    async with node.projections.evaluation.reading(request.min_seq, own_seq=node.last_seq) as db:
        return await metrics.metric_series(db, request, node.now())


@action("get_model_quality", is_lookup=True)
async def get_model_quality(node: Node, request: GetModelQualityRequest, _: Call) -> GetModelQualityReply:
    """Get the evaluations of models over time, and how the trust in them went."""
    names = dict.fromkeys(map(node.fleet.meant, request.model_names))  # as they are evaluated
    models = [await _quality(node, request, name) for name in names]
    kept = as_many_as_fit(models)
    return GetModelQualityReply(models=kept, warnings=left_out(models, kept, "models after these"))


async def _quality(node: Node, request: GetModelQualityRequest, name: str) -> ModelQuality:
    since, until = window(request.since, request.until)
    async with node.projections.evaluation.reading(request.min_seq, own_seq=node.last_seq) as db:
        evaluations = await quality.evaluations_of(db, name, since, until)
    async with node.projections.history.reading(request.min_seq, own_seq=node.last_seq) as db:
        lives = await quality.lives_of(db, name, evaluations.content_since)
    told = partial(quality.quality, name, evaluations, lives, since=since, until=until, most=request.limit)
    return await anyio.to_thread.run_sync(told)  # of many loads it would block the event loop


def _canonical(node: Node, model_id: str | None) -> str | None:
    return None if model_id is None else node.fleet.canonical(model_id)
