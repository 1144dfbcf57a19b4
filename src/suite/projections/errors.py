"""The read model of errors in the fleet: reported errors, and other events that imply one (e.g. a crash)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import ClassVar

import aiosqlite

from suite.domain.incidents import incident
from suite.errors import InvalidRequest
from suite.messages.actions.projections import ErrorEntry, GetErrorsReply, GetErrorsRequest
from suite.messages.envelope import Recorded
from suite.messages.times import from_sql, parse_time, rfc3339, to_sql
from suite.projections.projection import EXPIRE_ROWS, Projection, remove_expired
from suite.projections.reply_size import as_many_as_fit

_MAX_SEQ = 2**63 - 1


class ErrorsProjection(Projection):
    """Folds every incident into a row. Reported errors expire; errors implied by other events stay."""

    name: ClassVar[str] = "errors"
    version: ClassVar[int] = 2
    aggregates: ClassVar[tuple[str, ...]] = ("error", "instance", "node")
    schema: ClassVar[str] = """
        CREATE TABLE errors (
            seq INTEGER PRIMARY KEY,
            error_type TEXT NOT NULL,
            message TEXT NOT NULL,
            severity TEXT NOT NULL,
            node TEXT NOT NULL,
            model_id TEXT,
            at TEXT NOT NULL,
            expires INTEGER
        );
        CREATE INDEX errors_by_severity ON errors (severity);
        CREATE INDEX errors_by_model ON errors (model_id) WHERE model_id IS NOT NULL;
        CREATE INDEX errors_by_expiry ON errors (expires) WHERE expires IS NOT NULL;
    """

    async def fold(self, db: aiosqlite.Connection, events: Sequence[Recorded]) -> None:
        """Insert one row per incident."""
        rows = [
            (
                recorded.seq,
                found.error_type,
                found.message,
                found.severity,
                found.node,
                found.model_id,
                to_sql(recorded.time),
                None if recorded.expires is None else int(recorded.expires.timestamp()),
            )
            for recorded in events
            if (found := incident(recorded.data)) is not None
        ]
        if rows:
            await db.executemany("INSERT INTO errors VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)

    async def expire(self, db: aiosqlite.Connection, now: datetime) -> bool:
        """Remove expired rows. Returns whether there may be more."""
        return await remove_expired(db, "errors", now) == EXPIRE_ROWS


async def errors(db: aiosqlite.Connection, request: GetErrorsRequest) -> GetErrorsReply:
    """A page of errors, newest first; fewer than requested when their messages are long.

    Raises InvalidRequest for an invalid time or cursor.
    """
    conditions = ["TRUE"]
    values: list[str | int] = []
    for condition, value in (
        ("seq < ?", None if request.cursor is None else _seq(request.cursor)),
        ("severity = ?", request.severity),
        ("model_id = ?", request.model_id),
        ("at >= ?", None if request.since is None else to_sql(parse_time(request.since, "since"))),
        ("at < ?", None if request.until is None else to_sql(parse_time(request.until, "until"))),
    ):
        if value is not None:
            conditions.append(condition)
            values.append(value)
    rows = await db.execute_fetchall(
        "SELECT seq, error_type, message, severity, node, model_id, at FROM errors "
        f"WHERE {' AND '.join(conditions)} ORDER BY seq DESC LIMIT ?",
        (*values, request.limit + 1),
    )
    entries = [
        ErrorEntry(
            seq=seq,
            error_type=error_type,
            message=message,
            severity=severity,
            node=node,
            model_id=model_id,
            timestamp=rfc3339(from_sql(at)),
        )
        for seq, error_type, message, severity, node, model_id, at in rows
    ]
    page = as_many_as_fit(entries[: request.limit])
    return GetErrorsReply(errors=page, next_cursor=str(page[-1].seq) if len(entries) > len(page) else None)


async def has_error(db: aiosqlite.Connection, error_type: str) -> bool:
    """Whether there is an error of this type."""
    found = await db.execute_fetchall("SELECT 1 FROM errors WHERE error_type = ? LIMIT 1", (error_type,))
    return bool(list(found))


def _seq(cursor: str) -> int:
    if cursor.isascii() and cursor.isdigit() and int(cursor) <= _MAX_SEQ:
        return int(cursor)
    raise InvalidRequest(f"field 'cursor': {cursor[:40]!r} is none: send the next_cursor of the page before")
