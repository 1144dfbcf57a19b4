"""Computes trust in models from their counted loads and crashes and from their evaluations.

Trust is computed from rows at query time, so that a retraction takes effect everywhere.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection
from typing import Final

import aiosqlite

from suite.domain.trust import RECENT, Evaluated, Evidence, trust

SCHEMA: Final = """
    CREATE TABLE model_facts (
        model_name TEXT PRIMARY KEY,
        evaluations INTEGER NOT NULL,
        loads INTEGER NOT NULL,
        crashes INTEGER NOT NULL
    ) WITHOUT ROWID;
"""

LATEST_CYCLE: Final = (
    "(SELECT cycle_id FROM model_evaluation_scores AS latest "
    "WHERE latest.model_name = model_facts.model_name ORDER BY seq DESC LIMIT 1)"
)


async def fold(
    db: aiosqlite.Connection, evaluations: Counter[str], loads: Counter[str], crashes: Counter[str]
) -> None:
    """Add to the counts of evaluations, loads and crashes of models."""
    names = {**evaluations, **loads, **crashes}
    if names:
        await db.executemany(
            "INSERT INTO model_facts VALUES (?, ?, ?, ?) ON CONFLICT (model_name) DO UPDATE SET "
            "evaluations = evaluations + excluded.evaluations, loads = loads + excluded.loads, "
            "crashes = crashes + excluded.crashes",
            [(name, evaluations[name], loads[name], crashes[name]) for name in names],
        )


async def trusts(db: aiosqlite.Connection, names: Collection[str] | None = None) -> dict[str, float]:
    """The trust in each of these models, or in all models. Models without evidence are left out."""
    known = await evidence_of(db, names)
    return {name: value for name, evidence in known.items() if (value := trust(evidence)) is not None}


async def evidence_of(
    db: aiosqlite.Connection, names: Collection[str] | None, *, without_latest_cycle: bool = False
) -> dict[str, Evidence]:
    """The evidence about each model, by name; optionally without the evaluations of its latest cycle."""
    counts = "(skipped IS NULL OR one.cycle_id <> skipped)"
    rows = await db.execute_fetchall(
        "WITH model AS MATERIALIZED (SELECT model_name, loads, crashes, "
        f"{LATEST_CYCLE if without_latest_cycle else 'NULL'} AS skipped "
        f"FROM model_facts {known_models(names)}) "
        "SELECT model.model_name, loads, crashes, trust_score, avg_latency_ms FROM model "
        "LEFT JOIN model_evaluation_scores AS one INDEXED BY scores_in_order "
        f"ON one.model_name = model.model_name AND {counts} AND one.seq >= ifnull((SELECT one.seq "
        "FROM model_evaluation_scores AS one INDEXED BY scores_in_order "
        f"WHERE one.model_name = model.model_name AND {counts} "
        f"ORDER BY one.seq DESC LIMIT 1 OFFSET {RECENT - 1}), 0) "
        "ORDER BY model.model_name, one.seq DESC",
        tuple(names or ()),
    )
    facts: dict[str, tuple[int, int]] = {}
    evaluations: defaultdict[str, list[Evaluated]] = defaultdict(list)
    for name, loads, crashes, score, latency in rows:
        facts[name] = loads, crashes
        if score is not None:
            evaluations[name].append(Evaluated(trust_score=score, avg_latency_ms=latency))
    return {
        name: Evidence(loads=loads, crashes=crashes, evaluations=tuple(evaluations[name]))
        for name, (loads, crashes) in facts.items()
    }


def known_models(names: Collection[str] | None) -> str:
    """The WHERE clause on ``model_facts`` for models of which anything is known: these names, or all."""
    known = "WHERE (evaluations > 0 OR loads > 0 OR crashes > 0)"
    return known if names is None else f"{known} AND model_name IN ({', '.join('?' * len(names))})"
