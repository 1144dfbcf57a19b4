"""Defines a projection: which events it folds, and into which tables of its SQLite file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from datetime import datetime
from hashlib import sha256
from typing import ClassVar, Final, NamedTuple, TypeAlias

import aiosqlite

from suite.messages.envelope import Recorded
from suite.messages.events import REGISTRY

EXPIRE_ROWS: Final = 2000
"""The most rows of a table that one transaction removes, so that nothing waits long for it."""

_BOOKKEEPING: Final = "ledger"
"""Part of every mark, so that files which were written before there was a ledger are rebuilt."""

Database: TypeAlias = aiosqlite.Connection
"""A connection to query, under a name for code that must not depend on SQLite."""


class Mark(NamedTuple):
    """Says which projection built a file, from which log. A file with another mark is rebuilt."""

    projection: str
    version: int
    events: str
    """A digest of the event types that were known when the file was built; other types were ignored."""
    stream: str
    """When the stream was created."""


class Projection(ABC):
    """Folds the events of some aggregates into tables. It keeps no state outside the tables.

    The same events give the same rows, however they are batched. The caller passes each event once (by its
    id) and in order, and updates the checkpoint in the same transaction.
    """

    name: ClassVar[str]
    version: ClassVar[int]
    """Increment it with every change of the tables or of `fold`: a file of another version is rebuilt."""
    aggregates: ClassVar[tuple[str, ...]]
    """The aggregates whose events it folds."""
    schema: ClassVar[str]
    """The SQL statements that create its tables."""
    idempotent: ClassVar[frozenset[str]] = frozenset()
    """The aggregates whose facts have ids of their own, so that folding a copy changes nothing. The events of
    all other aggregates are deduplicated by event id before they are folded (`event_ids`)."""

    @abstractmethod
    async def fold(self, db: aiosqlite.Connection, events: Sequence[Recorded]) -> None:
        """Apply events to the tables, in an open transaction. Must not commit."""

    async def expire(self, db: aiosqlite.Connection, now: datetime) -> bool:  # noqa: ARG002 - most keep all
        """Remove expired rows, in an open transaction; a few thousand at most.

        Returns whether there may be more. The tables end up the same however the removal is split up.

        Each row expires by the `Recorded.expires` of its event, never by the current configuration, so that
        a rebuilt read model has the same rows.
        """
        return False

    def mark(self, stream: str) -> Mark:
        """The mark of a file that this version would build from this stream."""
        known = sorted(name for name, kind in REGISTRY.items() if kind.aggregate in self.aggregates)
        known.append(_BOOKKEEPING)
        return Mark(self.name, self.version, sha256(" ".join(known).encode()).hexdigest()[:16], stream)


async def remove_expired(db: aiosqlite.Connection, table: str, now: datetime, *, key: str = "rowid") -> int:
    """Remove up to `EXPIRE_ROWS` expired rows (by the column ``expires``). Returns how many."""
    removed = await db.execute(
        f"DELETE FROM {table} WHERE ({key}) IN (SELECT {key} FROM {table} WHERE expires <= ? LIMIT ?)",
        (int(now.timestamp()), EXPIRE_ROWS),
    )
    return removed.rowcount
