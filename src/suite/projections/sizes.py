"""The measured sizes of models, part of the read model of the catalogue (`suite.domain.sizes`, ADR 42)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Final

import aiosqlite

from suite.domain.footprint import Footprint
from suite.domain.sizes import LOADS, MeasuredLoad, SizeKey, Sizes, peak_bytes, ready_bytes, remember
from suite.messages.decisions import RAM
from suite.messages.envelope import Recorded
from suite.messages.events import (
    InstanceCrashed,
    InstanceGrew,
    InstanceLoaded,
    InstanceLoadFailed,
    InstanceUnloaded,
)

SCHEMA: Final = """
    CREATE TABLE sizes (
        seq INTEGER NOT NULL,
        node TEXT NOT NULL,
        instance_id TEXT NOT NULL,
        content TEXT NOT NULL,
        settings_key TEXT NOT NULL,
        memory TEXT NOT NULL,
        ready_bytes INTEGER NOT NULL,
        peak_bytes INTEGER NOT NULL,
        PRIMARY KEY (seq, memory)
    );
    CREATE INDEX sizes_by_content ON sizes (node, content, settings_key, seq);
    CREATE INDEX sizes_by_instance ON sizes (instance_id);
"""

_SELECT = """
    SELECT seq, content, settings_key, instance_id, memory, ready_bytes, peak_bytes FROM sizes
    WHERE node = ? ORDER BY seq
"""

_READY_ON_GPUS = """
    SELECT memory, ready_bytes FROM sizes WHERE instance_id = ? AND memory <> ? AND ready_bytes > 0
"""

_FORGET = """
    DELETE FROM sizes WHERE seq IN (
        SELECT DISTINCT seq FROM sizes WHERE node = ? AND content = ? AND settings_key = ?
        ORDER BY seq DESC LIMIT -1 OFFSET ?
    )
"""


async def fold(db: aiosqlite.Connection, events: Sequence[Recorded]) -> None:
    """Apply the events to the table, in an open transaction."""
    for recorded in events:
        match recorded.data:
            case InstanceLoaded() | InstanceLoadFailed() as fact if fact.resident_bytes and fact.content:
                await _insert(db, recorded.seq, fact)
            case InstanceGrew() | InstanceUnloaded() | InstanceCrashed() as fact:
                await _raise(db, fact)


async def _insert(db: aiosqlite.Connection, seq: int, fact: InstanceLoaded | InstanceLoadFailed) -> None:
    key = (fact.node, fact.content, fact.settings_key)
    size = ready_bytes(fact)
    await db.executemany(
        "INSERT INTO sizes VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        [(seq, key[0], fact.instance_id, *key[1:], name, size[name], size[name]) for name in size.names],
    )
    await db.execute(_FORGET, (*key, LOADS))


async def _raise(db: aiosqlite.Connection, fact: InstanceGrew | InstanceUnloaded | InstanceCrashed) -> None:
    ready_on_gpus = {
        row[0]: row[1] for row in await db.execute_fetchall(_READY_ON_GPUS, (fact.instance_id, RAM))
    }
    peak = peak_bytes(fact, ready_on_gpus)
    for name in peak.names if peak else ():
        await db.execute(
            "INSERT INTO sizes SELECT seq, node, instance_id, content, settings_key, ?, 0, ? FROM sizes "
            "WHERE instance_id = ? AND memory = ? "
            "ON CONFLICT (seq, memory) DO UPDATE SET peak_bytes = max(peak_bytes, excluded.peak_bytes)",
            (name, peak[name], fact.instance_id, RAM),
        )


async def sizes(db: aiosqlite.Connection, node: str) -> Sizes:
    """What models were measured to need on a node."""
    found: Sizes = {}
    for _, rows in groupby(await db.execute_fetchall(_SELECT, (node,)), key=itemgetter(0)):
        load = list(rows)
        _, content, settings_key, instance_id, *_ = load[0]
        measured = MeasuredLoad(
            ready_bytes=_footprint({row[4]: row[5] for row in load}),
            peak_bytes=_footprint({row[4]: row[6] for row in load}),
        )
        found = remember(found, SizeKey(content, settings_key), instance_id, measured)
    return found


def _footprint(by_memory: Mapping[str, int]) -> Footprint:
    return Footprint.of(sum(by_memory.values()), {id: count for id, count in by_memory.items() if id != RAM})
