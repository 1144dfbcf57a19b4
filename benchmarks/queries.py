"""Asking 1,000,000 samples for pages and summaries, and asking a service for what was written just before.

    .venv/bin/python benchmarks/queries.py [--quick]

The samples (100,000 with --quick; 20 agents with 5 metrics each, over 30 days) are folded into the file of
the evaluation read model as in use, but without NATS. All is asked over the read model's own read-only
connections, in this process on uvloop; the references ask the same file in the same turn, in plain SQL:

- lookups: pages of 100 samples of random agents, metrics and windows, from one page to the next by cursor.
  Reference: pages at the same places by ``ORDER BY ... LIMIT ... OFFSET``, with the same indexes.
- summaries: of a random metric over random windows, of one minute to everything, of one agent or all.
  Reference: exact percentiles by ``row_number()``, over the same samples. The largest difference between the
  two percentiles, as a fraction, stands beside the error that the sketch allows.
- read your writes: in a real service, a sample is logged over one connection and asked for over another,
  which says from the reply what it must see. Reference: the logging alone. Then how many were not seen.

Prints p50 and p99 in milliseconds, lower is better.
"""

from __future__ import annotations

import random
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import aiosqlite
import anyio
import msgspec

import suite
from harness import quick, report
from service import running_service
from suite.client import Client
from suite.messages.actions.evaluation import GetPerformanceMetricsRequest, SummaryReply, SummaryRequest
from suite.messages.actor import NatsAccess
from suite.messages.envelope import Recorded
from suite.messages.events import MetricLogged
from suite.messages.times import parse_time, rfc3339, to_sql
from suite.projections.evaluation import EvaluationProjection
from suite.projections.file import ProjectionFile
from suite.projections.pool import ConnectionPool
from suite.projections.samples import performance_metrics
from suite.projections.sketch import RELATIVE_ERROR
from suite.projections.summary import summary
from workload import AGENTS, END, METRICS, SPAN, Workload

BATCH = 2000
LIMIT = 100
EXPIRES = END + timedelta(days=90)
PERCENTS = (50, 95, 99)

T = TypeVar("T")


class Scale(NamedTuple):
    """How much is measured."""

    samples: int
    walks: int
    pages: int
    """Of each walk, at most."""
    summaries: int
    exact: int
    """Of the summaries that the reference computes too."""
    tries: int


QUICK = Scale(samples=100_000, walks=40, pages=30, summaries=300, exact=60, tries=500)
FULL = Scale(samples=1_000_000, walks=200, pages=100, summaries=3000, exact=150, tries=10_000)


class Times:
    """How long each of many calls took, in milliseconds."""

    def __init__(self) -> None:
        self.taken: list[float] = []

    async def measure(self, call: Awaitable[T]) -> T:
        began = time.perf_counter()
        result = await call
        self.taken.append(1000 * (time.perf_counter() - began))
        return result

    def percentiles(self) -> tuple[float, float]:
        """The median and the 99th percentile."""
        cuts = statistics.quantiles(self.taken, n=100, method="inclusive")
        return cuts[49], cuts[98]


def report_both(name: str, ours: Times, reference: Times) -> None:
    both = zip(("p50", "p99"), ours.percentiles(), reference.percentiles(), strict=True)
    for title, our, other in both:
        report(f"{name}, {title}", our, other, unit="ms", better="lower")


# --- the samples ------------------------------------------------------------------------------------------


def recorded(seq: int, sample: MetricLogged) -> Recorded:
    return Recorded(
        seq=seq,
        subject=f"suite.event.metric.{sample.agent_name}.logged",
        id=sample.metric_id,
        type=sample.type,
        source="/node/box1",
        time=sample.timestamp,
        data=sample,
        expires=EXPIRES,
    )


@asynccontextmanager
async def read_model(samples: int) -> AsyncIterator[aiosqlite.Connection]:
    """A connection for queries of a read model that has folded the samples."""
    with tempfile.TemporaryDirectory() as directory:
        path, workload = Path(directory) / "model_evaluation.db", Workload(samples)
        async with ProjectionFile.open(path, EvaluationProjection(), "made up") as file:
            for begin in range(0, samples, BATCH):
                numbers = range(begin, min(begin + BATCH, samples))
                await file.fold([recorded(number + 1, workload.metric(number)) for number in numbers])
            readers = await ConnectionPool.open(path)
            async with readers.lent() as db:
                yield db
            await readers.close()


# --- lookups ----------------------------------------------------------------------------------------------


def some_time() -> datetime:
    return END - SPAN * random.random()


def lookup() -> GetPerformanceMetricsRequest:
    """Any filters, and in half of the cases a window."""
    since, until = sorted((some_time(), some_time())) if random.random() < 0.5 else (None, None)
    return GetPerformanceMetricsRequest(
        agent_name=random.choice((None, random.choice(AGENTS))),
        metric_name=random.choice((None, random.choice(tuple(METRICS)))),
        since=None if since is None else rfc3339(since),
        until=None if until is None else rfc3339(until),
        limit=LIMIT,
    )


