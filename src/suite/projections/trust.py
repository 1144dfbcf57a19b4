"""Computes trust in models from their counted loads and crashes and from their evaluations.

Trust is computed from rows at query time, so that a retraction takes effect everywhere. It is about the
content of a model: when a node registers content that no node has under this id, trust starts anew (ADR 25).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Final, NamedTuple

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


class VersionTrust(NamedTuple):
    """What evaluations, loads and crashes say of one version."""

    trust: float | None
    """None: nothing is known that tells it."""
    evaluations: int
    """How many were not retracted."""


async def trust_by_version(
    db: aiosqlite.Connection, model_name: str | None = None
) -> dict[tuple[str, int], VersionTrust]:
    """The trust in each version of one model or of all, by model and number, where anything is known."""
    only, names = ("", ()) if model_name is None else ("AND model_name = ?", (model_name,))
    facts = await db.execute_fetchall(
        f"SELECT model_name, version, loads, crashes FROM version_facts WHERE version > 0 {only}",
        names,
    )
    evaluations = await db.execute_fetchall(
        "WITH known AS MATERIALIZED (SELECT model_name, version, count(*) AS total "
        "FROM model_evaluation_scores INDEXED BY scores_by_version "
        f"WHERE version IS NOT NULL {only} GROUP BY model_name, version) "
        "SELECT known.model_name, known.version, total, trust_score, avg_latency_ms FROM known "
        "CROSS JOIN model_evaluation_scores AS one INDEXED BY scores_by_version "
        "ON one.model_name = known.model_name AND one.version = known.version AND one.seq >= ifnull(("
        "SELECT seq FROM model_evaluation_scores AS last INDEXED BY scores_by_version "
        "WHERE last.model_name = known.model_name AND last.version = known.version "
        f"ORDER BY seq DESC LIMIT 1 OFFSET {RECENT - 1}), 0) "
        "ORDER BY known.model_name, known.version, one.seq DESC",
        names,
    )
    known = {(name, version): (loads, crashes) for name, version, loads, crashes in facts}
    totals: dict[tuple[str, int], int] = {}
    recent: defaultdict[tuple[str, int], list[Evaluated]] = defaultdict(list)
    for name, version, total, score, latency in evaluations:
        totals[name, version] = total
        recent[name, version].append(Evaluated(trust_score=score, avg_latency_ms=latency))
    found: dict[tuple[str, int], VersionTrust] = {}
    for key in known.keys() | totals.keys():
        loads, crashes = known.get(key, (0, 0))
        evidence = Evidence(evaluations=tuple(recent[key]), loads=loads, crashes=crashes)
        found[key] = VersionTrust(trust(evidence), totals.get(key, 0))
    return found


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
