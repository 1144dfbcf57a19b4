"""The SQLite file of one read model: its tables and its checkpoint, always changed together."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Final, NamedTuple

import aiosqlite
import anyio

from suite.messages.envelope import Recorded
from suite.projections.projection import Projection

logger = logging.getLogger("suite.projections")

READERS: Final = 2
"""Queries that run at once on one read model; others wait for them."""

BUSY_SECONDS: Final = 5.0
"""How long a transaction waits for somebody else's."""

_CHECKPOINT: Final = """
CREATE TABLE IF NOT EXISTS suite_checkpoint (
    projection TEXT NOT NULL, version INTEGER NOT NULL, stream TEXT NOT NULL, seq INTEGER NOT NULL
)
"""
_DAMAGED: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


class Checkpoint(NamedTuple):
    """What a file says of itself."""

    projection: str
    version: int
    stream: str
    """When the stream that it folds was created."""
    seq: int
    """The last event that is in its tables."""


class Overtaken(Exception):
    """Another process has brought events into the file: read its checkpoint again."""


def is_damaged(error: Exception) -> bool:
    """Whether a file cannot be read any more, rather than only not at the moment."""
    return isinstance(error, sqlite3.DatabaseError) and error.sqlite_errorcode & 0xFF in _DAMAGED


async def inspect(path: Path) -> Checkpoint | None:
    """What the file says of itself; None for a SQLite file that is no read model, or is empty.

    Raises FileNotFoundError, and sqlite3.Error for what cannot be read.
    """
    if not await anyio.Path(path).exists():
        raise FileNotFoundError(path)
    async with _connected(path, read_only=True) as db:
        tables = "SELECT 1 FROM sqlite_master WHERE name = 'suite_checkpoint'"
        if not await db.execute_fetchall(tables):
            return None
        rows = list(
            await db.execute_fetchall("SELECT projection, version, stream, seq FROM suite_checkpoint")
        )
        return Checkpoint(*rows[0]) if rows else None


class Readers:
    """Connections that see a file as its last transaction left it, lent one query at a time."""

    def __init__(self, connections: Sequence[aiosqlite.Connection], stack: AsyncExitStack) -> None:
        self._count = len(connections)
        self._stack = stack
        self._idle: asyncio.LifoQueue[aiosqlite.Connection] = asyncio.LifoQueue()
        for connection in connections:
            self._idle.put_nowait(connection)

    @classmethod
    async def open(cls, path: Path) -> Readers:
        """Raises sqlite3.Error."""
        async with AsyncExitStack() as stack:
            connections = [
                await stack.enter_async_context(_connected(path, read_only=True)) for _ in range(READERS)
            ]
            return cls(connections, stack.pop_all())

    @asynccontextmanager
    async def lent(self) -> AsyncIterator[aiosqlite.Connection]:
        """A connection for one query."""
        connection = await self._idle.get()
        try:
            yield connection
        finally:
            self._idle.put_nowait(connection)

    async def close(self) -> None:
        """Wait for the queries that run, and close. Nobody may ask for a connection from then on."""
        with anyio.CancelScope(shield=True):
            for _ in range(self._count):
                await self._idle.get()
            await self._stack.aclose()


