"""Checks whether the log has lost events: at the start, after each new connection to NATS, and daily.

A check reads the headers of the whole log once, with pauses, because nats-server silently skips damaged
messages. Every event that a read model has counted and that has not expired must be there. Sequences that are
missing after the newest event that any read model has seen are lost if the event before the gap is too young
for anything after it to have expired. docs/adr/0022 says what this cannot detect.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import aclosing, suppress
from datetime import datetime, timedelta
from typing import Final

import anyio

from suite.bus.connection import Connection
from suite.errors import ReadModelBehind, ReadModelUnavailable, SuiteError
from suite.identity import Clock
from suite.log import Log
from suite.log.inventory import Entry
from suite.projections.ledger import NEVER as NEVER_EXPIRES
from suite.projections.ledger import Extract, Kind, missing
from suite.projections.projections import Projections
from suite.projections.projector import Projector
from suite.ticks import tick_or

logger = logging.getLogger("suite.node")

EVENTS_LOST: Final = "events_lost"
"""The type of the error that a loss is reported as."""
AGAIN_SECONDS: Final = 86_400.0
LOOK_SECONDS: Final = 1.0
RETRY_SECONDS: Final = 10.0
_NAMED_HOLES: Final = 5


class Integrity:
    """Checks the log, and keeps what is known of its losses."""

    def __init__(
        self,
        connection: Connection,
        log: Log,
        projections: Projections,
        *,
        shortest_retention: timedelta | None,
        clock: Clock,
        on_problem: Callable[[str], None],
    ) -> None:
        """``shortest_retention`` is the age before which no event expires; None: no event expires."""
        self._connection = connection
        self._log = log
        self._projections = projections
        self._shortest_retention = shortest_retention
        self._clock = clock
        self._on_problem = on_problem
        self._seen: int | None = None
        """The last event that a previous check, or at the start a read model, has seen; None before the first
        check."""
        self._holes: list[tuple[int, int]] = []
        self._asked = anyio.Event()
        self.problem: str | None = None
        """What the log has lost, and what to do; None if nothing."""

    async def run(self) -> None:
        """Check at once, then after each new connection to NATS, daily, and when `ask` is called."""
        while True:
            life, since, self._asked = self._connection.connections, self._clock(), anyio.Event()
            try:
                await self.check()
            except SuiteError as error:
                logger.warning("the log cannot be checked now: %s", error.message)
                await anyio.sleep(RETRY_SECONDS)
                continue
            while not self._asked.is_set() and self._connection.connections == life:
                if self._clock() - since >= AGAIN_SECONDS:
                    break
                await tick_or(self._asked, LOOK_SECONDS)

    def ask(self, *, accept: bool = False) -> None:
        """Request a check soon, because something has changed.

        With ``accept``, losses of events that no read model has are accepted and no longer reported.
        """
        if accept:
            self._holes.clear()
        self._asked.set()

    async def check(self) -> None:
        """Read the log once and compare it with the read models' counts. Raises Unavailable."""
        projectors = self._projections.by_name.values()
        extracts = [extract for projector in projectors if (extract := await _extract(projector)) is not None]
        if self._seen is None:
            self._seen = max(projector.opened_at or 0 for projector in projectors)
        seen = self._seen
        counts = [Counter[Kind]() for _ in extracts]
        before: Entry | None = None
        skipped: list[tuple[datetime, int, int]] = []
        async with aclosing(self._log.inventory()) as entries:
            async for entry in entries:
                _count(entry, extracts, counts)
                if before is not None and entry.skipped and entry.seq - 1 > seen:
                    first = max(seen + 1, entry.seq - entry.skipped)
                    skipped.append((before.stored, first, entry.seq - 1))
                before = entry
        now = (await self._log.extent()).time  # after it was read: what has expired meanwhile is not lost
        self._seen = max(seen, before.seq if before is not None else 0)
        self._holes += [(first, last) for stored, first, last in skipped if self._is_young(stored, now)]
        lost = {
            extract.projection: number
            for extract, found in zip(extracts, counts, strict=True)
            if (number := missing(extract.events, found, now))
        }
        problem = _description(lost, self._holes)
        if problem is None and len(extracts) < len(projectors):
            return  # a read model that cannot be read now takes nothing back
        self._tell(problem)

    def _is_young(self, stored: datetime, now: datetime) -> bool:
        """Whether no event stored after this time can have expired yet, by this node's retention."""
        return self._shortest_retention is None or now - stored < self._shortest_retention

    def _tell(self, problem: str | None) -> None:
        if problem is not None and problem != self.problem:
            logger.error("%s", problem)
            self._on_problem(problem)
        self.problem = problem


async def _extract(projector: Projector) -> Extract | None:
    """The ledger of a read model; None while it cannot be read, so that it cannot tell what is missing."""
    with suppress(ReadModelBehind, ReadModelUnavailable):
        return await projector.ledger()
    return None


def _count(entry: Entry, extracts: Sequence[Extract], counts: Sequence[Counter[Kind]]) -> None:
    kind = Kind(entry.aggregate, NEVER_EXPIRES if entry.expires is None else int(entry.expires.timestamp()))
    for extract, found in zip(extracts, counts, strict=True):
        if entry.seq <= extract.seq:
            found[kind] += 1


def _description(lost: dict[str, int], holes: list[tuple[int, int]]) -> str | None:
    parts = [f"{number} that the read model {name} has" for name, number in lost.items()]
    if holes:
        named = ", ".join(f"{first} to {last}" for first, last in holes[:_NAMED_HOLES])
        parts.append(f"{sum(last - first + 1 for first, last in holes)} that nobody has seen ({named})")
    if not parts:
        return None
    return (
        f"the log has lost events that had not expired: {'; '.join(parts)}. The read models keep what they "
        "have: restore the store of NATS from a backup, or go on without with `suite rebuild --force`"
    )
