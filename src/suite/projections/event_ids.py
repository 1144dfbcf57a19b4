"""Deduplicates events by id: a copy of an event in the log is not folded again (ADR 20).

nats-server remembers a message id for two minutes. After that the same message can be stored a second time by
anyone who may publish it, or who gets somebody else to publish it: with the id and time of the first, and a
later expiry, which counts from when the copy was stored.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Final, NamedTuple, TypeAlias

import aiosqlite

from suite.messages.envelope import Recorded, header_value
from suite.messages.events import UnknownEvent
from suite.projections.projection import EXPIRE_ROWS, remove_expired

SCHEMA: Final = """
    CREATE TABLE suite_event_ids (
        id BLOB PRIMARY KEY,
        seq INTEGER NOT NULL,
        expires INTEGER
    ) WITHOUT ROWID;
    CREATE INDEX suite_event_ids_by_expiry ON suite_event_ids (expires) WHERE expires IS NOT NULL;
"""

Key: TypeAlias = bytes | str

_SOME: Final = 1000
_is_uuid = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}").fullmatch


class _Known(NamedTuple):
    """The event that is folded for an id."""

    id: Key
    seq: int
    expires: int | None


async def first_of_each(
    db: aiosqlite.Connection, events: Sequence[Recorded], *, but: Collection[str] = ()
) -> Sequence[Recorded]:
    """Return the events whose id is new, and store their ids. Must be called in an open transaction.

    A copy that expires later than the first event is dropped too, but the id is then kept until the copy
    expires. Events of the aggregates in ``but`` are not checked: all of them are returned.
    """
    counted = [each for each in events if not _is_exempt(each, but)]
    if not counted:
        return events
    rows = [_known(each) for each in counted]
    added = await db.executemany(
        "INSERT INTO suite_event_ids VALUES (?, ?, ?) ON CONFLICT (id) DO NOTHING", rows
    )
    if added.rowcount == len(rows):
        return events
    known = await _stored(db, [row.id for row in rows])
    copies = [row for row in rows if known[row.id].seq != row.seq]
    await db.executemany(
        "UPDATE suite_event_ids SET expires = iif(?2 IS NULL, NULL, max(expires, ?2)) WHERE id = ?1",
        [(copy.id, copy.expires) for copy in copies],
    )
    repeated = {copy.seq for copy in copies}
    return [each for each in events if each.seq not in repeated]


async def expire(db: aiosqlite.Connection, now: datetime) -> bool:
    """Remove some of the ids whose events have expired. Returns whether there may be more."""
    return await remove_expired(db, "suite_event_ids", now, key="id") == EXPIRE_ROWS


async def _stored(db: aiosqlite.Connection, ids: Sequence[Key]) -> dict[Key, _Known]:
    found: dict[Key, _Known] = {}
    for begin in range(0, len(ids), _SOME):
        some = ids[begin : begin + _SOME]
        rows = await db.execute_fetchall(
            f"SELECT id, seq, expires FROM suite_event_ids WHERE id IN ({', '.join('?' * len(some))})", some
        )
        found.update((row[0], _Known(*row)) for row in rows)
    return found


def _is_exempt(event: Recorded, but: Collection[str]) -> bool:
    return isinstance(event.data, UnknownEvent) or event.data.aggregate in but


def _known(event: Recorded) -> _Known:
    expires = None if event.expires is None else int(event.expires.timestamp())
    return _Known(_key(event.id), event.seq, expires)


def _key(id: str) -> Key:
    """The id in its stored form: 16 bytes for a UUID, else text.

    The suite's own ids (UUIDv7) rise with time, so new rows go to the end of the table.
    """
    return bytes.fromhex(id.replace("-", "")) if _is_uuid(id) else header_value(id)
