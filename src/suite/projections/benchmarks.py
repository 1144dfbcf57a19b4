"""The table of benchmarks, one row each: which are open, and what came out of the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import aiosqlite
import msgspec

from suite.messages.actions.benchmark import BenchmarkInfo, GetBenchmarksReply, GetBenchmarksRequest
from suite.messages.benchmarks import BenchmarkResult
from suite.messages.envelope import Recorded
from suite.messages.events import (
    BenchmarkCancelled,
    BenchmarkFailed,
    BenchmarkFinished,
    BenchmarkMoved,
    BenchmarkProgressed,
    BenchmarkStarted,
)
from suite.messages.times import from_sql, rfc3339, to_sql
from suite.projections.page import page

SCHEMA: Final = """
    CREATE TABLE benchmarks (
        benchmark_id TEXT PRIMARY KEY,
        model_id TEXT NOT NULL,
        node TEXT NOT NULL,
        cycle_id TEXT NOT NULL,
        started_at TIMESTAMP NOT NULL,
        ended_at TIMESTAMP,
        state TEXT NOT NULL,
        done INTEGER NOT NULL,
        total INTEGER NOT NULL,
        waits INTEGER NOT NULL,
        code TEXT,
        message TEXT,
        evaluation_id TEXT,
        result TEXT,
        seq INTEGER NOT NULL
    );
    CREATE INDEX benchmarks_by_time ON benchmarks (started_at, seq);
    CREATE INDEX benchmarks_by_model ON benchmarks (model_id, started_at, seq);
    CREATE INDEX benchmarks_by_state ON benchmarks (state, started_at, seq);
    CREATE INDEX benchmarks_by_model_and_state ON benchmarks (model_id, state, started_at, seq);
"""

_END: Final = (
    "UPDATE benchmarks SET state = ?, waits = 0, ended_at = ?, code = ?, message = ?, evaluation_id = ?, "
    "result = ? WHERE benchmark_id = ? AND state = 'open'"
)
_encode = msgspec.json.Encoder().encode
_result = msgspec.json.Decoder(BenchmarkResult).decode


async def fold(db: aiosqlite.Connection, events: Sequence[Recorded]) -> None:
    """Apply the events of benchmarks, in the order of the log."""
    for event in events:
        fact, at = event.data, to_sql(event.time)
        match fact:
            case BenchmarkStarted():
                await db.execute(
                    "INSERT INTO benchmarks (benchmark_id, model_id, node, cycle_id, started_at, state, "
                    "done, total, waits, seq) VALUES (?, ?, ?, ?, ?, 'open', 0, ?, 0, ?) "
                    "ON CONFLICT DO NOTHING",
                    (
                        fact.benchmark_id,
                        fact.model_id,
                        fact.node,
                        fact.cycle_id,
                        at,
                        len(fact.streams) * fact.rounds + len(fact.questions),
                        event.seq,
                    ),
                )
            case BenchmarkProgressed():
                await db.execute(
                    "UPDATE benchmarks SET done = done + ?, waits = ? WHERE benchmark_id = ?",
                    (len(fact.rounds) + len(fact.answers), fact.waits, fact.benchmark_id),
                )
            case BenchmarkMoved():
                await db.execute(
                    "UPDATE benchmarks SET node = ?, done = ?, waits = 0 "
                    "WHERE benchmark_id = ? AND state = 'open'",
                    (fact.node, fact.answered, fact.benchmark_id),
                )
            case BenchmarkFinished():
                result = _encode(fact.result).decode()
                await db.execute(
                    _END, ("finished", at, None, None, fact.evaluation_id, result, fact.benchmark_id)
                )
            case BenchmarkFailed():
                await db.execute(_END, ("failed", at, fact.code, fact.message, None, None, fact.benchmark_id))
            case BenchmarkCancelled():
                await db.execute(_END, ("cancelled", at, None, None, None, None, fact.benchmark_id))
            case _:
                pass


async def open_benchmarks(db: aiosqlite.Connection, node: str) -> list[str]:
    """The ids of the benchmarks that a node has to run, the one that was started first in front."""
    rows = await db.execute_fetchall(
        "SELECT benchmark_id FROM benchmarks WHERE state = 'open' AND node = ? ORDER BY seq", (node,)
    )
    return [benchmark_id for (benchmark_id,) in rows]


async def open_elsewhere(db: aiosqlite.Connection, node: str) -> list[tuple[str, str, str]]:
    """The benchmarks that other nodes have to run: id, model and node, the one started first in front."""
    rows = await db.execute_fetchall(
        "SELECT benchmark_id, model_id, node FROM benchmarks WHERE state = 'open' AND node != ? ORDER BY seq",
        (node,),
    )
    return [(benchmark_id, model_id, other) for benchmark_id, model_id, other in rows]


async def benchmarks(db: aiosqlite.Connection, request: GetBenchmarksRequest) -> GetBenchmarksReply:
    """A page of benchmarks, newest first. Raises InvalidRequest for an invalid time or cursor."""
    rows, cursor = await page(
        db,
        "benchmarks",
        "benchmark_id, model_id, node, cycle_id, ended_at, state, done, total, waits, code, message, "
        "evaluation_id, result",
        "started_at",
        {"model_id": request.model_id, "state": request.state},
        request,
    )
    return GetBenchmarksReply(benchmarks=tuple(map(_told, rows)), next_cursor=cursor)


async def latest_results(
    db: aiosqlite.Connection, names: Sequence[str] | None
) -> dict[str, tuple[str, BenchmarkResult]]:
    """The node and the result of the last finished benchmark of each model, of these or of all.

    One whose evaluation was retracted does not count.
    """
    wanted = "" if names is None else f"AND model_id IN ({', '.join('?' * len(names))})"
    rows = await db.execute_fetchall(
        "SELECT model_id, node, result FROM benchmarks AS one WHERE state = 'finished' AND EXISTS "
        "(SELECT 1 FROM model_evaluation_scores AS score WHERE score.evaluation_id = one.evaluation_id) "
        f"{wanted} ORDER BY ended_at, seq",
        tuple(names or ()),
    )
    return {model_id: (node, _result(result)) for model_id, node, result in rows}


def _told(row: tuple[Any, ...]) -> BenchmarkInfo:
    started_at, _, benchmark_id, model_id, node, cycle_id, ended_at, state, done, total, *rest = row
    waits, code, message, evaluation_id, result = rest
    return BenchmarkInfo(
        benchmark_id=benchmark_id,
        model_id=model_id,
        runs_on=node,
        state=state,
        started_at=rfc3339(from_sql(started_at)),
        ended_at=None if ended_at is None else rfc3339(from_sql(ended_at)),
        cycle_id=cycle_id,
        done=done,
        total=total,
        waits=bool(waits),
        code=code,
        message=message,
        evaluation_id=evaluation_id,
        result=None if result is None else _result(result),
    )
