"""The SQLite file of one read model. Its tables and its checkpoint change in the same transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from enum import Enum, auto
from pathlib import Path
from types import MappingProxyType
from typing import Final, NamedTuple

import aiosqlite
import anyio

from suite.log import Unreadable
from suite.messages.envelope import Recorded
from suite.projections import event_ids, ledger, unreadable
from suite.projections.connection import connected, needs_rollback, transaction
from suite.projections.file_lock import Identity, beside, identity, made
from suite.projections.ledger import Ledger, extract
from suite.projections.projection import Mark, Projection

_CHECKPOINT: Final = """
CREATE TABLE IF NOT EXISTS suite_checkpoint (
    projection TEXT NOT NULL, version INTEGER NOT NULL, events TEXT NOT NULL, stream TEXT NOT NULL,
    seq INTEGER NOT NULL
)
"""

_BOOKKEEPING: Final = "suite_"
"""What the names of tables begin with that are not a projection's own."""


class Overtaken(Exception):
    """Another process has written events to the file: the checkpoint must be read again."""


class Foreign(Exception):
    """The file is a database that this service did not write."""


class Fit(Enum):
    """How a file relates to the log and to this version of the software."""

    ABSENT = auto()
    """There is no file, or it is empty."""
    USABLE = auto()
    OTHER_VERSION = auto()
    """Built from this log by another version, or by another projection."""
    OTHER_LOG = auto()
    """Built from another stream."""
    LONGER = auto()
    """It contains events beyond the end of the log."""


class Found(NamedTuple):
    """What was found at the path of a read model."""

    fit: Fit
    seq: int = 0
    """The last event that it contains."""
    ledger: Ledger = MappingProxyType({})
    """Its event counts; empty if it was written by a version that kept none."""

    @property
    def usable_seq(self) -> int | None:
        """The last event in the file if queries can be answered from it, else None."""
        return self.seq if self.fit is Fit.USABLE else None


async def inspect(path: Path, mark: Mark, last_seq: int) -> Found:
    """Find out what kind of file is at a path.

    ``last_seq`` is the last sequence of the log. Raises Foreign, and sqlite3.Error if it cannot be read.
    """
    if not await anyio.Path(path).exists():
        return Found(Fit.ABSENT)
    try:
        async with connected(path, read_only=True) as db:
            names = {name for (name,) in await db.execute_fetchall("SELECT name FROM sqlite_master")}
            if not names:
                return Found(Fit.ABSENT)  # its creator ended before it wrote anything
            if "suite_checkpoint" not in names:
                raise Foreign
            rows = [tuple(row) for row in await db.execute_fetchall("SELECT * FROM suite_checkpoint")]
            counts = (await extract(db)).events if rows and "suite_ledger" in names else {}
    except sqlite3.Error as error:
        if needs_rollback(error):  # a rollback journal: this service writes in WAL mode
            raise Foreign from error
        raise
    match rows:
        case [(*said, int(seq))] if len(said) == len(mark):
            return Found(_fit(Mark(*said), mark, seq, last_seq), seq, counts)
    return Found(Fit.OTHER_VERSION, 0, counts)


def _fit(said: Mark, mark: Mark, seq: int, last_seq: int) -> Fit:
    if said.stream != mark.stream:
        return Fit.OTHER_LOG
    if seq > last_seq:
        return Fit.LONGER
    return Fit.USABLE if said == mark else Fit.OTHER_VERSION


class Torn(sqlite3.DatabaseError):
    """The file's ``-wal`` or ``-shm`` was removed in use: other readers miss the newest transactions."""

    sqlite_errorcode = sqlite3.SQLITE_CORRUPT


