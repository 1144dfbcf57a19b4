"""How many events of each kind are in a read model, and when they expire: what the log must still have.

The counts change in the transaction that folds the events. So a log that has lost some is found out, whatever
became of it, and expiry is told apart from loss: an event is missed until its time is over, and not longer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final, NamedTuple, TypeAlias

import aiosqlite

from suite.messages.envelope import Recorded
from suite.messages.subjects import aggregate_of

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS suite_ledger (
    aggregate TEXT NOT NULL, expires INTEGER NOT NULL, events INTEGER NOT NULL,
    PRIMARY KEY (aggregate, expires)
) WITHOUT ROWID
"""

NEVER: Final = 0
CLOCKS: Final = timedelta(minutes=1)
"""So near its end an event is not missed: the server's clock may be ahead."""


class Kind(NamedTuple):
    """Events of an aggregate that expire together."""

    aggregate: str
    expires: int
    """Seconds of the epoch; 0: never."""


Ledger: TypeAlias = Mapping[Kind, int]


class Extract(NamedTuple):
    """A read model's ledger as it was at a moment."""

    projection: str
    seq: int
    """The last event that is counted."""
    events: Ledger


async def note(db: aiosqlite.Connection, events: Sequence[Recorded]) -> None:
    """Count events, in the transaction that folds them."""
    counts = Counter(
        Kind(
            aggregate_of(event.subject)[0], NEVER if event.expires is None else int(event.expires.timestamp())
        )
        for event in events
    )
    await db.executemany(
        "INSERT INTO suite_ledger VALUES (?, ?, ?) "
        "ON CONFLICT DO UPDATE SET events = events + excluded.events",
        [(*kind, count) for kind, count in counts.items()],
    )


async def expire(db: aiosqlite.Connection, now: datetime) -> None:
    """Forget what may be gone from the log."""
    await db.execute("DELETE FROM suite_ledger WHERE expires > 0 AND expires <= ?", (int(now.timestamp()),))


async def extract(db: aiosqlite.Connection) -> Extract:
    """What stands in a read model's file, all of it from one moment."""
    rows = list(
        await db.execute_fetchall(
            "SELECT projection, seq, aggregate, expires, held.events "
            "FROM suite_checkpoint LEFT JOIN suite_ledger AS held"
        )
    )
    name, seq = rows[0][:2]
    return Extract(name, seq, {Kind(row[2], row[3]): row[4] for row in rows if row[2] is not None})


def due(ledger: Ledger, now: datetime) -> int:
    """How many events the log must still have."""
    return sum(count for kind, count in ledger.items() if _is_due(kind, now))


def missing(ledger: Ledger, found: Ledger, now: datetime) -> int:
    """How many events of a ledger are not in another, though their time is not over."""
    return sum(max(0, count - found.get(kind, 0)) for kind, count in ledger.items() if _is_due(kind, now))


def _kind(event: Recorded) -> Kind:
    aggregate, _ = aggregate_of(event.subject)
    return Kind(aggregate, NEVER if event.expires is None else int(event.expires.timestamp()))


def _is_due(kind: Kind, now: datetime) -> bool:
    return kind.expires == NEVER or kind.expires > (now + CLOCKS).timestamp()
