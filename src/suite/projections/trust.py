"""Computes trust in models from their counted loads and crashes and from their evaluations.

Trust is computed from rows at query time, so that a retraction takes effect everywhere. It is about the
content of a model: when a node registers content that no node has under this id, trust starts anew (ADR 25).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Final

import aiosqlite

from suite.domain.trust import RECENT, Evaluated, Evidence, trust
from suite.messages.envelope import Recorded
from suite.messages.events import InstanceCrashed, InstanceLoaded, ModelRegistered

SCHEMA: Final = """
    CREATE TABLE model_facts (
        model_name TEXT PRIMARY KEY,
        evaluations INTEGER NOT NULL,
        loads INTEGER NOT NULL,
        crashes INTEGER NOT NULL,
        content_since INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE version_facts (
        model_name TEXT NOT NULL,
        version INTEGER NOT NULL,
        loads INTEGER NOT NULL,
        crashes INTEGER NOT NULL,
        PRIMARY KEY (model_name, version)
    ) WITHOUT ROWID;
    CREATE TABLE model_contents (
        model_name TEXT NOT NULL,
        node TEXT NOT NULL,
        sha256 TEXT NOT NULL,
        PRIMARY KEY (model_name, node)
    ) WITHOUT ROWID;
"""

LATEST_CYCLE: Final = (
    "(SELECT cycle_id FROM model_evaluation_scores AS latest "
    "WHERE latest.model_name = model_facts.model_name ORDER BY seq DESC LIMIT 1)"
)


async def fold(db: aiosqlite.Connection, events: Sequence[Recorded], evaluations: Counter[str]) -> None:
    """Add to the counts of evaluations, loads and crashes; the latter two start anew with new content."""
    await _count_by_version(db, events)
    changed = await _content_changes(db, events)
    loads, crashes = (_count(events, kind, changed) for kind in (InstanceLoaded, InstanceCrashed))
    names = {**evaluations, **loads, **crashes, **changed}
    if names:
        await db.executemany(
            "INSERT INTO model_facts VALUES (?, ?, ?, ?, ?) ON CONFLICT (model_name) DO UPDATE SET "
            "evaluations = evaluations + excluded.evaluations, "
            "loads = iif(excluded.content_since, 0, loads) + excluded.loads, "
            "crashes = iif(excluded.content_since, 0, crashes) + excluded.crashes, "
            "content_since = max(content_since, excluded.content_since)",
            [(name, evaluations[name], loads[name], crashes[name], changed.get(name, 0)) for name in names],
        )


async def _count_by_version(db: aiosqlite.Connection, events: Sequence[Recorded]) -> None:
    """Add to the counts of loads and crashes of versions, of the events that say which it was."""
    counts: defaultdict[tuple[str, int], list[int]] = defaultdict(lambda: [0, 0])
    for event in events:
        fact = event.data
        if isinstance(fact, InstanceLoaded | InstanceCrashed) and fact.version:
            counts[fact.model_id, fact.version][isinstance(fact, InstanceCrashed)] += 1
    if counts:
        await db.executemany(
            "INSERT INTO version_facts VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET "
            "loads = loads + excluded.loads, crashes = crashes + excluded.crashes",
            [(*key, *both) for key, both in counts.items()],
        )


async def trust_in_version(db: aiosqlite.Connection, model_name: str, version: int) -> float | None:
    """The trust in one version of a model, from what is known of that; None if nothing is."""
    evaluations = await db.execute_fetchall(
        "SELECT trust_score, avg_latency_ms FROM model_evaluation_scores INDEXED BY scores_by_version "
        "WHERE model_name = ? AND version = ? ORDER BY seq DESC LIMIT ?",
        (model_name, version, RECENT),
    )
    facts = await db.execute_fetchall(
        "SELECT loads, crashes FROM version_facts WHERE model_name = ? AND version = ?", (model_name, version)
    )
    loads, crashes = next(iter(facts), (0, 0))
    scores = (Evaluated(trust_score=score, avg_latency_ms=latency) for score, latency in evaluations)
    return trust(Evidence(evaluations=tuple(scores), loads=loads, crashes=crashes))


def _count(
    events: Sequence[Recorded], kind: type[InstanceLoaded | InstanceCrashed], changed: Mapping[str, int]
) -> Counter[str]:
    """How many of these facts there are about the last content of each model."""
    return Counter(
        event.data.model_id
        for event in events
        if isinstance(event.data, kind) and event.seq > changed.get(event.data.model_id, 0)
    )


async def _content_changes(db: aiosqlite.Connection, events: Sequence[Recorded]) -> dict[str, int]:
    """Apply registrations. Returns, for each model that got new content, the sequence of the last change."""
    facts = [(event.seq, event.data) for event in events if isinstance(event.data, ModelRegistered)]
    changed: dict[str, int] = {}
    contents: dict[str, dict[str, str]] = {}
    for seq, fact in facts:
        if fact.model_id not in contents:
            contents[fact.model_id] = await _contents(db, fact.model_id)
        by_node = contents[fact.model_id]
        if by_node and fact.sha256 not in by_node.values():
            changed[fact.model_id] = seq
        by_node[fact.node] = fact.sha256
    if facts:
        await db.executemany(
            "REPLACE INTO model_contents VALUES (?, ?, ?)",
            [(fact.model_id, fact.node, fact.sha256) for _, fact in facts],
        )
    return changed


async def _contents(db: aiosqlite.Connection, model_name: str) -> dict[str, str]:
    """The content that each node registered last under this id, by node. It may have been removed since."""
    rows = await db.execute_fetchall(
        "SELECT node, sha256 FROM model_contents WHERE model_name = ?", (model_name,)
    )
    return dict(map(tuple, rows))


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
        "WITH model AS MATERIALIZED (SELECT model_name, loads, crashes, content_since, "
        f"{LATEST_CYCLE if without_latest_cycle else 'NULL'} AS skipped "
        f"FROM model_facts {known_models(names)}) "
        "SELECT model.model_name, loads, crashes, trust_score, avg_latency_ms FROM model "
        "LEFT JOIN model_evaluation_scores AS one INDEXED BY scores_in_order "
        f"ON one.model_name = model.model_name AND {counts} AND one.seq >= ifnull((SELECT one.seq "
        "FROM model_evaluation_scores AS one INDEXED BY scores_in_order "
        f"WHERE one.model_name = model.model_name AND {counts} "
        f"ORDER BY one.seq DESC LIMIT 1 OFFSET {RECENT - 1}), 0) AND one.seq > content_since "
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
