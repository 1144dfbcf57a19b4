"""The table of model evaluations, one row each, which SQL readers also query; and pages of it for replies.

A retracted evaluation has no row. Its id is kept, so that a later copy does not bring it back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

import aiosqlite

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
        seq INTEGER
    );
    CREATE INDEX scores_by_time ON model_evaluation_scores (evaluation_timestamp, seq);
    CREATE INDEX scores_by_model ON model_evaluation_scores (model_name, evaluation_timestamp, seq);
    CREATE INDEX scores_by_cycle ON model_evaluation_scores (cycle_id, evaluation_timestamp, seq);
    CREATE INDEX scores_by_model_and_cycle
        ON model_evaluation_scores (model_name, cycle_id, evaluation_timestamp, seq);
    CREATE INDEX scores_in_order
        ON model_evaluation_scores (model_name, seq, cycle_id, trust_score, avg_latency_ms);
    CREATE TABLE retracted_evaluations (
        evaluation_id TEXT PRIMARY KEY,
        model_name TEXT,
        seq INTEGER,
        reason TEXT
    );
"""

_COLUMNS: Final = (
    "evaluation_id, model_name, cycle_id, trust_score, accuracy, f1_score, avg_latency_ms, "
    "evaluation_timestamp, comparison_data, seq"
)
_SOME: Final = 1000


async def fold(db: aiosqlite.Connection, events: Sequence[Recorded]) -> Counter[str]:
    """Apply evaluations and retractions, in the order of the log. The first evaluation with an id counts.

    Returns by how much the number of evaluations of each affected model has changed.
    """
    facts = [event.data for event in events if isinstance(event.data, EvaluationEvent)]
    ids = [fact.evaluation_id for fact in facts]
    models = await _named(db, "model_evaluation_scores", ids)
    retracted = set(await _named(db, "retracted_evaluations", ids))
    rows: dict[str, tuple[Any, ...]] = {}
    retractions: list[tuple[str, str, int, str | None]] = []
    more: Counter[str] = Counter()
    for event in events:
        fact = event.data
        if not isinstance(fact, EvaluationEvent) or fact.evaluation_id in retracted:
            continue
        match fact:
            case EvaluationLogged() if fact.evaluation_id not in models:
                models[fact.evaluation_id] = fact.model_name
                rows[fact.evaluation_id] = _row(event.seq, fact)
                more[fact.model_name] += 1
            case EvaluationRetracted():
                model_name = models.get(fact.evaluation_id)
                if model_name is not None:
                    more[model_name] -= 1
                rows.pop(fact.evaluation_id, None)
                retracted.add(fact.evaluation_id)
                retractions.append(
                    (fact.evaluation_id, model_name or fact.model_name, event.seq, fact.reason)
                )
    if retractions:
        await db.executemany("INSERT INTO retracted_evaluations VALUES (?, ?, ?, ?)", retractions)
        await db.executemany(
            "DELETE FROM model_evaluation_scores WHERE evaluation_id = ?", [row[:1] for row in retractions]
        )
    if rows:
        await db.executemany(
            f"INSERT INTO model_evaluation_scores ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
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
    for _, model_name, cycle_id, trust_score, accuracy, f1_score, latency, timestamp, data, seq in found:
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
    rows, cursor = await page(
        db,
        "model_evaluation_scores",
        "evaluation_id, model_name, cycle_id, trust_score, accuracy, f1_score, avg_latency_ms, "
        "comparison_data",
        "evaluation_timestamp",
        {"model_name": request.model_name, "cycle_id": request.cycle_id},
        request,
    )
    return GetModelEvaluationScoresReply(evaluations=tuple(map(_told, rows)), next_cursor=cursor)


def _told(row: tuple[Any, ...]) -> ModelEvaluation:
    timestamp, _, evaluation_id, model_name, cycle_id, trust_score, accuracy, f1_score, latency, data = row
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
    )


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
    )


async def _named(db: aiosqlite.Connection, table: str, ids: Sequence[str]) -> dict[str, str]:
    """The model name by id, for those of the ids that are in a table."""
    models: dict[str, str] = {}
    for begin in range(0, len(ids), _SOME):
        some = ids[begin : begin + _SOME]
        found = await db.execute_fetchall(
            f"SELECT evaluation_id, model_name FROM {table} "
            f"WHERE evaluation_id IN ({', '.join('?' * len(some))})",
            some,
        )
        models.update((evaluation_id, model_name) for evaluation_id, model_name in found)
    return models
