"""A second file of a read model, folded from the beginning of the log beside the live one."""

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
"""After so long without events it looks whether there are any: the log may have lost what it counts."""

OnProgress: TypeAlias = Callable[[float], Awaitable[None]]


class Rebuilt(NamedTuple):
    """What a rebuild did."""

    events: int
    seconds: float
    seq: int


class Handover:
    """While a rebuilt file takes the place of the live one: the live one rests, and goes on afterwards."""

    def __init__(self) -> None:
        self.rested = anyio.Event()
        self.over = anyio.Event()


class Fresh:
    """The second file. Its methods raise sqlite3.Error, OSError and errors of the log."""

    def __init__(self, file: ProjectionFile, follower: Follower) -> None:
        self.seq = 0
        """All of its events up to here are in it."""
        self.events = 0
        """How many they are."""
        self._file = file
        self._follower = follower

    @classmethod
    @asynccontextmanager
    async def open(cls, path: Path, projection: Projection, log: Log, stream: str) -> AsyncIterator[Fresh]:
        """There must be no file at the path."""
        async with (
            ProjectionFile.open(path, projection, stream) as file,
            log.follow(projection.aggregates, after=0) as follower,
        ):
            yield cls(file, follower)

    async def reach(self, seq: int, on_progress: OnProgress | None = None) -> None:
        """Have all events up to a sequence in it."""
        self._follower.settle()  # there may be nothing to come
        while self.seq < seq:
            batch = await self._follower.next(_WAIT_SECONDS)
            await self._file.fold(batch.events, batch.unreadable)
            if not batch.pending:
                self._follower.settle()
            self.events, self.seq = self.events + len(batch.events), batch.seq
            if on_progress is not None:
                await on_progress(min(1.0, self.seq / seq))

    async def expire(self) -> None:
        """Remove all rows whose time is over."""
        now = self._follower.time()
        while now is not None and await self._file.expire(now):
            pass

    async def ledger(self) -> Ledger:
        """How many events of each kind are in it."""
        return await self._file.ledger()

    async def settle(self) -> None:
        """Bring all into the one file."""
        await self._file.settle()
