"""The read model of errors in the fleet: reported errors, and other events that imply one (e.g. a crash)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import ClassVar

import aiosqlite

from suite.domain.incidents import incident
from suite.errors import InvalidRequest
from suite.messages.actions.projections import (
    ErrorEntry,
    ErrorGroup,
    ErrorsPage,
    GetErrorGroupsReply,
    GetErrorGroupsRequest,
    GetErrorsReply,
    GetErrorsRequest,
)
from suite.messages.envelope import Recorded
from suite.messages.times import from_sql, parse_time, rfc3339, to_sql
from suite.projections.projection import EXPIRE_ROWS, Projection, remove_expired
from suite.projections.reply_size import as_many_as_fit

_MAX_SEQ = 2**63 - 1


class ErrorsProjection(Projection):
    """Folds every incident into a row. Reported errors expire; errors implied by other events stay."""

    name: ClassVar[str] = "errors"
    version: ClassVar[int] = 3
    aggregates: ClassVar[tuple[str, ...]] = ("breaker", "error", "instance", "node")
    schema: ClassVar[str] = """
        CREATE TABLE errors (
            seq INTEGER PRIMARY KEY,
            error_type TEXT NOT NULL,
            message TEXT NOT NULL,
            severity TEXT NOT NULL,
            node TEXT NOT NULL,
            model_id TEXT,
            at TEXT NOT NULL,
            count INTEGER NOT NULL,
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
                found.count,
                None if recorded.expires is None else int(recorded.expires.timestamp()),
            )
            for recorded in events
            if (found := incident(recorded.data)) is not None
        ]
        if rows:
            await db.executemany("INSERT INTO errors VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)

    async def expire(self, db: aiosqlite.Connection, now: datetime) -> bool:
        """Remove expired rows. Returns whether there may be more."""
        return await remove_expired(db, "errors", now) == EXPIRE_ROWS


async def errors(db: aiosqlite.Connection, request: GetErrorsRequest) -> GetErrorsReply:
    """A page of errors, newest first; fewer than requested when their messages are long.

    Raises InvalidRequest for an invalid time or cursor.
    """
    where, values = _conditions(request, ("seq < ?", _seq(request.cursor)))
    rows = await db.execute_fetchall(
        "SELECT seq, error_type, message, severity, node, model_id, at, count FROM errors "
        f"WHERE {where} ORDER BY seq DESC LIMIT ?",
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
            count=count,
        )
        for seq, error_type, message, severity, node, model_id, at, count in rows
    ]
    page = as_many_as_fit(entries[: request.limit])
    return GetErrorsReply(errors=page, next_cursor=str(page[-1].seq) if len(entries) > len(page) else None)


async def error_groups(db: aiosqlite.Connection, request: GetErrorGroupsRequest) -> GetErrorGroupsReply:
    """A page of groups, first the one with the newest error; fewer when their messages are long.

    Raises InvalidRequest for an invalid time or cursor.
    """
    where, values = _conditions(request)
    rows = await db.execute_fetchall(
        "SELECT error_type, model_id, node, total, first, last, seq, severity, message FROM ("
        "SELECT MAX(seq) AS newest, SUM(count) AS total, MIN(at) AS first, MAX(at) AS last FROM errors "
        f"WHERE {where} GROUP BY error_type, model_id, node) JOIN errors ON seq = newest "
        "WHERE seq < ? ORDER BY seq DESC LIMIT ?",
        (*values, _seq(request.cursor) or _MAX_SEQ, request.limit + 1),
    )
    groups = [
        ErrorGroup(
            error_type=error_type,
            model_id=model_id,
            node=node,
            count=count,
            first_seen=rfc3339(from_sql(first)),
            last_seen=rfc3339(from_sql(last)),
            last_seq=seq,
            severity=severity,
            message=message,
        )
        for error_type, model_id, node, count, first, last, seq, severity, message in rows
    ]
    page = as_many_as_fit(groups[: request.limit])
    cursor = str(page[-1].last_seq) if len(groups) > len(page) else None
    return GetErrorGroupsReply(groups=page, next_cursor=cursor)


def _conditions(
    request: ErrorsPage, *others: tuple[str, str | int | None]
) -> tuple[str, Sequence[str | int]]:
    """What SQL asks of the rows that a request is about, and the values for that."""
    wanted: tuple[tuple[str, str | int | None], ...] = (
        ("severity = ?", request.severity),
        ("model_id = ?", request.model_id),
        ("error_type = ?", request.error_type),
        ("at >= ?", None if request.since is None else to_sql(parse_time(request.since, "since"))),
        ("at < ?", None if request.until is None else to_sql(parse_time(request.until, "until"))),
        *others,
    )
    given = [(condition, value) for condition, value in wanted if value is not None]
    return " AND ".join(["TRUE", *(condition for condition, _ in given)]), [value for _, value in given]


async def has_error(db: aiosqlite.Connection, error_type: str) -> bool:
    """Whether there is an error of this type."""
    found = await db.execute_fetchall("SELECT 1 FROM errors WHERE error_type = ? LIMIT 1", (error_type,))
    return bool(list(found))


def _seq(cursor: str | None) -> int | None:
    if cursor is None:
        return None
    if cursor.isascii() and cursor.isdigit() and int(cursor) <= _MAX_SEQ:
        return int(cursor)
    raise InvalidRequest(f"field 'cursor': {cursor[:40]!r} is none: send the next_cursor of the page before")
