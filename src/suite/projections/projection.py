"""What a read model is: which events it folds, into which tables of its SQLite file."""

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
"""Rows of a table that one transaction removes at most, so that nothing waits for it for long."""

_BOOKKEEPING: Final = "ledger"
"""What is kept beside the tables of every read model: a file that was made without it is folded anew."""

Database: TypeAlias = aiosqlite.Connection
"""What queries are asked of, in the words of those that may not know SQLite."""


class Mark(NamedTuple):
    """Which fold of which log a file is; one with another mark is folded anew."""

    projection: str
    version: int
    events: str
    """A digest of the types of events that were known: others were passed over."""
    stream: str
    """When the stream was created."""


class Projection(ABC):
    """A fold of some aggregates' events. It has no state of its own: all of it is in the tables.

    The same events give the same rows, however they come in batches; the one who calls sees to it that each
    comes once, as its id says, and in order, and keeps the checkpoint in the same transaction.
    """

    name: ClassVar[str]
    version: ClassVar[int]
    """Raised with every change of the tables or of the fold: a file of another version is folded anew."""
    aggregates: ClassVar[tuple[str, ...]]
    """Whose events it folds."""
    schema: ClassVar[str]
    """The statements that make its tables."""
    idempotent: ClassVar[frozenset[str]] = frozenset()
    """Those of the aggregates whose facts have ids of their own and change nothing under one that is taken:
    of all others each event is folded once, as its id says (`event_ids`)."""

    @abstractmethod
    async def fold(self, db: aiosqlite.Connection, events: Sequence[Recorded]) -> None:
        """Bring events into the tables, inside of a transaction that is open. Never commits."""

    async def expire(self, db: aiosqlite.Connection, now: datetime) -> bool:  # noqa: ARG002 - most keep all
        """Remove rows that have expired, inside of a transaction that is open; a few thousand at most.

        Returns whether there may be more. However they are cut, all of it leaves the same tables.

        Row by row it asks for `Recorded.expires`, never for the configuration, so that a read model that is
        folded anew has the same rows.
        """
        return False

    def mark(self, stream: str) -> Mark:
        """What a file says that is a fold of this stream, as it would be made now."""
        known = sorted(name for name, kind in REGISTRY.items() if kind.aggregate in self.aggregates)
        known.append(_BOOKKEEPING)
        return Mark(self.name, self.version, sha256(" ".join(known).encode()).hexdigest()[:16], stream)


async def remove_expired(db: aiosqlite.Connection, table: str, now: datetime, *, key: str = "rowid") -> int:
    """Remove up to `EXPIRE_ROWS` rows of a table whose ``expires`` is over. Returns how many."""
    removed = await db.execute(
        f"DELETE FROM {table} WHERE {key} IN (SELECT {key} FROM {table} WHERE expires <= ? LIMIT ?)",
        (int(now.timestamp()), EXPIRE_ROWS),
    )
    return removed.rowcount
