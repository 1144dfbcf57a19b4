"""Connections to the SQLite files of read models, and what their errors mean."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

import aiosqlite
import anyio

BUSY_SECONDS: Final = 5.0
"""How long a transaction waits for somebody else's."""

_DAMAGED: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_OUTSIDE: Final = frozenset(
    {
        sqlite3.SQLITE_AUTH,
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_INTERRUPT,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOLFS,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_READONLY,
    }
)


@asynccontextmanager
async def connected(path: Path, *, read_only: bool = False) -> AsyncIterator[aiosqlite.Connection]:
    """A connection whose transactions begin and end where that is said. Raises sqlite3.Error."""
    db = await aiosqlite.connect(
        _uri(path, "ro" if read_only else "rwc"), uri=True, isolation_level=None, timeout=BUSY_SECONDS
    )
    try:
        yield db
    finally:
        with anyio.CancelScope(shield=True):
            await db.close()


@asynccontextmanager
async def transaction(db: aiosqlite.Connection) -> AsyncIterator[None]:
    """All that is written in the block, or nothing: to be cancelled at any moment, too."""
    try:
        await db.execute("BEGIN IMMEDIATE")
        yield
        await db.commit()
    except BaseException:
        with anyio.CancelScope(shield=True), suppress(sqlite3.Error):
            await db.rollback()
        raise


def is_damaged(error: Exception) -> bool:
    """Whether SQLite says that a file is broken."""
    return _code(error) & 0xFF in _DAMAGED


def is_outside(error: Exception) -> bool:
    """Whether the reason is the disk, its rights or somebody else, and not what stands in the file."""
    if isinstance(error, sqlite3.Error):
        return _code(error) & 0xFF in _OUTSIDE
    return isinstance(error, OSError)


def needs_rollback(error: Exception) -> bool:
    """Whether whoever wrote to a file was killed, so that it must be mended before it can be read."""
    return _code(error) == sqlite3.SQLITE_READONLY_ROLLBACK


def _uri(path: Path, mode: str) -> str:
    return f"{path.absolute().as_uri()}?mode={mode}"


def _code(error: Exception) -> int:
    """SQLite's extended code; 0 for others' errors, and for those that Python raises for SQLite."""
    return int(getattr(error, "sqlite_errorcode", 0))
