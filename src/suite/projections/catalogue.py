"""The read model of the fleet's catalogue: which node has and runs which models, and how their loads went.

A node knows its own files and instances without it. This one is built from the log and covers all nodes,
including those that are down. Nothing in it expires.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import ClassVar, TypeAlias

import aiosqlite
import msgspec

from suite.messages.actions.projections import FleetFile, FleetModel, GetFleetReply, GetFleetRequest
from suite.messages.envelope import Recorded
from suite.messages.events import (
    InstanceEvent,
    ModelRegistered,
    ModelRemoved,
    NodeLifeEvent,
    NodeLost,
    NodeStarted,
    NodeStopped,
)
from suite.messages.times import from_sql, rfc3339, to_sql
from suite.projections import sizes
from suite.projections.instances import Instances, InstanceState
from suite.projections.projection import Projection

Row: TypeAlias = tuple[object, ...]
FileKey: TypeAlias = tuple[str, str]
"""Model and node."""


class ResidencyTotals(msgspec.Struct, frozen=True, kw_only=True):
    """Counts over the whole log."""

    models_tracked: int
    """Models whose file is on at least one node."""
    models_loaded_ever: int
    """Loads that succeeded."""
    models_unloaded_ever: int
    """Loaded instances that ended without crashing themselves, including those that ended with their node."""


class CatalogueProjection(Projection):
    """Folds the events ``model.*``, ``instance.*`` and ``node.*``."""

    name: ClassVar[str] = "catalogue"
    version: ClassVar[int] = 4
    aggregates: ClassVar[tuple[str, ...]] = ("model", "instance", "node")
    schema: ClassVar[str] = f"""{sizes.SCHEMA}
        CREATE TABLE nodes (
            node TEXT PRIMARY KEY,
            status TEXT NOT NULL,
            epoch INTEGER NOT NULL,
            since TEXT NOT NULL
        ) WITHOUT ROWID;
        CREATE TABLE models (
            model_id TEXT NOT NULL,
            node TEXT NOT NULL,
            file_name TEXT NOT NULL,
            file_bytes INTEGER NOT NULL,
            sha256 TEXT NOT NULL,
            architecture TEXT NOT NULL,
            parameters INTEGER NOT NULL,
            quantization TEXT NOT NULL,
            trained_context_tokens INTEGER NOT NULL,
            registered_at TEXT NOT NULL,
            PRIMARY KEY (model_id, node)
        ) WITHOUT ROWID;
        CREATE TABLE instances (
            node TEXT NOT NULL,
            model_id TEXT NOT NULL,
            instance_id TEXT NOT NULL,
            state TEXT NOT NULL,
            reason TEXT,
            reserved_bytes INTEGER NOT NULL,
            resident_bytes INTEGER NOT NULL,
            since TEXT NOT NULL,
            PRIMARY KEY (node, model_id)
        ) WITHOUT ROWID;
        CREATE TABLE history (
            model_id TEXT PRIMARY KEY,
            loads INTEGER NOT NULL,
            load_failures INTEGER NOT NULL,
            unloads INTEGER NOT NULL,
            crashes INTEGER NOT NULL,
            last_load_ms REAL,
            total_load_ms REAL NOT NULL
        ) WITHOUT ROWID;
    """

    async def fold(self, db: aiosqlite.Connection, events: Sequence[Recorded]) -> None:
        """Apply the events to each table, with one or two statements per table."""
        await _fold_nodes(db, events)
        await _fold_files(db, events)
        await _fold_lives(db, events)
        await sizes.fold(db, events)


async def totals(db: aiosqlite.Connection) -> ResidencyTotals:
    """Counts over the whole log, which a restart does not reset."""
    rows = await db.execute_fetchall(
        "SELECT (SELECT count(DISTINCT model_id) FROM models), "
        "coalesce(sum(loads), 0), coalesce(sum(unloads), 0) FROM history"
    )
    ((tracked, loads, unloads),) = rows
    return ResidencyTotals(models_tracked=tracked, models_loaded_ever=loads, models_unloaded_ever=unloads)


async def fleet(db: aiosqlite.Connection, request: GetFleetRequest) -> GetFleetReply:  # noqa: ARG001 - a query
    """Every model that any node has or runs, sorted by id."""
    files = await _files(db)
    loaded: defaultdict[str, list[str]] = defaultdict(list)
    for model_id, node in await db.execute_fetchall(
        "SELECT model_id, node FROM instances WHERE state = 'loaded' ORDER BY node"
    ):
        loaded[model_id].append(node)
    history = {
        model_id: counts
        for model_id, *counts in await db.execute_fetchall(
            "SELECT model_id, loads, load_failures, crashes, total_load_ms / nullif(loads, 0) FROM history"
        )
    }
    models = []
    for model_id in sorted(files.keys() | loaded.keys()):
        loads, load_failures, crashes, mean_load_ms = history.get(model_id, (0, 0, 0, None))
        models.append(
            FleetModel(
                model_id=model_id,
                files=tuple(files[model_id]),
                loaded_on=tuple(loaded[model_id]),
                loads=loads,
                load_failures=load_failures,
                crashes=crashes,
                mean_load_ms=mean_load_ms,
            )
        )
    return GetFleetReply(models=tuple(models))


async def _files(db: aiosqlite.Connection) -> defaultdict[str, list[FleetFile]]:
    files: defaultdict[str, list[FleetFile]] = defaultdict(list)
    rows = await db.execute_fetchall(
        "SELECT model_id, node, coalesce(status = 'up', 0), file_name, file_bytes, sha256, architecture, "
        "parameters, quantization, trained_context_tokens, registered_at "
        "FROM models LEFT JOIN nodes USING (node) ORDER BY model_id, node"
    )
    for row in rows:
        files[row[0]].append(
            FleetFile(
                node=row[1],
                node_up=bool(row[2]),
                file_name=row[3],
                file_bytes=row[4],
                sha256=row[5],
                architecture=row[6],
                parameters=row[7],
                quantization=row[8],
                trained_context_tokens=row[9],
                registered_at=rfc3339(from_sql(row[10])),
            )
        )
    return files


async def _fold_nodes(db: aiosqlite.Connection, events: Sequence[Recorded]) -> None:
    rows: dict[str, Row] = {}
    for recorded in events:
        at = to_sql(recorded.time)
        match recorded.data:
            case NodeStarted(node=node):
                rows[node] = (node, "up", recorded.seq, at)
            case NodeStopped(node=node, epoch=epoch):
                rows[node] = (node, "stopped", epoch, at)
            case NodeLost(node=node, epoch=epoch):
                rows[node] = (node, "lost", epoch, at)
    if rows:
        await db.executemany("REPLACE INTO nodes VALUES (?, ?, ?, ?)", rows.values())


async def _fold_files(db: aiosqlite.Connection, events: Sequence[Recorded]) -> None:
    files: dict[FileKey, Row | None] = {}
    for recorded in events:
        match recorded.data:
            case ModelRegistered() as fact:
                files[fact.model_id, fact.node] = (
                    fact.model_id,
                    fact.node,
                    fact.file_name,
                    fact.file_bytes,
                    fact.sha256,
                    fact.architecture,
                    fact.parameters,
                    fact.quantization,
                    fact.trained_context_tokens,
                    to_sql(recorded.time),
                )
            case ModelRemoved() as fact:
                files[fact.model_id, fact.node] = None
    present = [row for row in files.values() if row is not None]
    if present:
        await db.executemany("REPLACE INTO models VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", present)
    gone = [key for key, row in files.items() if row is None]
    if gone:
        await db.executemany("DELETE FROM models WHERE model_id = ? AND node = ?", gone)


async def _fold_lives(db: aiosqlite.Connection, events: Sequence[Recorded]) -> None:
    own = [recorded for recorded in events if isinstance(recorded.data, InstanceEvent | NodeLifeEvent)]
    if not own:
        return
    nodes = {recorded.data.ids[0] for recorded in own}
    rows = await db.execute_fetchall(
        f"SELECT {', '.join(InstanceState.__struct_fields__)} FROM instances "
        f"WHERE node IN ({', '.join('?' * len(nodes))})",
        tuple(nodes),
    )
    states = Instances(
        InstanceState(**dict(zip(InstanceState.__struct_fields__, row, strict=True))) for row in rows
    )
    for recorded in own:
        states.apply(recorded)
    changed = states.changed()
    if changed:
        await db.executemany(
            "REPLACE INTO instances VALUES (?, ?, ?, ?, ?, ?, ?, ?)", map(msgspec.structs.astuple, changed)
        )
    if states.counts:
        # One row after the other, so that floats are added in the same order however events are batched.
        await db.executemany(
            "INSERT INTO history VALUES (:model_id, :loads, :load_failures, :unloads, :crashes, :load_ms, "
            "coalesce(:load_ms, 0)) ON CONFLICT (model_id) DO UPDATE SET loads = loads + excluded.loads, "
            "load_failures = load_failures + excluded.load_failures, unloads = unloads + excluded.unloads, "
            "crashes = crashes + excluded.crashes, "
            "last_load_ms = coalesce(excluded.last_load_ms, last_load_ms), "
            "total_load_ms = total_load_ms + excluded.total_load_ms",
            map(msgspec.structs.asdict, states.counts),
        )
