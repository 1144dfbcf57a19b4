"""What queries see of one read model: connections to the file that is there, and how far that has come."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

import aiosqlite
import anyio

from suite.errors import ReadModelBehind, ReadModelUnavailable
from suite.projections.pool import Closed, ConnectionPool

WAIT_SECONDS: Final = 8.0
"""How long a query waits for the event that it must see: less than clients wait for an answer."""
POLL_SECONDS: Final = 0.05


class Queries:
    """Lends connections for queries. ``problem`` says what keeps the read model from going on, if anything
    does; ``hurry`` has it find out at once how far the log goes."""

    def __init__(
        self, name: str, path: Path, *, problem: Callable[[], str | None], hurry: Callable[[], None]
    ) -> None:
        self.seq = 0
        """All of its events up to here are seen."""
        self._name = name
        self._path = path
        self._problem = problem
        self._hurry = hurry
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

        ``own_seq`` is not waited for while there is a problem. Raises ReadModelBehind, ReadModelUnavailable.
        """
        while True:
            pool = await self.ready(min_seq, own_seq)
            try:
                return pool, await pool.borrow()
            except Closed:  # while it waited for its turn: another file has come into the place
                continue

    async def ready(self, min_seq: int, own_seq: int) -> ConnectionPool:
        """Those who lend connections, once they see these events. Raises as `borrow` does."""
        with anyio.move_on_after(WAIT_SECONDS):
            while True:
                problem = self._problem()
                wanted = min_seq if problem is not None else max(min_seq, own_seq)
                if self._pool is not None and self.seq >= wanted:
                    return self._pool
                if self._pool is None and problem is not None:
                    raise ReadModelUnavailable(problem)
                self._hurry()
                with anyio.move_on_after(POLL_SECONDS):
                    await self._changed.wait()
        problem = self._problem()
        raise ReadModelBehind(
            f"the read model {self._name} is at event {self.seq} and does not have event "
            f"{max(min_seq, own_seq)} yet: try again{f'; {problem}' if problem is not None else ''}"
        )
