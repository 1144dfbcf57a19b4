"""Connections that see a read model's file as its last transaction left it, lent one query at a time."""

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
"""Queries that run at once on one read model; others wait for them."""


class Closed(Exception):
    """These connections are closed: there may be others, to the file that is there now."""


class ConnectionPool:
    """Connections to the one file that was at a path when they were opened."""

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
        """Raises sqlite3.Error."""
        of = identity(path)  # before: if it is replaced meanwhile, they count as another's
        async with AsyncExitStack() as stack:
            connections = [
                await stack.enter_async_context(connected(path, read_only=True)) for _ in range(READERS)
            ]
            return cls(connections, of, stack.pop_all())

    def are_of(self, path: Path) -> bool:
        """Whether the file at the path is still theirs."""
        return self._of is not None and identity(path) == self._of

    async def borrow(self) -> aiosqlite.Connection:
        """A connection for one query, to be given back. Raises Closed."""
        await self._free.acquire()
        if self._closed:
            self._free.release()
            raise Closed
        return self._idle.pop()

    def give_back(self, connection: aiosqlite.Connection) -> None:
        """The query is over."""
        self._idle.append(connection)
        self._free.release()

    @asynccontextmanager
    async def lent(self) -> AsyncIterator[aiosqlite.Connection]:
        """A connection for the queries of a block. Raises Closed."""
        connection = await self.borrow()
        try:
            yield connection
        finally:
            self.give_back(connection)

    async def close(self) -> None:
        """Wait for the queries that run, and close. Who still waits for a connection hears of it."""
        self._closed = True
        with anyio.CancelScope(shield=True):
            for _ in range(self._count):
                await self._free.acquire()
            await self._stack.aclose()
            for _ in range(self._count):
                self._free.release()
