"""Counts the events in a read model by aggregate and expiry, to detect that the log has lost some (ADR 22).

The counts change in the transaction that folds the events. So any loss can be detected, however it came
about, and expiry is not mistaken for loss: an event is expected in the log until it expires, and no longer.
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
"""An event this close to its expiry is not expected any more: it may expire while it is looked for."""


class Kind(NamedTuple):
    """The events of one aggregate that expire at the same time."""

    aggregate: str
    expires: int
    """Seconds since 1970; 0: never."""


Ledger: TypeAlias = Mapping[Kind, int]


class Extract(NamedTuple):
    """A consistent snapshot of a read model's ledger."""

    projection: str
    seq: int
    """The last event that is counted."""
    events: Ledger


async def note(db: aiosqlite.Connection, events: Sequence[Recorded]) -> None:
    """Count events, in the transaction that folds them."""
    counts = Counter(_kind(event) for event in events)
    await db.executemany(
        "INSERT INTO suite_ledger VALUES (?, ?, ?) "
        "ON CONFLICT DO UPDATE SET events = events + excluded.events",
        [(*kind, count) for kind, count in counts.items()],
    )


async def expire(db: aiosqlite.Connection, now: datetime) -> None:
    """Remove the counts of events that have expired: the log need not have them any more."""
    await db.execute("DELETE FROM suite_ledger WHERE expires > 0 AND expires <= ?", (int(now.timestamp()),))


async def extract(db: aiosqlite.Connection) -> Extract:
    """Read the ledger of a read model's file, with the checkpoint of the same moment."""
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
    """How many events of a ledger are missing in another although they have not expired."""
    return sum(max(0, count - found.get(kind, 0)) for kind, count in ledger.items() if _is_due(kind, now))


def _kind(event: Recorded) -> Kind:
    aggregate, _ = aggregate_of(event.subject)
    return Kind(aggregate, NEVER if event.expires is None else int(event.expires.timestamp()))


def _is_due(kind: Kind, now: datetime) -> bool:
    return kind.expires == NEVER or kind.expires > (now + CLOCKS).timestamp()
