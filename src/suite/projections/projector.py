"""Keeps one read model up to date with the log, answers queries from it, and rebuilds it when necessary::

    projector = Projector(Usage(), directory / "usage.db", log, now=utc_now)
    tasks.start_soon(projector.run)
    async with projector.reading(min_seq=seq) as db:
        ...

When it cannot write (a full or read-only disk) or follow (no log), health reports the problem. Meanwhile
queries are answered from the existing file, and the projector retries until it works.
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

from suite import telemetry
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
EXPIRE_SECONDS: Final = 20.0
"""How long rows may outlive their events."""
TROUBLE_SECONDS: Final = 10.0
"""How long the log may be unreachable before that is reported as a problem. A server restarts in less."""
CURRENT_SECONDS: Final = 60.0
"""A read model is current if it lacks no event older than this: half of the time for which the server
remembers message ids (`log.stream`)."""

_NEVER: Final = float("-inf")


class Projector:
    """One read model. It is kept up to date while `run` runs."""

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
        """A message about events that the log has lost; None if no loss was found since the start."""
        self.opened_at: int | None = None
        """The last event that the file contained when this began to follow the log; None before that."""
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
        """The sequence up to which the read model contains all of its events."""
        return self._queries.seq

    @property
    def problem(self) -> str | None:
        """Why it cannot follow the log, and what to do; None if it can."""
        if self._problem is None and self._follower is not None:
            trouble = self._follower.trouble(TROUBLE_SECONDS)
            return None if trouble is None else without_log(self.projection.name, trouble)
        return self._problem

    @property
    def info(self) -> ProjectionInfo:
        """Its progress and its problem, for status replies."""
        return ProjectionInfo(
            name=self.projection.name,
            seq=self.seq,
            lag_events=self._pending,
            rebuilding=self._rebuilding,
            problem=self.problem,
        )

    # --- following the log --------------------------------------------------------------------------------

    async def run(self) -> None:
        """Follow the log until cancelled. A file that cannot be used is removed or set aside, and rebuilt."""
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
        """Keep the file up to date until a rebuilt file is to replace it, or somebody moves it away."""
        extent = await self._log.extent()
        self._current_at = _NEVER  # the file may have been replaced by one with fewer events
        try:
            self._lock.hold()
        except OSError:
            with suppress(OSError, Foreign, sqlite3.Error):
                await self._answer((await self._look(extent)).usable_seq)
            raise
        if not self._rebuilding:
            remove(self._fresh)  # left over from a rebuild that was killed
        # Queries are answered from the file even if it cannot be written.
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
        with telemetry.folding(
            self.projection.name, self._log.stream, (event.traceparent for event in batch.events)
        ):
            await file.fold(batch.events, batch.unreadable)
        if time.monotonic() - self._expired_at >= EXPIRE_SECONDS:
            now = follower.time()
            more = now is not None and await file.expire(now)
            self._expired_at = _NEVER if more else time.monotonic()  # if more: continue after the next batch
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
        """Remove a file that this version did not build from this log; return the last event of one it did.

        The file is deleted only if the log still has all of its events; otherwise it is kept under another
        name.
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
        """Handle an error of the disk, the file or the fold: wait, or set the file aside to rebuild it."""
        # An unforeseen error is blamed on the content of the file only once: if it comes back after a
        # rebuild, rebuilding again and again would not help.
        is_suspect = not (is_damaged(error) or is_outside(error))
        if is_outside(error) or (is_suspect and self._distrusted) or not self._lock.is_held:
            self._report(without_file(self.projection.name, self.path, error))
            await anyio.sleep(RETRY_SECONDS)
            return
        logger.error("%s is kept under another name, and folded anew: %s", self.path, error, exc_info=error)
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
        """A connection for one query, which sees all events up to ``min_seq`` and ``own_seq``.

        ``own_seq`` is the last event that the node itself wrote; it is not waited for while there is a
        problem. Raises InvalidRequest for a ``min_seq`` beyond the end of the log, ReadModelBehind, or
        ReadModelUnavailable, which also replaces any error in the block that is not a SuiteError.
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
        """How many events of each kind it contains, and up to which sequence.

        Raises ReadModelBehind or ReadModelUnavailable.
        """
        async with self.reading() as db:
            return await extract(db)

    async def wait_for(self, seq: int) -> None:
        """Wait until it contains its events up to ``seq``. Raises ReadModelBehind, ReadModelUnavailable."""
        await self._queries.ready(seq, 0)

    async def wait_current(self) -> int:
        """Wait until no event older than `CURRENT_SECONDS` is missing.

        Returns the sequence that a query must see then. Raises what `wait_for` raises, and Unavailable.
        """
        if time.monotonic() - self._current_at <= CURRENT_SECONDS:
            return self.seq
        last_seq = (await self._log.extent()).last_seq
        await self.wait_for(last_seq)
        return last_seq

    def _unreadable(self, error: Exception, pool: ConnectionPool) -> SuiteError:
        """The error for a query that failed. If the file may be the cause, a rebuild is triggered."""
        name = self.projection.name
        logger.error("a query of the read model %s failed: %s", name, error, exc_info=error)
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

    # --- rebuilding ---------------------------------------------------------------------------------------

    async def rebuild(self, on_progress: OnProgress | None = None, *, force: bool = False) -> Rebuilt:
        """Build a new file from the whole log and replace the live one with it. Queries go on meanwhile.

        ``on_progress`` is called with the fraction that is done. Raises Conflict if a rebuild is already
        running, ReadModelUnavailable if the new file cannot be written, and RebuildWouldLose if the log has
        lost events that the live file contains; in all cases the live file stays. With ``force`` a loss is
        accepted, and the live file is kept under another name.
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
            await fresh.reach(self.seq)  # at least as far as the live file
            live, held = await self._live_ledger(extent), await fresh.ledger()
            now = (await self._log.extent()).time  # what has expired during the rebuild is not lost
            lost = missing(live, held, now)
            if lost and not force:
                raise RebuildWouldLose(would_lose(self.projection.name, due(live, now), lost))
            await fresh.settle()
        await self._queries.close()
        try:
            with suppress(sqlite3.Error):
                await self._look(extent)
        except Foreign:  # it was put there during the rebuild
            await self._keep_foreign()
        if lost:
            kept = set_aside(self.path, "lost-events", self._now())
            logger.warning("%s has %d events that the log lost: kept as %s", self.path, lost, kept.name)
        self.loss = None
        replace(self._fresh, self.path)
        self._damage, self._distrusted = None, False
        return fresh

    async def _live_ledger(self, extent: Extent) -> Ledger:
        """The event counts of the live file; empty if it is of another log or cannot be read."""
        with suppress(sqlite3.Error, Foreign):
            found = await self._look(extent)
            if found.fit is not Fit.OTHER_LOG:
                return found.ledger
        return {}

    async def _rest(self) -> None:
        """Stop writing the live file, and wait until that has happened."""
        self._handover = Handover()
        self._hurry()
        await self._handover.rested.wait()

    def _resume(self) -> None:
        handover, self._handover = self._handover, None
        if handover is not None:
            handover.over.set()
