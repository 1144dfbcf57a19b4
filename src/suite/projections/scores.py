"""The table of model evaluations, one row each, which SQL readers also query; and pages of it for replies.

A retracted evaluation has no row. Its id is kept, so that a later copy does not bring it back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import aiosqlite
from msgspec import UNSET

from suite.domain.promotion import Sample
from suite.messages.actions.evaluation import (
    GetModelEvaluationScoresReply,
    GetModelEvaluationScoresRequest,
    ModelEvaluation,
)
from suite.messages.envelope import Recorded
from suite.messages.events import EvaluationEvent, EvaluationLogged, EvaluationRetracted
from suite.messages.times import from_sql, rfc3339, to_sql
from suite.projections.page import page

SCHEMA: Final = """
    CREATE TABLE model_evaluation_scores (
        evaluation_id TEXT PRIMARY KEY,
        model_name TEXT,
        cycle_id TEXT,
        trust_score REAL,
        accuracy REAL,
        f1_score REAL,
        avg_latency_ms REAL,
        evaluation_timestamp TIMESTAMP,
        comparison_data TEXT,
        seq INTEGER,
        version INTEGER
    );
    CREATE INDEX scores_by_time ON model_evaluation_scores (evaluation_timestamp, seq);
    CREATE INDEX scores_by_model ON model_evaluation_scores (model_name, evaluation_timestamp, seq);
    CREATE INDEX scores_by_cycle ON model_evaluation_scores (cycle_id, evaluation_timestamp, seq);
    CREATE INDEX scores_by_model_and_cycle
        ON model_evaluation_scores (model_name, cycle_id, evaluation_timestamp, seq);
    CREATE INDEX scores_in_order
        ON model_evaluation_scores (model_name, seq, cycle_id, trust_score, avg_latency_ms);
    CREATE INDEX scores_by_model_and_version
        ON model_evaluation_scores (model_name, version, evaluation_timestamp, seq);
    CREATE INDEX scores_by_version ON model_evaluation_scores (model_name, version, seq);
    CREATE TABLE retracted_evaluations (
        evaluation_id TEXT PRIMARY KEY,
        model_name TEXT,
        seq INTEGER,
        reason TEXT,
        version INTEGER
    );
    CREATE INDEX retracted_by_version ON retracted_evaluations (model_name, version, seq);