class ProjectionFile:
    """The writer of one file. Raises sqlite3.Error, from every method."""

    def __init__(self, path: Path, projection: Projection, db: aiosqlite.Connection, seq: int) -> None:
        self.path = path
        self.seq = seq
        """The last event that is in the tables."""
        self._projection = projection
        self._db = db
        self._inode = path.stat().st_ino

    def is_in_place(self) -> bool:
        """Whether the file is still there under its name; somebody may have removed or replaced it."""
        try:
            return self.path.stat().st_ino == self._inode
        except FileNotFoundError:
            return False

    @classmethod
    @asynccontextmanager
    async def open(cls, path: Path, projection: Projection, stream: str) -> AsyncIterator[ProjectionFile]:
        """The file, made with its tables if it is not there or empty."""
        async with _connected(path) as db:
            await db.execute_fetchall("PRAGMA journal_mode = WAL")
            # The checkpoint goes with the rows: what a power cut takes is folded again.
            await db.execute("PRAGMA synchronous = NORMAL")
            await db.execute("BEGIN IMMEDIATE")
            try:
                await db.execute(_CHECKPOINT)
                rows = list(await db.execute_fetchall("SELECT seq FROM suite_checkpoint"))
                if not rows:
                    for statement in projection.schema.split(";"):
                        await db.execute(statement)
                    await db.execute(
                        "INSERT INTO suite_checkpoint VALUES (?, ?, ?, 0)",
                        (projection.name, projection.version, stream),
                    )
                await db.commit()
            except BaseException:
                await _roll_back(db)
                raise
            yield cls(path, projection, db, rows[0][0] if rows else 0)

    async def fold(self, events: Sequence[Recorded]) -> None:
        """Bring what is new of the events into the tables. Raises Overtaken."""
        fresh = [event for event in events if event.seq > self.seq]
        if not fresh:
            return
        await self._db.execute("BEGIN IMMEDIATE")
        try:
            await self._projection.fold(self._db, fresh)
            moved = await self._db.execute(
                "UPDATE suite_checkpoint SET seq = ? WHERE seq = ?", (fresh[-1].seq, self.seq)
            )
            if moved.rowcount != 1:
                raise Overtaken
            await self._db.commit()
        except BaseException:
            await _roll_back(self._db)
            raise
        self.seq = fresh[-1].seq

    async def expire(self, now: datetime) -> None:
        """Remove the rows whose time is over."""
        await self._db.execute("BEGIN IMMEDIATE")
        try:
            await self._projection.expire(self._db, now)
            await self._db.commit()
        except BaseException:
            await _roll_back(self._db)
            raise

    async def settle(self) -> None:
        """Bring all into the one file, which then can be renamed or read on a read-only disk.

        Left as it is while somebody else reads it.
        """
        with anyio.CancelScope(shield=True), suppress(sqlite3.OperationalError):
            await self._db.execute_fetchall("PRAGMA wal_checkpoint(TRUNCATE)")
            await self._db.execute_fetchall("PRAGMA journal_mode = DELETE")


def remove(path: Path) -> None:
    """Take a file away, and what SQLite keeps beside it. Raises OSError."""
    for each in (path, *_beside(path)):
        each.unlink(missing_ok=True)


def replace(fresh: Path, path: Path) -> None:
    """Put a settled file in the place of another, which nobody of this process has open. Raises OSError.

    What SQLite kept beside the old one must not be taken for the new one's (SQLite, "How to corrupt").
    """
    for each in _beside(path):
        each.unlink(missing_ok=True)
    fresh.replace(path)


def set_aside(path: Path, why: str) -> Path:
    """Keep a file under another name; the name. Raises OSError."""
    number = 1
    while (kept := path.with_name(f"{path.stem}.{why}-{number}{path.suffix}")).exists():
        number += 1
    for each, beside in zip(_beside(path), _beside(kept), strict=True):
        if each.exists():
            each.replace(beside)
    path.replace(kept)
    return kept


def _beside(path: Path) -> tuple[Path, Path]:
    return path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")


@asynccontextmanager
async def _connected(path: Path, *, read_only: bool = False) -> AsyncIterator[aiosqlite.Connection]:
    db = await aiosqlite.connect(
        f"{_uri(path)}?mode={'ro' if read_only else 'rwc'}",
        uri=True,
        isolation_level=None,
        timeout=BUSY_SECONDS,
    )
    try:
        yield db
    finally:
        with anyio.CancelScope(shield=True):
            await db.close()


def _uri(path: Path) -> str:
    return path.absolute().as_uri()


async def _roll_back(db: aiosqlite.Connection) -> None:
    with anyio.CancelScope(shield=True), suppress(sqlite3.Error):
        await db.rollback()
