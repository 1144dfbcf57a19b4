"""A pool of read-only connections to a read model's file, each lent to one query at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

import aiosqlite
import anyio

from suite.projections.connection import connected
from suite.projections.file_lock import Identity, identity

READERS: Final = 2
"""How many queries run at once on one read model; others wait."""


class Closed(Exception):
    """The pool is closed. There may be a new pool, for the file that is at the path now."""


class ConnectionPool:
    """Connections to the file that was at the path when the pool was opened."""

    def __init__(
        self, connections: Sequence[aiosqlite.Connection], of: Identity | None, stack: AsyncExitStack
    ) -> None:
        self._idle = list(connections)
        self._of = of
        self._stack = stack
        self._count = len(self._idle)
        self._free = asyncio.Semaphore(self._count)
        self._closed = False

    @classmethod
    async def open(cls, path: Path) -> ConnectionPool:
        """Open the connections. Raises sqlite3.Error."""
        of = identity(path)  # before connecting: if the file is replaced meanwhile, `are_of` is False
        async with AsyncExitStack() as stack:
            connections = [
                await stack.enter_async_context(connected(path, read_only=True)) for _ in range(READERS)
            ]
            return cls(connections, of, stack.pop_all())

    def are_of(self, path: Path) -> bool:
        """Whether the file at the path is still the one that the connections are to."""
        return self._of is not None and identity(path) == self._of

    async def borrow(self) -> aiosqlite.Connection:
        """Borrow a connection for one query; the caller must give it back. Raises Closed."""
        await self._free.acquire()
        if self._closed:
            self._free.release()
            raise Closed
        return self._idle.pop()

    def give_back(self, connection: aiosqlite.Connection) -> None:
        """Return a borrowed connection to the pool."""
        self._idle.append(connection)
        self._free.release()

    @asynccontextmanager
    async def lent(self) -> AsyncIterator[aiosqlite.Connection]:
        """Lend a connection to the block. Raises Closed."""
        connection = await self.borrow()
        try:
            yield connection
        finally:
            self.give_back(connection)

    async def close(self) -> None:
        """Wait for running queries, then close. Whoever still waits for a connection gets Closed."""
        self._closed = True
        with anyio.CancelScope(shield=True):
            for _ in range(self._count):
                await self._free.acquire()
            await self._stack.aclose()
            for _ in range(self._count):
                self._free.release()