class ProjectionFile:
    """Writes one file. Every method can raise sqlite3.Error."""

    def __init__(
        self, path: Path, projection: Projection, db: aiosqlite.Connection, seq: int, of: Identity | None
    ) -> None:
        self.path = path
        self.seq = seq
        """The last event that was applied to the tables."""
        self._projection = projection
        self._db = db
        self._of = of
        self._beside: Mapping[Path, Identity | None] = {each: identity(each) for each in beside(path)}

    def is_in_place(self) -> bool:
        """Whether the open file is still the one at the path: somebody may have removed or replaced it."""
        return identity(self.path) == self._of

    def require_whole(self) -> None:
        """Raise Torn if the ``-wal``, ``-shm`` or journal of the file was removed or replaced."""
        for each, own in self._beside.items():
            if own is not None and identity(each) != own and self.is_in_place():
                raise Torn(f"{each.name} was removed while it was in use")

    @classmethod
    @asynccontextmanager
    async def open(cls, path: Path, projection: Projection, stream: str) -> AsyncIterator[ProjectionFile]:
        """Open the file. It is created, with its tables, if it is missing or empty.

        If the file is no longer at its path when the block ends, its ``-wal`` and ``-shm`` are removed:
        otherwise SQLite would apply them to whatever file is opened there next. Raises OSError too.
        """
        of = made(path)  # before it is opened: if it is replaced meanwhile, it counts as not in place
        async with connected(path) as db:
            await db.execute_fetchall("PRAGMA journal_mode = WAL")
            # A power cut can lose the newest transactions, but it loses the checkpoint with the rows: those
            # events are folded again.
            await db.execute("PRAGMA synchronous = NORMAL")
            async with transaction(db):
                await db.execute(_CHECKPOINT)
                await db.execute(ledger.SCHEMA)
                rows = list(await db.execute_fetchall("SELECT seq FROM suite_checkpoint"))
                if not rows:
                    for schema in (projection.schema, event_ids.SCHEMA, unreadable.SCHEMA):
                        for statement in schema.split(";"):
                            await db.execute(statement)
                    await db.execute(
                        "INSERT INTO suite_checkpoint VALUES (?, ?, ?, ?, 0)", projection.mark(stream)
                    )
            file = cls(path, projection, db, rows[0][0] if rows else 0, of)
            try:
                yield file
            finally:
                file._forsake()

    async def fold(self, events: Sequence[Recorded], skipped: Sequence[Unreadable] = ()) -> None:
        """Apply the events that are new to this file, and count the skipped messages. Raises Overtaken."""
        fresh = [event for event in events if event.seq > self.seq]
        strange = [message for message in skipped if message.seq > self.seq]
        if not fresh and not strange:
            return
        seq = max(each[-1].seq for each in (fresh, strange) if each)
        async with transaction(self._db):
            if fresh:
                await self._fold(fresh)
                await ledger.note(self._db, fresh)
            if strange:
                await unreadable.count(self._db, strange)
            moved = await self._db.execute(
                "UPDATE suite_checkpoint SET seq = ? WHERE seq = ?", (seq, self.seq)
            )
            if moved.rowcount != 1:
                raise Overtaken
        self.seq = seq

    async def _fold(self, events: Sequence[Recorded]) -> None:
        projection = self._projection
        await projection.fold(
            self._db, await event_ids.first_of_each(self._db, events, but=projection.idempotent)
        )

    async def expire(self, now: datetime) -> bool:
        """Remove some of the expired rows. Returns whether there may be more."""
        async with transaction(self._db):
            more_ids = await event_ids.expire(self._db, now)
            await ledger.expire(self._db, now)
            return await self._projection.expire(self._db, now) or more_ids

    async def ledger(self) -> Ledger:
        """How many events of each kind the file contains."""
        return (await ledger.extract(self._db)).events

    async def different_table(self, other: Path) -> str | None:
        """A table of the projection that has other rows in another file; None if all are the same."""
        await self._db.execute("ATTACH ? AS other", (str(other),))
        try:
            tables = await self._db.execute_fetchall(
                "SELECT name FROM main.sqlite_master WHERE type = 'table'"
            )
            for (table,) in tables:
                if not table.startswith(_BOOKKEEPING) and await self._differs(table):
                    return str(table)
        finally:
            await self._db.execute("DETACH other")
        return None

    async def _differs(self, table: str) -> bool:
        here, there = f'main."{table}"', f'other."{table}"'
        (row,) = await self._db.execute_fetchall(
            f"SELECT (SELECT count(*) FROM {here}) != (SELECT count(*) FROM {there})"
            f" OR EXISTS (SELECT * FROM {here} EXCEPT SELECT * FROM {there})"
        )
        return bool(row[0])

    async def settle(self) -> None:
        """Checkpoint the WAL into the file, so that it can be renamed, or read on a read-only disk.

        Does nothing while somebody else reads the file, or when it is no longer at its path.
        """
        if self.is_in_place():
            with anyio.CancelScope(shield=True), suppress(sqlite3.OperationalError):
                await self._db.execute_fetchall("PRAGMA busy_timeout = 0")  # a reader's query can take long
                await self._db.execute_fetchall("PRAGMA wal_checkpoint(TRUNCATE)")
                await self._db.execute_fetchall("PRAGMA journal_mode = DELETE")

    def _forsake(self) -> None:
        """If the file is no longer at its path, remove its own ``-wal`` and ``-shm``."""
        with suppress(OSError):
            if not self.is_in_place():
                for each, own in self._beside.items():
                    if own is not None and identity(each) == own:
                        each.unlink()