def conditions(
    request: GetPerformanceMetricsRequest | SummaryRequest, since: object, until: object
) -> tuple[str, list[Any]]:
    wanted = {
        "agent_name = ?": request.agent_name,
        "metric_name = ?": request.metric_name,
        "timestamp >= ?": None if since is None else to_sql(parse_time(str(since), "since")),
        "timestamp < ?": None if until is None else to_sql(parse_time(str(until), "until")),
    }
    used = {condition: value for condition, value in wanted.items() if value is not None}
    return " AND ".join(used) or "TRUE", list(used.values())


async def offset_page(db: aiosqlite.Connection, request: GetPerformanceMetricsRequest, page: int) -> None:
    where, values = conditions(request, request.since, request.until)
    await db.execute_fetchall(
        "SELECT metric_id, agent_name, metric_name, value, timestamp, context FROM performance_metrics "
        f"WHERE {where} ORDER BY timestamp DESC, seq DESC LIMIT {LIMIT} OFFSET {page * LIMIT}",
        values,
    )


async def measure_lookups(db: aiosqlite.Connection, scale: Scale) -> None:
    ours, reference = Times(), Times()
    for _ in range(scale.walks):
        request = asked = lookup()
        for page in range(scale.pages):
            reply = await ours.measure(performance_metrics(db, asked))
            if random.random() < 0.1:
                await reference.measure(offset_page(db, request, page))
            if reply.next_cursor is None:
                break
            asked = msgspec.structs.replace(request, cursor=reply.next_cursor)
    report_both("lookup", ours, reference)


# --- summaries --------------------------------------------------------------------------------------------


def window() -> SummaryRequest:
    """Of a minute to all 30 days, as many short ones as long ones; every tenth has no ends."""
    length = timedelta(minutes=1) * (SPAN / timedelta(minutes=1)) ** random.random()
    since = END - SPAN + (SPAN - length) * random.random()
    bounded = random.random() < 0.9
    return SummaryRequest(
        metric_name=random.choice(tuple(METRICS)),
        agent_name=random.choice((None, random.choice(AGENTS))),
        since=rfc3339(since) if bounded else None,
        until=rfc3339(since + length) if bounded else None,
    )


async def exact(db: aiosqlite.Connection, request: SummaryRequest, told: SummaryReply) -> list[Any]:
    """Count, mean, lowest, highest and percentiles by nearest rank, over the window of a reply."""
    where, values = conditions(request, told.since, told.until)
    percentiles = ", ".join(f"min(value) FILTER (WHERE place >= (n * {p} + 99) / 100)" for p in PERCENTS)
    ((*figures,),) = await db.execute_fetchall(
        f"SELECT count(*), avg(value), min(value), max(value), {percentiles} FROM (SELECT value, "
        "row_number() OVER (ORDER BY value) AS place, count(*) OVER () AS n FROM performance_metrics "
        f"WHERE {where})",
        values,
    )
    return figures


async def measure_summaries(db: aiosqlite.Connection, scale: Scale) -> None:
    ours, reference = Times(), Times()
    error = 0.0
    for number in range(scale.summaries):
        request = window()
        told = await ours.measure(summary(db, request))
        if number % (scale.summaries // scale.exact):
            continue
        count, _, _, _, *percentiles = await reference.measure(exact(db, request, told))
        assert (told.total.count if told.total is not None else 0) == count
        if told.total is not None:
            found = (told.total.p50, told.total.p95, told.total.p99)
            pairs = zip(found, percentiles, strict=True)
            error = max(error, *(abs(one / other - 1) for one, other in pairs))
    report_both("summary", ours, reference)
    report("summary, relative error", error, RELATIVE_ERROR, unit="fraction", better="lower")


# --- read your writes -------------------------------------------------------------------------------------


async def seen(writer: Client, reader: Client, writes: Times) -> bool:
    logged = await writes.measure(writer.log_performance_metric(AGENTS[0], "response_time_ms", 12.5))
    found = await reader.get_performance_metrics(agent_name=AGENTS[0], limit=1, min_seq=logged.seq)
    return [metric.metric_id for metric in found.metrics] == [logged.metric_id]


def connected(access: NatsAccess) -> AbstractAsyncContextManager[Client]:
    return suite.connect(
        access.url, user=access.user, password=access.password, inbox_prefix=access.inbox_prefix
    )


async def measure_read_your_writes(scale: Scale) -> None:
    pairs, writes = Times(), Times()
    misses = 0
    async with running_service() as (writer, access), connected(access) as reader:
        for _ in range(scale.tries):
            misses += not await pairs.measure(seen(writer, reader, writes))
    report_both("write and read", pairs, writes)
    report(f"writes not seen, of {scale.tries}", misses, scale.tries, unit="reads", better="lower")


async def main(scale: Scale) -> None:
    random.seed(0)
    async with read_model(scale.samples) as db:
        await measure_lookups(db, scale)
        await measure_summaries(db, scale)
    await measure_read_your_writes(scale)


if __name__ == "__main__":
    anyio.run(main, QUICK if quick(__doc__) else FULL, backend_options={"use_uvloop": True})