"""

_COLUMNS: Final = (
    "evaluation_id, model_name, cycle_id, trust_score, accuracy, f1_score, avg_latency_ms, "
    "evaluation_timestamp, comparison_data, seq, version"
)
_OF_BENCHMARK: Final = "iif(json_valid(comparison_data), json_extract(comparison_data, '{}'), NULL)"
"""What the evaluation of a benchmark tells of it; NULL for any other evaluation."""
_SOME: Final = 1000
MOST_SAMPLES: Final = 1000
"""So many of the newest evaluations of a version count."""


class _Subject(NamedTuple):
    """What an evaluation is about."""

    model_name: str
    version: int | None
    """None: not known."""


async def fold(db: aiosqlite.Connection, events: Sequence[Recorded]) -> Counter[str]:
    """Apply evaluations and retractions, in the order of the log. The first evaluation with an id counts.

    Returns by how much the number of evaluations of each affected model has changed.
    """
    facts = [event.data for event in events if isinstance(event.data, EvaluationEvent)]
    ids = [fact.evaluation_id for fact in facts]
    models = await _named(db, "model_evaluation_scores", ids)
    retracted = set(await _named(db, "retracted_evaluations", ids))
    rows: dict[str, tuple[Any, ...]] = {}
    retractions: list[tuple[str, str, int, str | None, int | None]] = []
    more: Counter[str] = Counter()
    for event in events:
        fact = event.data
        if not isinstance(fact, EvaluationEvent) or fact.evaluation_id in retracted:
            continue
        match fact:
            case EvaluationLogged() if fact.evaluation_id not in models:
                models[fact.evaluation_id] = _Subject(fact.model_name, fact.version or None)
                rows[fact.evaluation_id] = _row(event.seq, fact)
                more[fact.model_name] += 1
            case EvaluationRetracted():
                about = models.get(fact.evaluation_id)
                if about is not None:
                    more[about.model_name] -= 1
                rows.pop(fact.evaluation_id, None)
                retracted.add(fact.evaluation_id)
                model_name, version = about or _Subject(fact.model_name, None)
                retractions.append((fact.evaluation_id, model_name, event.seq, fact.reason, version))
    if retractions:
        await db.executemany("INSERT INTO retracted_evaluations VALUES (?, ?, ?, ?, ?)", retractions)
        await db.executemany(
            "DELETE FROM model_evaluation_scores WHERE evaluation_id = ?", [row[:1] for row in retractions]
        )
    if rows:
        await db.executemany(
            f"INSERT INTO model_evaluation_scores ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            list(rows.values()),
        )
    return more


async def find_evaluation(
    db: aiosqlite.Connection, evaluation_id: str
) -> tuple[EvaluationLogged | EvaluationRetracted, int] | None:
    """The evaluation with this id, or its retraction, with its seq; None if there is neither."""
    found = await db.execute_fetchall(
        f"SELECT {_COLUMNS} FROM model_evaluation_scores WHERE evaluation_id = ?", (evaluation_id,)
    )
    for _, model_name, cycle_id, trust_score, accuracy, f1_score, latency, timestamp, data, seq, own in found:
        evaluation = EvaluationLogged(
            evaluation_id=evaluation_id,
            model_name=model_name,
            cycle_id=cycle_id,
            trust_score=trust_score,
            accuracy=accuracy,
            f1_score=f1_score,
            avg_latency_ms=latency,
            evaluation_timestamp=from_sql(timestamp),
            comparison_data=data,
            version=own or UNSET,
        )
        return evaluation, seq
    found = await db.execute_fetchall(
        "SELECT model_name, reason, seq FROM retracted_evaluations WHERE evaluation_id = ?", (evaluation_id,)
    )
    for model_name, reason, seq in found:
        return EvaluationRetracted(evaluation_id=evaluation_id, model_name=model_name, reason=reason), seq
    return None


async def count_evaluations(db: aiosqlite.Connection) -> int:
    """How many evaluations were not retracted."""
    ((count,),) = await db.execute_fetchall("SELECT count(*) FROM model_evaluation_scores")
    return int(count)


async def evaluation_scores(
    db: aiosqlite.Connection, request: GetModelEvaluationScoresRequest
) -> GetModelEvaluationScoresReply:
    """A page of evaluations, newest first. Raises InvalidRequest for an invalid time or cursor."""
    wanted: dict[str, str | int | None] = {
        "model_name": request.model_name,
        "cycle_id": request.cycle_id,
        "version": request.version,
    }
    rows, cursor = await page(
        db,
        "model_evaluation_scores",
        "evaluation_id, model_name, cycle_id, trust_score, accuracy, f1_score, avg_latency_ms, "
        "comparison_data, version",
        "evaluation_timestamp",
        wanted,
        request,
    )
    return GetModelEvaluationScoresReply(evaluations=tuple(map(_told, rows)), next_cursor=cursor)


def _told(row: tuple[Any, ...]) -> ModelEvaluation:
    timestamp, _, evaluation_id, model_name, cycle_id, trust_score, accuracy, f1_score, latency, *rest = row
    data, version = rest
    return ModelEvaluation(
        evaluation_id=evaluation_id,
        model_name=model_name,
        cycle_id=cycle_id,
        trust_score=trust_score,
        accuracy=accuracy,
        f1_score=f1_score,
        avg_latency_ms=latency,
        evaluation_timestamp=rfc3339(from_sql(timestamp)),
        comparison_data=data,
        version=version,
    )


async def samples_of(db: aiosqlite.Connection, model_name: str, version: int) -> tuple[Sample, ...]:
    """What the newest evaluations of a version have measured, the newest first.

    `MOST_SAMPLES` evaluations at most are looked at. Of benchmarks with the same set the newest counts: what
    is asked again is no new evidence. One that had nothing to judge says nothing of the trust.
    """
    rows = await db.execute_fetchall(
        f"SELECT trust_score, accuracy, avg_latency_ms, {_OF_BENCHMARK.format('$.benchmark_id')}, "
        f"{_OF_BENCHMARK.format('$.result.quality.set_sha256')} FROM model_evaluation_scores "
        "INDEXED BY scores_by_version WHERE model_name = ? AND version = ? ORDER BY seq DESC LIMIT ?",
        (model_name, version, MOST_SAMPLES),
    )
    samples: list[Sample] = []
    sets: set[str] = set()
    for trust, accuracy, latency, benchmark_id, set_sha256 in rows:
        if benchmark_id is not None and set_sha256 is not None:
            if set_sha256 in sets:
                continue
            sets.add(set_sha256)
        says_nothing = benchmark_id is not None and accuracy is None
        samples.append(
            Sample(trust=None if says_nothing else trust, accuracy=accuracy, latency_ms=latency or None)
        )
    return tuple(samples)


async def count_of_version(db: aiosqlite.Connection, model_name: str, version: int) -> int:
    """How many evaluations of a version were not retracted."""
    ((count,),) = await db.execute_fetchall(
        "SELECT count(*) FROM model_evaluation_scores INDEXED BY scores_by_version "
        "WHERE model_name = ? AND version = ?",
        (model_name, version),
    )
    return int(count)


async def retractions_of(
    db: aiosqlite.Connection, model_name: str, version: int, after: int
) -> tuple[str, ...]:
    """The ids of the evaluations of a version that were retracted after an event."""
    rows = await db.execute_fetchall(
        "SELECT evaluation_id FROM retracted_evaluations INDEXED BY retracted_by_version "
        "WHERE model_name = ? AND version = ? AND seq > ? ORDER BY seq",
        (model_name, version, after),
    )
    return tuple(evaluation_id for (evaluation_id,) in rows)


def _row(seq: int, fact: EvaluationLogged) -> tuple[Any, ...]:
    return (
        fact.evaluation_id,
        fact.model_name,
        fact.cycle_id,
        fact.trust_score,
        fact.accuracy,
        fact.f1_score,
        fact.avg_latency_ms,
        to_sql(fact.evaluation_timestamp),
        fact.comparison_data,
        seq,
        fact.version or None,
    )


async def _named(db: aiosqlite.Connection, table: str, ids: Sequence[str]) -> dict[str, _Subject]:
    """What was evaluated, by id, for those of the ids that are in a table."""
    models: dict[str, _Subject] = {}
    for begin in range(0, len(ids), _SOME):
        some = ids[begin : begin + _SOME]
        found = await db.execute_fetchall(
            f"SELECT evaluation_id, model_name, version FROM {table} "
            f"WHERE evaluation_id IN ({', '.join('?' * len(some))})",
            some,
        )
        models.update((id, _Subject(model_name, version)) for id, model_name, version in found)
    return models
