"""Counts the messages that a read model skipped because they are not events of the suite (ADR 20)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import aiosqlite

from suite.log import Unreadable

SCHEMA: Final = """
    CREATE TABLE suite_unreadable (
        aggregate TEXT PRIMARY KEY,
        messages INTEGER NOT NULL,
        seq INTEGER NOT NULL,
        subject TEXT NOT NULL,
        reason TEXT NOT NULL
    ) WITHOUT ROWID;
"""


class Skipped(NamedTuple):
    """The messages of one aggregate that were skipped since the file was made."""

    aggregate: str
    messages: int
    first: Unreadable


async def count(db: aiosqlite.Connection, unreadable: Sequence[Unreadable]) -> None:
    """Add skipped messages to the counts, in an open transaction."""
    await db.executemany(
        "INSERT INTO suite_unreadable VALUES (?, 1, ?, ?, ?) "
        "ON CONFLICT (aggregate) DO UPDATE SET messages = messages + 1",
        [(each.aggregate, *each) for each in unreadable],
    )


async def skipped(db: aiosqlite.Connection) -> list[Skipped]:
    """The skipped messages of each aggregate."""
    rows = await db.execute_fetchall("SELECT aggregate, messages, seq, subject, reason FROM suite_unreadable")
    return [Skipped(aggregate, messages, Unreadable(*first)) for aggregate, messages, *first in rows]
