"""What queries see of one read model: connections to the file that is there, and how far that has come."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import aiosqlite
import anyio

from suite.errors import InvalidRequest, ReadModelBehind, ReadModelUnavailable, Unavailable
from suite.projections.pool import Closed, ConnectionPool

WAIT_SECONDS: Final = 8.0
"""How long a query waits for the event that it must see: less than clients wait for an answer."""
POLL_SECONDS: Final = 0.05
PATIENT: Final = 32
"""Queries that may wait so long: half of what an action runs at once (`bus.action`); others get by."""
CROWDED_SECONDS: Final = 1.0
"""How long the rest of them waits."""


class Queries:
    """Lends connections for queries.

    ``problem`` says what keeps the read model from going on, if anything does; ``hurry`` has it find out at
    once how far the log goes; ``exists`` says whether the log has come to an event at all.
    """

    def __init__(
        self,
        name: str,
        path: Path,
        *,
        problem: Callable[[], str | None],
        hurry: Callable[[], None],
        exists: Callable[[int], Awaitable[bool]],
    ) -> None:
        self.seq = 0
        """All of its events up to here are seen."""
        self._name = name
        self._path = path
        self._problem = problem
        self._hurry = hurry
        self._exists = exists
        self._waiting = 0
        self._pool: ConnectionPool | None = None
        self._changed = anyio.Event()

    async def open(self, seq: int) -> None:
        """Answer from the file that is there, which has the events up to here. Raises sqlite3.Error."""
        if self._pool is not None and self._pool.are_of(self._path):
            self.reach(max(self.seq, seq))
            return
        await self.close()
        self._pool = await ConnectionPool.open(self._path)
        self.seq = seq
        self.announce()

    async def close(self) -> None:
        """Wait for the queries that run, and lend nothing until there is a file again."""
        pool, self._pool = self._pool, None
        if pool is not None:
            await pool.close()

    def reach(self, seq: int) -> None:
        """The file has come so far."""
        if seq != self.seq:
            self.seq = seq
            self.announce()

    def announce(self) -> None:
        """Have those who wait look again."""
        self._changed.set()
        self._changed = anyio.Event()

    def are_from(self, pool: ConnectionPool) -> bool:
        """Whether these still lend the connections to the file that is there."""
        return pool is self._pool

    async def borrow(self, min_seq: int, own_seq: int) -> tuple[ConnectionPool, aiosqlite.Connection]:
        """A connection that sees these events, and where to give it back.

        ``own_seq`` is not waited for while there is a problem. Raises InvalidRequest for a ``min_seq``
        beyond the end of the log, ReadModelBehind, ReadModelUnavailable.
        """
        while True:
            pool = await self.ready(min_seq, own_seq)
            try:
                return pool, await pool.borrow()
            except Closed:  # while it waited for its turn: another file has come into the place
                continue

    async def ready(self, min_seq: int, own_seq: int) -> ConnectionPool:
        """Those who lend connections, once they see these events. Raises as `borrow` does."""
        pool = self._seeing(min_seq, own_seq)
        if pool is not None:
            return pool
        self._waiting += 1
        seconds = WAIT_SECONDS if self._waiting <= PATIENT else CROWDED_SECONDS
        try:
            with anyio.move_on_after(seconds):
                return await self._wait(min_seq, own_seq)
        finally:
            self._waiting -= 1
        problem = self._problem()
        raise ReadModelBehind(
            f"the read model {self._name} is at event {self.seq} and does not have event "
            f"{max(min_seq, own_seq)} yet: try again{f'; {problem}' if problem is not None else ''}"
        )

    async def _wait(self, min_seq: int, own_seq: int) -> ConnectionPool:
        if min_seq > self.seq:
            await self._require(min_seq)
        while True:
            pool = self._seeing(min_seq, own_seq)
            if pool is not None:
                return pool
            self._hurry()
            with anyio.move_on_after(POLL_SECONDS):
                await self._changed.wait()

    async def _require(self, min_seq: int) -> None:
        """Raises InvalidRequest if nothing that is waited for will ever come; unknown counts as no."""
        with suppress(Unavailable):
            if not await self._exists(min_seq):
                raise InvalidRequest(
                    f"field 'min_seq': the log has no event {min_seq} yet: send what a write of this service "
                    "replied as seq, or leave it out"
                )

    def _seeing(self, min_seq: int, own_seq: int) -> ConnectionPool | None:
        """Those who lend connections, if they see these events now. Raises ReadModelUnavailable."""
        problem = self._problem()
        wanted = min_seq if problem is not None else max(min_seq, own_seq)
        if self._pool is None and problem is not None:
            raise ReadModelUnavailable(problem)
        return self._pool if self.seq >= wanted else None
