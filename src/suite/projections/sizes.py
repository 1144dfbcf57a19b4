"""The measured sizes of models, part of the read model of the catalogue (`suite.domain.sizes`, ADR 42)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import aiosqlite

from suite.domain.sizes import LOADS, MeasuredLoad, SizeKey, Sizes, ready_bytes, remember
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
        seq INTEGER PRIMARY KEY,
        node TEXT NOT NULL,
        instance_id TEXT NOT NULL,
        content TEXT NOT NULL,
        settings_key TEXT NOT NULL,
        ready_bytes INTEGER NOT NULL,
        peak_bytes INTEGER NOT NULL
    );
    CREATE INDEX sizes_by_content ON sizes (node, content, settings_key, seq);
    CREATE INDEX sizes_by_instance ON sizes (instance_id);
"""

_FORGET = """
    DELETE FROM sizes WHERE seq IN (
        SELECT seq FROM sizes WHERE node = ? AND content = ? AND settings_key = ?
        ORDER BY seq DESC LIMIT -1 OFFSET ?
    )
"""


async def fold(db: aiosqlite.Connection, events: Sequence[Recorded]) -> None:
    """Apply the events to the table, in an open transaction."""
    for recorded in events:
        match recorded.data:
            case InstanceLoaded() | InstanceLoadFailed() as fact if fact.resident_bytes and fact.content:
                await _insert(db, recorded.seq, fact)
            case InstanceGrew(reserved_bytes=peak_bytes) as fact:
                await _raise(db, fact.instance_id, peak_bytes)
            case InstanceUnloaded(peak_bytes=peak_bytes) | InstanceCrashed(peak_bytes=peak_bytes) as fact:
                await _raise(db, fact.instance_id, peak_bytes)


async def _insert(db: aiosqlite.Connection, seq: int, fact: InstanceLoaded | InstanceLoadFailed) -> None:
    key = (fact.node, fact.content, fact.settings_key)
    size = ready_bytes(fact)
    await db.execute(
        "INSERT INTO sizes VALUES (?, ?, ?, ?, ?, ?, ?)",
        (seq, key[0], fact.instance_id, *key[1:], size, size),
    )
    await db.execute(_FORGET, (*key, LOADS))


async def _raise(db: aiosqlite.Connection, instance_id: str, peak_bytes: int) -> None:
    if peak_bytes:
        await db.execute(
            "UPDATE sizes SET peak_bytes = max(peak_bytes, ?) WHERE instance_id = ?",
            (peak_bytes, instance_id),
        )


async def sizes(db: aiosqlite.Connection, node: str) -> Sizes:
    """What models were measured to need on a node."""
    found: Sizes = {}
    for content, settings_key, instance_id, ready, peak in await db.execute_fetchall(
        "SELECT content, settings_key, instance_id, ready_bytes, peak_bytes FROM sizes WHERE node = ? "
        "ORDER BY seq",
        (node,),
    ):
        load = MeasuredLoad(ready_bytes=ready, peak_bytes=peak)
        found = remember(found, SizeKey(content, settings_key), instance_id, load)
    return found
