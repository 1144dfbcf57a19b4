"""Folds a log into read models of its own, and says whether those of a node agree with them.

A node's read model is copied while the node writes it. The copy has what the node had folded by then, and
folds the rest from the log that is checked; then each of its rows must be a row of the fresh one.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from suite.log import Log
from suite.projections.connection import connected
from suite.projections.file import ProjectionFile
from suite.projections.projection import Projection
from suite.projections.projections import FILES, paths

_WAIT_SECONDS = 0.1
"""After this long without events the follower checks whether any are left."""


class Verified(NamedTuple):
    """One read model that was folded from the log."""

    name: str
    events: int
    """How many events it was folded from."""
    is_compared: bool
    """Whether there was one of the node, of this version, to compare it with."""
    difference: str | None = None
    """The table in which the node's has other rows; None if it agrees."""


def copy_read_models(data_dir: Path, to: Path) -> Mapping[str, Path]:
    """Copy the read models of a node, which may be running, into a directory. Blocks.

    Returns the copies by the names of the read models. Those that are not in the data directory, or that
    cannot be read, are left out.
    """
    copies: dict[str, Path] = {}
    for projection, path in paths(data_dir).items():
        copy = to / path.name
        if path.exists():
            try:
                _copy(path, copy)
            except sqlite3.Error:
                copy.unlink(missing_ok=True)
            else:
                copies[projection.name] = copy
    return copies


def _copy(path: Path, to: Path) -> None:
    origin = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
    copy = sqlite3.connect(to)
    try:
        origin.backup(copy)
    finally:
        copy.close()
        origin.close()


async def verify(log: Log, directory: Path, copies: Mapping[str, Path]) -> list[Verified]:
    """Fold the whole log into files in a directory, and compare them with copies of a node's read models.

    The files can be used as a node's. Raises Unavailable, sqlite3.Error, and whatever a fold raises.
    """
    extent = await log.extent()
    verified = []
    for kind, name in FILES.items():
        projection = kind()
        copy = copies.get(projection.name)
        if copy is not None and not await _is_of_this_version(copy, projection):
            copy = None
        fresh = directory / name
        events = await _fold(projection, fresh, log, extent.created, extent.last_seq)
        difference = None
        if copy is not None:
            await _fold(projection, copy, log, extent.created, extent.last_seq)
            difference = await _difference(projection, fresh, copy, log, extent.created)
        verified.append(Verified(projection.name, events, copy is not None, difference))
    return verified


async def _is_of_this_version(path: Path, projection: Projection) -> bool:
    """Whether a file has the tables that this version makes, from whichever stream."""
    mark = projection.mark("")
    async with connected(path, read_only=True) as db:
        rows = await db.execute_fetchall("SELECT projection, version, events FROM suite_checkpoint")
    return [tuple(row) for row in rows] == [(mark.projection, mark.version, mark.events)]


async def _fold(projection: Projection, path: Path, log: Log, stream: str, until: int) -> int:
    """Bring a file up to a sequence. Returns how many events were folded."""
    count = 0
    async with ProjectionFile.open(path, projection, stream) as file:
        seq = file.seq
        if seq >= until:
            return 0
        async with log.follow(projection.aggregates, after=seq) as follower:
            follower.settle()
            while seq < until:
                batch = await follower.next(_WAIT_SECONDS)
                await file.fold(batch.events, batch.unreadable)
                if not batch.pending:
                    follower.settle()
                count, seq = count + len(batch.events), batch.seq
        await file.settle()
    return count


async def _difference(projection: Projection, fresh: Path, copy: Path, log: Log, stream: str) -> str | None:
    """The table that differs, once what has expired by now is removed from both."""
    now = (await log.extent()).time
    async with ProjectionFile.open(copy, projection, stream) as file:
        await _expire(file, now)
    async with ProjectionFile.open(fresh, projection, stream) as file:
        await _expire(file, now)
        return await file.different_table(copy)


async def _expire(file: ProjectionFile, now: datetime) -> None:
    while await file.expire(now):
        pass
