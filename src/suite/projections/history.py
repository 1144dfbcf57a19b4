"""The read model of what happened to which model: where in the log the events about its residency are.

Who explains a moment finds the events here, and reads them from the log (ADR 46). Beside that are the stays
of models in memory (`stays.py`) and the bets on them (`bets.py`), a row each, for what is shown over time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import ClassVar, Final, TypeAlias

import aiosqlite

from suite.messages.envelope import Recorded
from suite.messages.events import AliasEvent, Event, InstanceLoadStarted, NodeEvent
from suite.messages.times import from_sql, to_sql
from suite.projections import bets, stays
from suite.projections.projection import EXPIRE_ROWS, Projection, remove_expired

Row: TypeAlias = tuple[object, ...]
Place: TypeAlias = tuple[str, str]
"""A model on a node."""

_EVICTS: Final = "evicts"
"""Stands at each model that leaves for a load, instead of the fact."""


class HistoryProjection(Projection):
    """Folds the events of models, instances, waits, bets, aliases and nodes."""

    name: ClassVar[str] = "history"
    version: ClassVar[int] = 4
    aggregates: ClassVar[tuple[str, ...]] = (
        "model",
        "instance",
        "admission",
        "prediction",
        "alias",
        "node",
    )
    schema: ClassVar[str] = f"""{stays.SCHEMA}{bets.SCHEMA}
        CREATE TABLE history (
            model_id TEXT NOT NULL,
            seq INTEGER NOT NULL,
            node TEXT NOT NULL,
            fact TEXT NOT NULL,
            at TEXT NOT NULL,
            expires INTEGER,
            PRIMARY KEY (model_id, seq)
        ) WITHOUT ROWID;
        CREATE INDEX history_by_time ON history (at);
        CREATE INDEX history_by_expiry ON history (expires) WHERE expires IS NOT NULL;
    """

    async def fold(self, db: aiosqlite.Connection, events: Sequence[Recorded]) -> None:
        """Insert a row for each model that an event is about; apply it to stays and bets."""
        rows = [row for recorded in events for row in _rows(recorded)]
        if rows:
            await db.executemany("REPLACE INTO history VALUES (?, ?, ?, ?, ?, ?)", rows)
        await stays.fold(db, events)
        await bets.fold(db, events)

    async def expire(self, db: aiosqlite.Connection, now: datetime) -> bool:
        """Remove rows whose events have expired. Returns whether there may be more."""
        return await remove_expired(db, "history", now, key="model_id, seq") == EXPIRE_ROWS


def _rows(recorded: Recorded) -> Iterator[Row]:
    event, seq, at = recorded.data, recorded.seq, to_sql(recorded.time)
    # What an alias stands for is about no place, though its events may name the node that was ready.
    node: str = "" if isinstance(event, AliasEvent) else getattr(event, "node", "")
    fact = f"{event.aggregate}.{event.fact}"
    expires = None if recorded.expires is None else int(recorded.expires.timestamp())
    if isinstance(event, NodeEvent):
        yield "", seq, node, fact, at, expires
    elif (model_id := _model_of(event)) is not None:
        yield model_id, seq, node, fact, at, expires
    old_model_id = getattr(event, "old_model_id", None)
    if isinstance(old_model_id, str) and old_model_id != getattr(event, "model_id", None):
        yield old_model_id, seq, node, fact, at, expires
    if isinstance(event, InstanceLoadStarted):
        for victim in event.evicting:
            yield victim, seq, node, _EVICTS, at, expires


def _model_of(event: Event) -> str | None:
    model_id = getattr(event, "model_id", None)
    return model_id if isinstance(model_id, str) else None


async def begin(db: aiosqlite.Connection) -> datetime | None:
    """When the history begins; None while it is empty."""
    ((at,),) = await db.execute_fetchall("SELECT min(at) FROM history")
    return None if at is None else from_sql(at)


async def is_known(db: aiosqlite.Connection, model_id: str) -> bool:
    """Whether anything ever happened to a model."""
    return bool(
        list(await db.execute_fetchall("SELECT 1 FROM history WHERE model_id = ? LIMIT 1", (model_id,)))
    )


async def latest(db: aiosqlite.Connection, model_id: str, until: datetime, limit: int) -> list[int]:
    """The newest events about a model until a time, the newest first."""
    rows = await db.execute_fetchall(
        "SELECT seq FROM history WHERE model_id = ? AND at <= ? AND fact <> ? ORDER BY seq DESC LIMIT ?",
        (model_id, to_sql(until), _EVICTS, limit),
    )
    return [seq for (seq,) in rows]


async def newest(
    db: aiosqlite.Connection, until: datetime, model_id: str | None = None
) -> dict[Place, dict[str, int]]:
    """For each model, or this one, on each node: the newest event of each kind until a time."""
    rows = await db.execute_fetchall(
        "SELECT model_id, node, fact, max(seq) FROM history WHERE at <= ? AND fact <> ? AND model_id <> '' "
        "AND node <> '' "
        f"{'' if model_id is None else 'AND model_id = ? '}GROUP BY model_id, node, fact",
        (to_sql(until), _EVICTS, *(() if model_id is None else (model_id,))),
    )
    places: dict[Place, dict[str, int]] = {}
    for model, node, fact, seq in rows:
        places.setdefault((model, node), {})[fact] = seq
    return places


async def node_events(db: aiosqlite.Connection, until: datetime) -> dict[str, dict[str, int]]:
    """For each node: the newest event about itself of each kind until a time."""
    rows = await db.execute_fetchall(
        "SELECT node, fact, max(seq) FROM history WHERE model_id = '' AND at <= ? GROUP BY node, fact",
        (to_sql(until),),
    )
    nodes: dict[str, dict[str, int]] = {}
    for node, fact, seq in rows:
        nodes.setdefault(node, {})[fact] = seq
    return nodes


async def eviction(db: aiosqlite.Connection, model_id: str, node: str, seq: int) -> int | None:
    """The load that a model on a node had to leave for, the last one before an event."""
    rows = await db.execute_fetchall(
        "SELECT max(seq) FROM history WHERE model_id = ? AND node = ? AND fact = ? AND seq < ?",
        (model_id, node, _EVICTS, seq),
    )
    ((found,),) = rows
    return found  # type: ignore[no-any-return]
