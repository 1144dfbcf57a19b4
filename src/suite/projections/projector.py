"""Keeps one read model up with the log, answers from it, and folds it anew when that is asked or needed::

    projector = Projector(Usage(), directory / "usage.db", log, now=utc_now)
    tasks.start_soon(projector.run)
    async with projector.reading(min_seq=seq) as db:
        ...

What keeps it from writing (a full or read-only disk) or from following (no log) becomes a problem that health
tells of; all else goes on, queries are answered from what there is, and it is tried again until it works.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

import aiosqlite
import anyio

from suite.errors import Conflict, ReadModelUnavailable, RebuildWouldLose, SuiteError
from suite.identity import Now
from suite.log import Log
from suite.log.follower import TICK_SECONDS, Follower
from suite.log.reader import Extent
from suite.messages.actions.status import ProjectionInfo
from suite.projections.connection import is_damaged, is_outside
from suite.projections.file import Fit, Foreign, Found, Overtaken, ProjectionFile, inspect
from suite.projections.file_lock import Lock, remove, replace, set_aside
from suite.projections.ledger import Extract, Ledger, due, extract, missing
from suite.projections.pool import ConnectionPool
from suite.projections.problems import (
    foreign,
    longer_than_the_log,
    more_than_the_log,
    of_another_log,
    without_file,
    without_log,
    would_lose,
)
from suite.projections.projection import Projection
from suite.projections.queries import Queries
from suite.projections.rebuilding import Fresh, Handover, OnProgress, Rebuilt

logger = logging.getLogger("suite.projections")

RETRY_SECONDS: Final = 2.0
EXPIRE_SECONDS: Final = 5.0
TROUBLE_SECONDS: Final = 10.0
"""So long it may be without the log before that is a problem: a server starts anew in less."""
CURRENT_SECONDS: Final = 60.0
"""So old may the newest event be that is not in it, in what counts as current: half of what the server needs
to forget an id (`log.stream`)."""

_NEVER: Final = float("-inf")


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
        self._log = log
        self._now = now
        self._on_problem = on_problem
        self.loss: str | None = None
        """What the log was found to have lost, since this began."""
        self.opened_at: int | None = None
        """The last event that was in the file when this began to follow; None before that."""
        self._problem: str | None = None
        self._pending = 0
        self._rebuilding = False
        self._lock = Lock(path)
        self._fresh = path.with_name(f"{path.name}.new")
        self._queries = Queries(
            projection.name, path, problem=lambda: self.problem, hurry=self._hurry, exists=log.reaches
        )
        self._follower: Follower | None = None
        self._handover: Handover | None = None
        self._damage: Exception | None = None
        self._distrusted = False
        self._expired_at = _NEVER
        self._current_at = _NEVER

    @property
    def seq(self) -> int:
        """All of its events up to here are in it."""
        return self._queries.seq

    @property
    def problem(self) -> str | None:
        """What keeps it from following the log, and what to do."""
        if self._problem is None and self._follower is not None:
            trouble = self._follower.trouble(TROUBLE_SECONDS)
            return None if trouble is None else without_log(self.projection.name, trouble)
        return self._problem

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
        """Follow the log for ever, whatever is in the file."""
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
                    self._report(without_log(self.projection.name, error.message))
                    await anyio.sleep(RETRY_SECONDS)
                except Exception as error:
                    await self._recover(error)
        finally:
            await self._queries.close()
            self._lock.release()

    async def _live(self) -> None:
        """Keep the file up with the log until a rebuilt one is to take its place, or somebody moves it."""
        extent = await self._log.extent()
        self._current_at = _NEVER  # it may be another file, which knows less
        try:
            self._lock.hold()
        except OSError:
            with suppress(OSError, Foreign, sqlite3.Error):
                await self._answer((await self._look(extent)).usable_seq)
            raise
        if not self._rebuilding:
            remove(self._fresh)  # of a rebuild that was killed
        # It is answered from, even if it cannot be written.
        await self._answer(await self._discard_unusable(extent))
        async with ProjectionFile.open(self.path, self.projection, extent.created) as file:
            if self.opened_at is None:
                self.opened_at = file.seq
            await self._queries.open(file.seq)
            try:
                async with self._log.follow(self.projection.aggregates, after=file.seq) as self._follower:
                    while self._handover is None and file.is_in_place():
                        file.require_whole()
                        await self._step(file, self._follower)
            except asyncio.CancelledError:
                await self._queries.close()
                await file.settle()
                raise
            finally:
                self._follower = None
        if self._handover is None:  # the file is gone
            self._damage = None
            await self._queries.close()

    async def _step(self, file: ProjectionFile, follower: Follower) -> None:
        batch = await follower.next(0.0 if self._expired_at == _NEVER else TICK_SECONDS)
        if self._damage is not None:
            raise self._damage
        told_at = time.monotonic()
        await file.fold(batch.events, batch.unreadable)
        if time.monotonic() - self._expired_at >= EXPIRE_SECONDS:
            now = follower.time()
            more = now is not None and await file.expire(now)
            self._expired_at = _NEVER if more else time.monotonic()  # the rest after what has come meanwhile
        if self._problem is not None and (batch.events or not batch.pending):
            logger.warning("%s follows the log again", self.projection.name)
            self._problem = None
        self._pending = batch.pending
        if not batch.pending:
            self._current_at = told_at
        self._queries.reach(batch.seq)

    async def _answer(self, seq: int | None) -> None:
        if seq is not None:
            await self._queries.open(seq)

    async def _look(self, extent: Extent) -> Found:
        return await inspect(self.path, self.projection.mark(extent.created), extent.last_seq)

    async def _discard_unusable(self, extent: Extent) -> int | None:
        """Take a file away that is not a fold of this log by this version; the last event in one that is.

        Only what the log has all of is removed: anything else is kept under another name.
        """
        try:
            found = await self._look(extent)
        except Foreign:
            await self._keep_foreign()
            return None
        if found.fit is Fit.USABLE or not self.path.exists():
            return found.usable_seq
        await self._queries.close()
        match found.fit:
            case Fit.OTHER_LOG:
                self._warn(of_another_log(self.path, set_aside(self.path, "other-log", self._now())))
            case Fit.LONGER:
                kept = set_aside(self.path, "lost-events", self._now())
                self._lose(longer_than_the_log(self.path, kept, found.seq, extent.last_seq))
            case Fit.OTHER_VERSION if (wanted := due(found.ledger, extent.time)) > (
                there := await self._log.count(self.projection.aggregates)
            ):
                kept = set_aside(self.path, "lost-events", self._now())
                self._lose(more_than_the_log(self.path, kept, wanted, there))
            case _:
                logger.warning("%s is of another version, and the log has all of it: folded anew", self.path)
                remove(self.path)
        return None

    def _warn(self, message: str) -> None:
        logger.warning("%s", message)
        self._on_problem(message)

    def _lose(self, message: str) -> None:
        self._warn(message)
        self.loss = message

    async def _keep_foreign(self) -> None:
        await self._queries.close()
        logger.warning("%s", foreign(self.path, set_aside(self.path, "foreign")))

    async def _recover(self, error: Exception) -> None:
        """After what the disk, the file or the fold has come to."""
        # An error that nobody foresaw is put down to what stands in the file, once: if it is not that, to
        # fold anew again and again would help nobody.
        is_suspect = not (is_damaged(error) or is_outside(error))
        if is_outside(error) or (is_suspect and self._distrusted) or not self._lock.is_held:
            self._report(without_file(self.projection.name, self.path, error))
            await anyio.sleep(RETRY_SECONDS)
            return
        logger.error("%s is kept under another name, and folded anew", self.path, exc_info=error)
        self._distrusted = self._distrusted or is_suspect
        self._damage = None
        await self._queries.close()
        try:
            kept = set_aside(self.path, "damaged")
        except OSError as unmovable:
            self._report(without_file(self.projection.name, self.path, unmovable))
            await anyio.sleep(RETRY_SECONDS)
        else:
            self._on_problem(f"{self.path} is damaged ({error}): kept as {kept.name} and folded anew")

    def _report(self, problem: str) -> None:
        if self._problem != problem:
            logger.error("%s", problem)
            self._on_problem(problem)
        self._problem = problem
        self._queries.announce()

    # --- answering ----------------------------------------------------------------------------------------

    @asynccontextmanager
    async def reading(self, min_seq: int = 0, *, own_seq: int = 0) -> AsyncIterator[aiosqlite.Connection]:
        """A connection for one query, which sees at least ``min_seq`` and what the node itself wrote.

        What the node itself wrote is not waited for while there is a problem. Raises InvalidRequest for a
        ``min_seq`` beyond the end of the log, ReadModelBehind, or ReadModelUnavailable; the last in the place
        of every error in the block that is no SuiteError.
        """
        pool, db = await self._queries.borrow(min_seq, own_seq)
        try:
            yield db
        except SuiteError:
            raise
        except Exception as error:
            raise self._unreadable(error, pool) from error
        finally:
            pool.give_back(db)

    async def ledger(self) -> Extract:
        """How many events of each kind are in it, and up to where. Raises ReadModelUnavailable."""
        async with self.reading() as db:
            return await extract(db)

    async def wait_for(self, seq: int) -> None:
        """Until all of its events up to here are in it. Raises ReadModelBehind, ReadModelUnavailable."""
        await self._queries.ready(seq, 0)

    async def wait_current(self) -> int:
        """Until nothing that is older than a minute is missing. Returns which event a query must see then.

        Raises as `wait_for` does, and Unavailable.
        """
        if time.monotonic() - self._current_at <= CURRENT_SECONDS:
            return self.seq
        last_seq = (await self._log.extent()).last_seq
        await self.wait_for(last_seq)
        return last_seq

    def _unreadable(self, error: Exception, pool: ConnectionPool) -> SuiteError:
        """What a query gets that came to grief. If the file may be to blame, it is folded anew."""
        name = self.projection.name
        logger.error("a query of the read model %s failed", name, exc_info=error)
        again = "try again"
        if is_damaged(error) or not (is_outside(error) or self._distrusted):
            if self._queries.are_from(pool):
                self._damage = error
                self._hurry()
        elif not is_outside(error):
            again = f"try again after `suite rebuild {name}`"
        return ReadModelUnavailable(f"the read model {name} cannot be read ({error}): {again}")

    def _hurry(self) -> None:
        if self._follower is not None:
            self._follower.settle()

    # --- folding anew -------------------------------------------------------------------------------------

    async def rebuild(self, on_progress: OnProgress | None = None, *, force: bool = False) -> Rebuilt:
        """Fold a fresh file beside the live one, and put it in its place; queries go on meanwhile.

        ``on_progress`` hears the fraction that is done. Raises Conflict when a rebuild runs already, and
        ReadModelUnavailable when the new file cannot be written; then the live one stays. It stays also,
        with RebuildWouldLose, when the log has lost what is in it; with ``force`` it is kept under another
        name then.
        """
        if self._rebuilding:
            raise Conflict(f"the read model {self.projection.name} is being rebuilt already: wait for it")
        since, self._rebuilding = time.monotonic(), True
        try:
            self._lock.hold()
            remove(self._fresh)
            fresh = await self._fold_anew(on_progress, force=force)
            return Rebuilt(fresh.events, time.monotonic() - since, fresh.seq)
        except SuiteError:
            raise
        except Exception as error:
            raise ReadModelUnavailable(
                f"the read model {self.projection.name} cannot be rebuilt ({error}): see to space and rights "
                f"of {self.path.parent}; the one that is there stays"
            ) from error
        finally:
            self._rebuilding = False
            self._resume()
            if self._lock.is_held:
                remove(self._fresh)

    async def _fold_anew(self, on_progress: OnProgress | None, *, force: bool) -> Fresh:
        extent = await self._log.extent()
        async with Fresh.open(self._fresh, self.projection, self._log, extent.created) as fresh:
            await fresh.reach(extent.last_seq, on_progress)
            await fresh.expire()
            await self._rest()
            await fresh.reach(self.seq)  # what the live one has, the fresh one must have too
            live = await self._live_ledger(extent)
            lost = missing(live, await fresh.ledger(), extent.time)
            if lost and not force:
                raise RebuildWouldLose(would_lose(self.projection.name, due(live, extent.time), lost))
            await fresh.settle()
        await self._queries.close()
        try:
            with suppress(sqlite3.Error):
                await self._look(extent)
        except Foreign:  # it came while this was folded
            await self._keep_foreign()
        if lost:
            kept = set_aside(self.path, "lost-events", self._now())
            logger.warning("%s has %d events that the log lost: kept as %s", self.path, lost, kept.name)
        self.loss = None
        replace(self._fresh, self.path)
        self._damage, self._distrusted = None, False
        return fresh

    async def _live_ledger(self, extent: Extent) -> Ledger:
        """What the live one has of this log; nothing if it cannot be read."""
        with suppress(sqlite3.Error, Foreign):
            found = await self._look(extent)
            if found.fit is not Fit.OTHER_LOG:
                return found.ledger
        return {}

    async def _rest(self) -> None:
        """Have the live one stop where it is."""
        self._handover = Handover()
        self._hurry()
        await self._handover.rested.wait()

    def _resume(self) -> None:
        handover, self._handover = self._handover, None
        if handover is not None:
            handover.over.set()
