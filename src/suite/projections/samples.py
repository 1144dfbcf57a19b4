"""The table of metric samples, one row each, which SQL readers also query; and pages of it for replies."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final, TypeAlias

import aiosqlite

from suite.messages.actions.evaluation import (
    GetPerformanceMetricsReply,
    GetPerformanceMetricsRequest,
    PerformanceMetric,
)
from suite.messages.envelope import Recorded
from suite.messages.events import MetricLogged
from suite.messages.times import from_sql, rfc3339, to_sql
from suite.projections.page import page
from suite.projections.projection import EXPIRE_ROWS, remove_expired

Row: TypeAlias = tuple[str, str, str, float, str, str | None, int, int | None]
"""metric_id, agent_name, metric_name, value, timestamp, context, seq, expires."""

SCHEMA: Final = """
    CREATE TABLE performance_metrics (
        metric_id TEXT PRIMARY KEY,
        agent_name TEXT,
        metric_name TEXT,
        value REAL,
        timestamp TIMESTAMP,
        context TEXT,
        seq INTEGER,
        expires INTEGER
    );
    CREATE INDEX metrics_by_time ON performance_metrics (timestamp, seq);
    CREATE INDEX metrics_by_agent ON performance_metrics (agent_name, timestamp, seq);
    CREATE INDEX metrics_by_name ON performance_metrics (metric_name, timestamp, seq);
    CREATE INDEX metrics_by_agent_and_name ON performance_metrics (agent_name, metric_name, timestamp, seq);
    CREATE INDEX metrics_by_expiry ON performance_metrics (expires) WHERE expires IS NOT NULL;
    CREATE TABLE repeated_metrics (
        seq INTEGER PRIMARY KEY,
        metric_id TEXT,
        agent_name TEXT,
        metric_name TEXT,
        value REAL,
        timestamp TIMESTAMP,
        context TEXT,
        expires INTEGER
    );
"""
"""`repeated_metrics` holds samples with an id that was already taken, because two nodes logged it at once.
The first sample counts until it expires. If the other one lives longer, it counts from then on, since it is
all that the log still has."""

_COLUMNS: Final = "metric_id, agent_name, metric_name, value, timestamp, context, seq, expires"
_MARKS: Final = "(?, ?, ?, ?, ?, ?, ?, ?)"
_SOME: Final = 1000


def row(recorded: Recorded, sample: MetricLogged) -> Row:
    """The row of a sample in the log."""
    return (
        sample.metric_id,
        sample.agent_name,
        sample.metric_name,
        sample.value,
        to_sql(sample.timestamp),
        sample.context,
        recorded.seq,
        None if recorded.expires is None else int(recorded.expires.timestamp()),
    )


async def add(db: aiosqlite.Connection, rows: list[Row]) -> list[Row]:
    """Insert samples, in the order of the log. Returns those whose id is new."""
    cursor = await db.executemany(
        f"INSERT INTO performance_metrics ({_COLUMNS}) VALUES {_MARKS} ON CONFLICT (metric_id) DO NOTHING",
        rows,
    )
    if cursor.rowcount == len(rows):
        return rows
    kept = await _kept(db, [row[0] for row in rows])
    repeated = [row for row in rows if row[6] not in kept]
    await db.executemany(f"INSERT INTO repeated_metrics ({_COLUMNS}) VALUES {_MARKS}", repeated)
    return [row for row in rows if row[6] in kept]


async def expire(db: aiosqlite.Connection, now: datetime) -> tuple[list[Row], bool]:
    """Remove expired rows, a few thousand at most.

    Returns the repeated samples that count from now on because the first one expired, and whether there may
    be more rows to remove.
    """
    repeated = await remove_expired(db, "repeated_metrics", now)
    removed = await remove_expired(db, "performance_metrics", now)
    more = EXPIRE_ROWS in (repeated, removed)
    if not removed:
        return [], more
    found = await db.execute_fetchall(
        f"SELECT {_COLUMNS} FROM repeated_metrics AS later WHERE ifnull(expires > ?, TRUE) AND NOT EXISTS "
        "(SELECT 1 FROM performance_metrics AS first WHERE first.metric_id = later.metric_id) ORDER BY seq",
        (int(now.timestamp()),),
    )
    rows: list[Row] = [tuple(row) for row in found]
    if not rows:
        return [], more
    await db.executemany("DELETE FROM repeated_metrics WHERE seq = ?", [(row[6],) for row in rows])
    return await add(db, rows), more


async def find_metric(db: aiosqlite.Connection, metric_id: str) -> tuple[MetricLogged, int] | None:
    """The sample with this id, and its seq; None if there is none."""
    found = await db.execute_fetchall(
        f"SELECT {_COLUMNS} FROM performance_metrics WHERE metric_id = ?", (metric_id,)
    )
    for _, agent_name, metric_name, value, timestamp, context, seq, _ in found:
        sample = MetricLogged(
            metric_id=metric_id,
            agent_name=agent_name,
            metric_name=metric_name,
            value=value,
            timestamp=from_sql(timestamp),
            context=context,
        )
        return sample, seq
    return None


async def count_samples(db: aiosqlite.Connection) -> int:
    """How many samples there are."""
    ((count,),) = await db.execute_fetchall("SELECT count(*) FROM performance_metrics")
    return int(count)


async def performance_metrics(
    db: aiosqlite.Connection, request: GetPerformanceMetricsRequest
) -> GetPerformanceMetricsReply:
    """A page of samples, newest first. Raises InvalidRequest for an invalid time or cursor."""
    rows, cursor = await page(
        db,
        "performance_metrics",
        "metric_id, agent_name, metric_name, value, context",
        "timestamp",
        {"agent_name": request.agent_name, "metric_name": request.metric_name},
        request,
    )
    return GetPerformanceMetricsReply(
        metrics=tuple(
            PerformanceMetric(
                metric_id=metric_id,
                agent_name=agent_name,
                metric_name=metric_name,
                value=value,
                timestamp=rfc3339(from_sql(timestamp)),
                context=context,
            )
            for timestamp, _, metric_id, agent_name, metric_name, value, context in rows
        ),
        next_cursor=cursor,
    )


async def _kept(db: aiosqlite.Connection, ids: Sequence[str]) -> set[int]:
    """The seqs of the rows with these ids."""
    seqs: set[int] = set()
    for begin in range(0, len(ids), _SOME):
        some = ids[begin : begin + _SOME]
        marks = ", ".join("?" * len(some))
        seqs.update(
            seq
            for (seq,) in await db.execute_fetchall(
                f"SELECT seq FROM performance_metrics WHERE metric_id IN ({marks})", some
            )
        )
    return seqs
