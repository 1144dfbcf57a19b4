"""Rebuilds a read model: builds a second file from the beginning of the log, next to the live one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias

import anyio

from suite.log import Log
from suite.log.follower import Follower
from suite.projections.file import ProjectionFile
from suite.projections.ledger import Ledger
from suite.projections.projection import Projection

_WAIT_SECONDS: Final = 0.1
"""After this long without events the follower checks whether any are left: the log may have lost some."""

OnProgress: TypeAlias = Callable[[float], Awaitable[None]]


class Rebuilt(NamedTuple):
    """The result of a rebuild: events folded, time taken, and the sequence reached."""

    events: int
    seconds: float
    seq: int


class Handover:
    """Pauses the writing of the live file while a rebuilt one replaces it."""

    def __init__(self) -> None:
        self.rested = anyio.Event()
        self.over = anyio.Event()


class Fresh:
    """The new file. Its methods raise sqlite3.Error, OSError and errors of the log."""

    def __init__(self, file: ProjectionFile, follower: Follower) -> None:
        self.seq = 0
        """The sequence up to which the file contains all of its events."""
        self.events = 0
        """How many events were folded."""
        self._file = file
        self._follower = follower

    @classmethod
    @asynccontextmanager
    async def open(cls, path: Path, projection: Projection, log: Log, stream: str) -> AsyncIterator[Fresh]:
        """Create the file and follow the log from its beginning. There must be no file at the path."""
        async with (
            ProjectionFile.open(path, projection, stream) as file,
            log.follow(projection.aggregates, after=0) as follower,
        ):
            yield cls(file, follower)

    async def reach(self, seq: int, on_progress: OnProgress | None = None) -> None:
        """Fold all events up to a sequence. ``on_progress`` is called with the fraction that is done."""
        self._follower.settle()  # there may be no events left to wait for
        while self.seq < seq:
            batch = await self._follower.next(_WAIT_SECONDS)
            await self._file.fold(batch.events, batch.unreadable)
            if not batch.pending:
                self._follower.settle()
            self.events, self.seq = self.events + len(batch.events), batch.seq
            if on_progress is not None:
                await on_progress(min(1.0, self.seq / seq))

    async def expire(self) -> None:
        """Remove all expired rows."""
        now = self._follower.time()
        while now is not None and await self._file.expire(now):
            pass

    async def ledger(self) -> Ledger:
        """How many events of each kind the file contains."""
        return await self._file.ledger()

    async def settle(self) -> None:
        """Checkpoint the WAL into the file, so that it can be renamed."""
        await self._file.settle()
