"""Compares models: their trust, the scores of their latest cycle, and the change since the previous cycle."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from typing import Final, NamedTuple

import aiosqlite
import anyio
from msgspec.structs import replace

from suite.domain.trust import Evidence, trust
from suite.messages.actions.evaluation import (
    CompareModelsReply,
    CompareModelsRequest,
    ModelComparison,
    Scores,
)
from suite.messages.benchmarks import BenchmarkResult
from suite.projections.benchmarks import latest_results
from suite.projections.trust import LATEST_CYCLE, evidence_of, known_models

_NOTHING: Final = Scores(trust=None, trust_score=None, accuracy=None, f1_score=None, avg_latency_ms=None)


class _Cycles(NamedTuple):
    """The latest and the previous cycle of a model, with the mean scores of each."""

    evaluations: int
    """Evaluations in all cycles that were not retracted."""
    latest: str | None
    previous: str | None
    means: dict[str | None, Sequence[float | None]]
    """For each cycle the means of trust score, accuracy, F1 and latency (ms)."""


async def compare_models(db: aiosqlite.Connection, request: CompareModelsRequest) -> CompareModelsReply:
    """Compare the named models, or all models of which anything is known. The most trusted come first."""
    names = request.model_names or None
    async with _snapshot(db):
        now = await evidence_of(db, names)
        then = await evidence_of(db, names, without_latest_cycle=True)
        cycles = await _cycles(db, names)
        results = await latest_results(db, names)
    nothing, none = Evidence(), _Cycles(0, None, None, {})
    models = [
        _with_benchmark(
            _comparison(name, now.get(name, nothing), then.get(name, nothing), cycles.get(name, none)),
            results.get(name),
        )
        for name in dict.fromkeys(names or now)
    ]
    models.sort(key=lambda model: -1.0 if model.scores.trust is None else model.scores.trust, reverse=True)
    return CompareModelsReply(models=tuple(models))


@asynccontextmanager
async def _snapshot(db: aiosqlite.Connection) -> AsyncIterator[None]:
    """A read transaction: all statements in the block see the tables as they were at the first one."""
    try:
        await db.execute("BEGIN")
        yield
    finally:
        with anyio.CancelScope(shield=True):  # else the next query would be in this transaction
            await db.rollback()


async def _cycles(db: aiosqlite.Connection, names: Collection[str] | None) -> dict[str, _Cycles]:
    rows = await db.execute_fetchall(
        "WITH model AS MATERIALIZED (SELECT model_name, evaluations, "
        f"{LATEST_CYCLE} AS latest FROM model_facts {known_models(names)}), "
        "pair AS MATERIALIZED (SELECT *, (SELECT cycle_id FROM model_evaluation_scores AS one "
        "INDEXED BY scores_in_order WHERE one.model_name = model.model_name AND one.cycle_id <> latest "
        "ORDER BY seq DESC LIMIT 1) AS previous FROM model) "
        "SELECT pair.model_name, evaluations, latest, previous, one.cycle_id, avg(trust_score), "
        "avg(accuracy), avg(f1_score), avg(nullif(avg_latency_ms, 0)) FROM pair "
        "LEFT JOIN model_evaluation_scores AS one INDEXED BY scores_by_model_and_cycle "
        "ON one.model_name = pair.model_name AND one.cycle_id IN (latest, previous) "
        "GROUP BY pair.model_name, one.cycle_id",
        tuple(names or ()),
    )
    cycles: dict[str, _Cycles] = {}
    for name, evaluations, latest, previous, cycle_id, *means in rows:
        found = cycles.setdefault(name, _Cycles(evaluations, latest, previous, {}))
        found.means[cycle_id] = means
    return cycles


def _comparison(name: str, now: Evidence, then: Evidence, cycles: _Cycles) -> ModelComparison:
    scores = _scores(now, cycles.means.get(cycles.latest))
    before = _scores(then, cycles.means.get(cycles.previous))
    return ModelComparison(
        model_name=name,
        cycle_id=cycles.latest,
        previous_cycle_id=cycles.previous,
        evaluations=cycles.evaluations,
        crashes=now.crashes,
        scores=scores,
        change=_NOTHING if cycles.previous is None else _change(scores, before),
    )


def _with_benchmark(
    comparison: ModelComparison, benchmarked: tuple[str, BenchmarkResult] | None
) -> ModelComparison:
    if benchmarked is None:
        return comparison
    node, result = benchmarked
    return replace(comparison, benchmark=result, benchmark_node=node)


def _scores(evidence: Evidence, means: Sequence[float | None] | None) -> Scores:
    trust_score, accuracy, f1_score, avg_latency_ms = means or (None,) * 4
    return Scores(
        trust=trust(evidence),
        trust_score=trust_score,
        accuracy=accuracy,
        f1_score=f1_score,
        avg_latency_ms=avg_latency_ms,
    )


def _change(now: Scores, then: Scores) -> Scores:
    def minus(a: float | None, b: float | None) -> float | None:
        return None if a is None or b is None else a - b

    return Scores(
        trust=minus(now.trust, then.trust),
        trust_score=minus(now.trust_score, then.trust_score),
        accuracy=minus(now.accuracy, then.accuracy),
        f1_score=minus(now.f1_score, then.f1_score),
        avg_latency_ms=minus(now.avg_latency_ms, then.avg_latency_ms),
    )
