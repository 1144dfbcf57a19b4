"""Answers `summary`: statistics of a metric's samples in a time window, per agent and for all agents."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Final

import aiosqlite
import anyio.to_thread

from suite.messages.actions.evaluation import MetricSummary, SummaryReply, SummaryRequest
from suite.messages.times import rfc3339
from suite.projections.buckets import AFTER_ALL, BEFORE_ALL, minute_of, read
from suite.projections.page import window
from suite.projections.reply_size import as_many_as_fit, left_out
from suite.projections.sketch import RELATIVE_ERROR, Sketch

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_MINUTE: Final = minute_of(datetime.max.replace(tzinfo=UTC))


async def summary(db: aiosqlite.Connection, request: SummaryRequest) -> SummaryReply:
    """Statistics over the window, widened to whole minutes, for as many agents as fit into a reply.

    Raises InvalidRequest for an invalid time, and for a window that does not end after it begins.
    """
    since, until = window(request.since, request.until)
    begin = BEFORE_ALL if since is None else minute_of(since)
    end = AFTER_ALL if until is None else minute_of(until, up=True)
    if end > _LAST_MINUTE:  # datetime cannot express this end, and no sample is later
        end = AFTER_ALL
    parts = await read(db, request.metric_name, request.agent_name, begin, end)
    # This takes some milliseconds, which would block the event loop.
    total, agents = await anyio.to_thread.run_sync(_figures, parts)
    by_agent = as_many_as_fit(agents)
    return SummaryReply(
        metric_name=request.metric_name,
        since=_time(begin),
        until=_time(end),
        relative_error=RELATIVE_ERROR,
        total=total,
        by_agent=by_agent,
        warnings=left_out(agents, by_agent, "agents after these"),
    )


def _figures(parts: Iterable[tuple[str, bytes]]) -> tuple[MetricSummary | None, tuple[MetricSummary, ...]]:
    agents: defaultdict[str, Sketch] = defaultdict(Sketch)
    for agent_name, packed in parts:
        agents[agent_name].absorb(packed)
    if not agents:
        return None, ()
    total = Sketch()
    for sketch in agents.values():
        total.merge(sketch)
    return _told(None, total), tuple(_told(agent, sketch) for agent, sketch in sorted(agents.items()))


def _told(agent_name: str | None, sketch: Sketch) -> MetricSummary:
    p50, p95, p99 = sketch.percentiles(50, 95, 99)
    return MetricSummary(
        agent_name=agent_name,
        count=sketch.count,
        mean=sketch.mean,
        min=sketch.low,
        max=sketch.high,
        p50=p50,
        p95=p95,
        p99=p99,
    )


def _time(minute: int) -> str | None:
    if minute in (BEFORE_ALL, AFTER_ALL):
        return None
    return rfc3339(_EPOCH + timedelta(seconds=minute))
