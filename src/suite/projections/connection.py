"""Opens the SQLite files of read models, and classifies SQLite's errors."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

import aiosqlite
import anyio

BUSY_SECONDS: Final = 5.0
"""How long a transaction waits for a lock that another connection holds."""

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
    """A connection in autocommit mode: transactions begin and end only explicitly. Raises sqlite3.Error."""
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
    """Commit all that the block writes, or nothing if it raises or is cancelled."""
    try:
        await db.execute("BEGIN IMMEDIATE")
        yield
        await db.commit()
    except BaseException:
        with anyio.CancelScope(shield=True), suppress(sqlite3.Error):
            await db.rollback()
        raise


def is_damaged(error: Exception) -> bool:
    """Whether SQLite reports that the file is corrupt or not a database."""
    return _code(error) & 0xFF in _DAMAGED


def is_outside(error: Exception) -> bool:
    """Whether the cause is outside the file: the disk, permissions, memory or another process."""
    if isinstance(error, sqlite3.Error):
        return _code(error) & 0xFF in _OUTSIDE
    return isinstance(error, OSError)


def needs_rollback(error: Exception) -> bool:
    """Whether a writer was killed, so that the file needs a rollback before it can be read."""
    return _code(error) == sqlite3.SQLITE_READONLY_ROLLBACK


def _uri(path: Path, mode: str) -> str:
    return f"{path.absolute().as_uri()}?mode={mode}"


def _code(error: Exception) -> int:
    """SQLite's extended error code; 0 for other errors, and for those that Python's sqlite3 itself raises."""
    return int(getattr(error, "sqlite_errorcode", 0))
