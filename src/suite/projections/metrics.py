"""Metric samples in buckets of time: which metrics there are, and how each went over time, by agent."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime

import aiosqlite
import anyio.to_thread

from suite.messages.actions.statistics import (
    AgentPoint,
    AgentSeries,
    GetMetricSeriesReply,
    GetMetricSeriesRequest,
    ListMetricsReply,
    ListMetricsRequest,
    MetricName,
)
from suite.messages.times import rfc3339
from suite.projections import buckets
from suite.projections.buckets import HOUR, Piece, time_of
from suite.projections.over_time import Window
from suite.projections.reply_size import as_many_as_fit, left_out
from suite.projections.sketch import Sketch


async def list_metrics(db: aiosqlite.Connection, request: ListMetricsRequest) -> ListMetricsReply:
    """The metrics of which there are samples, by name, with their agents."""
    rows = await db.execute_fetchall(
        "SELECT metric_name, agent_name, max(start) FROM metric_spans WHERE width = ? "
        "GROUP BY metric_name, agent_name ORDER BY metric_name, agent_name",
        (HOUR,),
    )
    agents: defaultdict[str, list[str]] = defaultdict(list)
    newest: dict[str, int] = {}
    for metric_name, agent_name, start in rows:
        agents[metric_name].append(agent_name)
        newest[metric_name] = max(start, newest.get(metric_name, start))
    every = [
        MetricName(metric_name=name, agents=tuple(of), newest_hour=rfc3339(time_of(newest[name])))
        for name, of in agents.items()
    ]
    kept = as_many_as_fit(every, limit=request.limit)
    return ListMetricsReply(metrics=kept, warnings=left_out(every, kept, "metrics after these"))


async def metric_series(
    db: aiosqlite.Connection, request: GetMetricSeriesRequest, now: datetime
) -> GetMetricSeriesReply:
    """How a metric went over time, by agent.

    Raises InvalidRequest for an invalid time, and for a window that does not end after it begins.
    """
    window = Window.of(request, await buckets.first_minute(db, request.metric_name), now)
    steps = Piece(window.step, window.begin, window.end)
    rows = await buckets.read_steps(db, request.metric_name, request.agent_name, steps)
    every = await anyio.to_thread.run_sync(_by_agent, rows, window)
    kept = as_many_as_fit(every)
    return GetMetricSeriesReply(
        metric_name=request.metric_name,
        since=rfc3339(time_of(window.begin)),
        until=rfc3339(time_of(window.end)),
        step_seconds=window.step,
        agents=kept,
        warnings=left_out(every, kept, "agents after these"),
    )


def _by_agent(rows: Iterable[tuple[str, int, bytes]], window: Window) -> list[AgentSeries]:
    sketches: defaultdict[str, defaultdict[int, Sketch]] = defaultdict(lambda: defaultdict(Sketch))
    for agent_name, start, packed in rows:
        sketches[agent_name][window.step_of(start)].absorb(packed)
    return [
        AgentSeries(
            agent_name=agent_name, points=tuple(_point(at, sketch) for at, sketch in sorted(points.items()))
        )
        for agent_name, points in sorted(sketches.items())
    ]


def _point(at: int, sketch: Sketch) -> AgentPoint:
    p50, p95 = sketch.percentiles(50, 95)
    return AgentPoint(
        start=rfc3339(time_of(at)),
        count=sketch.count,
        mean=sketch.mean,
        min=sketch.low,
        max=sketch.high,
        p50=p50,
        p95=p95,
    )
