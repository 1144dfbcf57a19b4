"""Keeps one read model up with the log, answers from it, and folds it anew when that is asked or needed::

    projector = Projector(Usage(), directory / "usage.db", log, now=utc_now)
    tasks.start_soon(projector.run)
    async with projector.reading(min_seq=seq) as db:
        ...

What keeps it from writing (a full or read-only disk) becomes a problem that health tells of; the log and
all else go on, queries are answered from what there is, and it is tried again until it works.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias

import aiosqlite
import anyio

from suite.errors import Conflict, ReadModelBehind, ReadModelUnavailable, SuiteError
from suite.identity import Now
from suite.log import Log
from suite.log.follower import Batch, Follower
from suite.messages.actions import ProjectionInfo
from suite.projections.file import (
    Overtaken,
    ProjectionFile,
    Readers,
    inspect,
    is_damaged,
    remove,
    replace,
    set_aside,
)
from suite.projections.projection import Projection

logger = logging.getLogger("suite.projections")

WAIT_SECONDS: Final = 8.0
"""How long a query waits for the event that it must see: less than clients wait for an answer."""
POLL_SECONDS: Final = 0.05
RETRY_SECONDS: Final = 2.0
EXPIRE_SECONDS: Final = 5.0
CURRENT_SECONDS: Final = 60.0
"""So old may the newest event be that is not in it, in what counts as current: half of what the server needs
to forget an id (`log.stream`)."""

OnProgress: TypeAlias = Callable[[float], Awaitable[None]]


class Rebuilt(NamedTuple):
    """What a rebuild did."""

    events: int
    seconds: float
    seq: int


class _Handover:
    """While a rebuilt file takes the place of the live one: the live one rests, and goes on afterwards."""

    def __init__(self) -> None:
        self.rested = anyio.Event()
        self.over = anyio.Event()


class Projector:
    """One read model, kept as long as `run` runs."""

    def __init__(
        self,
        projection: Projection,
        path: Path,
        log: Log,
        *,
        now: Now,
        on_problem: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.projection = projection
        self.path = path
        self.problem: str | None = None
        """What keeps it from following the log, and what to do."""
        self.seq = 0
        """All of its events up to here are in it."""
        self._log = log
        self._now = now
        self._on_problem = on_problem
        self._pending = 0
        self._rebuilding = False
        self._readers: Readers | None = None
        self._follower: Follower | None = None
        self._handover: _Handover | None = None
        self._damage: sqlite3.DatabaseError | None = None
        self._expired_at = float("-inf")
        self._current_at = float("-inf")
        self._changed = anyio.Event()

    @property
    def info(self) -> ProjectionInfo:
        """How far it is."""
        return ProjectionInfo(
            name=self.projection.name,
            seq=self.seq,
            lag_events=self._pending,
            rebuilding=self._rebuilding,
            problem=self.problem,
        )

    # --- following the log --------------------------------------------------------------------------------

    async def run(self) -> None:
        """Follow the log for ever."""
        try:
            while True:
                if self._handover is not None:
                    self._handover.rested.set()
                    await self._handover.over.wait()
                try:
                    await self._live()
                except Overtaken:
                    logger.warning("%s is written by another process too", self.path)
                except SuiteError as error:
                    logger.warning("%s waits for the log: %s", self.projection.name, error.message)
                    await anyio.sleep(RETRY_SECONDS)
                except (sqlite3.Error, OSError) as error:
                    await self._recover(error)
        finally:
            await self._close_readers()

    async def _live(self) -> None:
        """Keep the file up with the log until a rebuilt one is to take its place, or somebody moves it."""
        stream = await self._discard_unusable()
        if self.path.exists():
            await self._open_readers()  # it can be read, even if it cannot be written
        self.path.parent.mkdir(parents=True, exist_ok=True)
        async with ProjectionFile.open(self.path, self.projection, stream) as file:
            await self._open_readers()
            self._at(file.seq)
            try:
                async with self._log.follow(self.projection.aggregates, after=file.seq) as self._follower:
                    while self._handover is None and file.is_in_place():
                        await self._step(file, self._follower)
            except asyncio.CancelledError:
                await self._close_readers()
                await file.settle()
                raise
        if self._handover is None:
            await self._close_readers()  # of a file that is gone

    async def _step(self, file: ProjectionFile, follower: Follower) -> None:
        batch = await follower.next()
        if self._damage is not None:
            raise self._damage
        await file.fold(batch.events)
        await self._expire(file)
        if self.problem is not None:
            logger.warning("%s follows the log again", self.projection.name)
            self.problem = None
        self._pending = batch.pending
        if not batch.pending:
            self._current_at = time.monotonic()
        self._at(batch.seq)

    async def _expire(self, file: ProjectionFile) -> None:
        if time.monotonic() - self._expired_at >= EXPIRE_SECONDS:
            await file.expire(self._now())
            self._expired_at = time.monotonic()

    async def _discard_unusable(self) -> str:
        """Take a file away that is not a fold of this log by this version; which log it is."""
        extent = await self._log.extent()
        try:
            found = await inspect(self.path)
        except FileNotFoundError:
            return extent.created
        name, version = self.projection.name, self.projection.version
        if found is None:
            await self._close_readers()
            kept = set_aside(self.path, "foreign")
            logger.warning(
                "%s was not written by this service: it is kept as %s; `suite import-legacy` brings the "
                "rows of an older service's database into the log",
                self.path,
                kept,
            )
        elif found[:3] != (name, version, extent.created) or found.seq > extent.last_seq:
            logger.warning("%s is not of this log and version: it is folded anew", self.path)
            await self._close_readers()
            remove(self.path)
        return extent.created

    async def _recover(self, error: sqlite3.Error | OSError) -> None:
        if not is_damaged(error):
            self._report(error)
            await anyio.sleep(RETRY_SECONDS)
            return
        self._damage = None
        await self._close_readers()
        try:
            kept = set_aside(self.path, "damaged")
        except OSError as unmovable:
            self._report(unmovable)
            await anyio.sleep(RETRY_SECONDS)
        else:
            said = f"{self.path} is damaged ({error}): kept as {kept.name} and folded anew"
            logger.error("%s", said)
            self._on_problem(said)

    def _report(self, error: Exception) -> None:
        problem = (
            f"the read model {self.projection.name} cannot be written ({error}): see to space and rights of "
            f"{self.path}; nothing is lost, it follows the log again by itself"
        )
        if self.problem != problem:
            logger.error("%s", problem)
            self._on_problem(problem)
        self.problem = problem
        self._announce()

    # --- answering ----------------------------------------------------------------------------------------

    @asynccontextmanager
    async def reading(self, min_seq: int = 0, *, own_seq: int = 0) -> AsyncIterator[aiosqlite.Connection]:
        """A connection for one query, which sees at least ``min_seq`` and what the node itself wrote.

        What the node itself wrote is not waited for while there is a problem. Raises ReadModelBehind or
        ReadModelUnavailable.
        """
        readers = await self._ready(min_seq, own_seq)
        async with readers.lent() as db:
            try:
                yield db
            except sqlite3.DatabaseError as error:
                raise self._unreadable(error) from error

    async def wait_for(self, seq: int) -> None:
        """Until all of its events up to here are in it. Raises ReadModelBehind."""
        await self._ready(seq, 0)

    async def wait_current(self) -> None:
        """Until nothing that is older than a minute is missing. Raises ReadModelBehind or Unavailable."""
        if time.monotonic() - self._current_at > CURRENT_SECONDS:
            await self.wait_for((await self._log.extent()).last_seq)

    async def _ready(self, min_seq: int, own_seq: int) -> Readers:
        # Nothing may come between finding the readers and taking one: they are closed when nobody has one.
        with anyio.move_on_after(WAIT_SECONDS):
            while True:
                wanted = min_seq if self.problem is not None else max(min_seq, own_seq)
                if self._readers is not None and self.seq >= wanted:
                    return self._readers
                if self._readers is None and self.problem is not None:
                    raise ReadModelUnavailable(self.problem)
                if self._follower is not None:
                    self._follower.settle()
                with anyio.move_on_after(POLL_SECONDS):
                    await self._changed.wait()
        raise ReadModelBehind(
            f"the read model {self.projection.name} is at event {self.seq} with {self._pending} to come and "
            f"does not have event {max(min_seq, own_seq)} yet: try again"
            + (f"; {self.problem}" if self.problem is not None else "")
        )

    def _unreadable(self, error: sqlite3.DatabaseError) -> SuiteError:
        if is_damaged(error):
            self._damage = error
            if self._follower is not None:
                self._follower.settle()
        logger.error("a query of the read model %s failed: %s", self.projection.name, error)
        return ReadModelUnavailable(
            f"the read model {self.projection.name} cannot be read ({error}): try again"
        )

    async def _open_readers(self) -> None:
        if self._readers is None:
            self._readers = await Readers.open(self.path)
            self._announce()

    async def _close_readers(self) -> None:
        readers, self._readers = self._readers, None
        if readers is not None:
            await readers.close()

    def _at(self, seq: int) -> None:
        if seq != self.seq:
            self.seq = seq
            self._announce()

    def _announce(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    # --- folding anew -------------------------------------------------------------------------------------

    async def rebuild(self, on_progress: OnProgress | None = None) -> Rebuilt:
        """Fold a fresh file beside the live one, and put it in its place; queries go on meanwhile.

        ``on_progress`` hears the fraction that is done. Raises Conflict when a rebuild runs already, and
        ReadModelUnavailable when the new file cannot be written; then the live one stays.
        """
        if self._rebuilding:
            raise Conflict(f"the read model {self.projection.name} is being rebuilt already: wait for it")
        since, fresh = time.monotonic(), self.path.with_name(f"{self.path.name}.new")
        self._rebuilding = True
        try:
            remove(fresh)
            seq, events = await self._fold_anew(fresh, on_progress)
            return Rebuilt(events, time.monotonic() - since, seq)
        except (sqlite3.Error, OSError) as error:
            raise ReadModelUnavailable(
                f"the read model {self.projection.name} cannot be rebuilt ({error}): see to space and rights "
                f"of {self.path.parent}; the one that is there stays"
            ) from error
        finally:
            self._rebuilding = False
            self._resume()
            remove(fresh)

    async def _fold_anew(self, fresh: Path, on_progress: OnProgress | None) -> tuple[int, int]:
        extent = await self._log.extent()
        events = 0
        async with ProjectionFile.open(fresh, self.projection, extent.created) as file:
            async with self._log.follow(self.projection.aggregates, after=0) as follower:
                follower.settle()  # there may be nothing to come
                reached = 0
                while reached < extent.last_seq:
                    batch = await self._fold_batch(file, follower)
                    events, reached = events + len(batch.events), batch.seq
                    if on_progress is not None:
                        await on_progress(min(1.0, reached / extent.last_seq))
                await self._rest()
                while reached < self.seq:  # what the live one has, the fresh one must have too
                    batch = await self._fold_batch(file, follower)
                    events, reached = events + len(batch.events), batch.seq
            await file.expire(self._now())
            await file.settle()
        await self._close_readers()
        replace(fresh, self.path)
        return reached, events

    async def _fold_batch(self, file: ProjectionFile, follower: Follower) -> Batch:
        batch = await follower.next()
        await file.fold(batch.events)
        if not batch.pending:
            follower.settle()
        return batch

    async def _rest(self) -> None:
        """Have the live one stop where it is."""
        self._handover = _Handover()
        if self._follower is not None:
            self._follower.settle()
        await self._handover.rested.wait()

    def _resume(self) -> None:
        handover, self._handover = self._handover, None
        if handover is not None:
            handover.over.set()
