"""Lends connections for queries on one read model, and makes a query wait for the events that it must see."""

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
"""How long a query waits for the event that it must see; less than clients wait for a reply."""
POLL_SECONDS: Final = 0.05
PATIENT: Final = 32
"""How many queries may wait for `WAIT_SECONDS`: half of the requests that an action runs at once
(`bus.action`), so that others still get through."""
CROWDED_SECONDS: Final = 1.0
"""How long a query waits when `PATIENT` others are waiting already."""


class Queries:
    """Lends connections for queries.

    ``problem`` returns why the read model cannot follow the log, or None; ``hurry`` makes it check at once
    how far the log goes; ``exists`` returns whether the log has reached a sequence.
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
        """Queries see all events up to this sequence."""
        self._name = name
        self._path = path
        self._problem = problem
        self._hurry = hurry
        self._exists = exists
        self._waiting = 0
        self._pool: ConnectionPool | None = None
        self._changed = anyio.Event()

    async def open(self, seq: int) -> None:
        """Answer from the file at the path, which contains the events up to ``seq``. Raises sqlite3.Error."""
        if self._pool is not None and self._pool.are_of(self._path):
            self.reach(max(self.seq, seq))
            return
        await self.close()
        self._pool = await ConnectionPool.open(self._path)
        self.seq = seq
        self.announce()

    async def close(self) -> None:
        """Wait for running queries, and lend no connections until `open` is called again."""
        pool, self._pool = self._pool, None
        if pool is not None:
            await pool.close()

    def reach(self, seq: int) -> None:
        """The file now contains the events up to ``seq``."""
        if seq != self.seq:
            self.seq = seq
            self.announce()

    def announce(self) -> None:
        """Wake the waiting queries, so that they check again."""
        self._changed.set()
        self._changed = anyio.Event()

    def are_from(self, pool: ConnectionPool) -> bool:
        """Whether this pool is still the one in use."""
        return pool is self._pool

    async def borrow(self, min_seq: int, own_seq: int) -> tuple[ConnectionPool, aiosqlite.Connection]:
        """Borrow a connection that sees these events. Returns it with the pool to give it back to.

        ``own_seq`` is not waited for while there is a problem. Raises InvalidRequest for a ``min_seq``
        beyond the end of the log, ReadModelBehind, ReadModelUnavailable.
        """
        while True:
            pool = await self.ready(min_seq, own_seq)
            try:
                return pool, await pool.borrow()
            except Closed:  # the file was replaced while this waited for a connection
                continue

    async def ready(self, min_seq: int, own_seq: int) -> ConnectionPool:
        """Wait for a pool whose connections see these events. Raises what `borrow` raises."""
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
        """Raise InvalidRequest if the log has not reached ``min_seq``; do nothing if that cannot be known."""
        with suppress(Unavailable):
            if not await self._exists(min_seq):
                raise InvalidRequest(
                    f"field 'min_seq': the log has no event {min_seq} yet: send what a write of this service "
                    "replied as seq, or leave it out"
                )

    def _seeing(self, min_seq: int, own_seq: int) -> ConnectionPool | None:
        """The pool, if its connections see these events now, else None. Raises ReadModelUnavailable."""
        problem = self._problem()
        wanted = min_seq if problem is not None else max(min_seq, own_seq)
        if self._pool is None and problem is not None:
            raise ReadModelUnavailable(problem)
        return self._pool if self.seq >= wanted else None
