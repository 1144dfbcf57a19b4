"""Reads rows a page at a time, newest first (keyset pagination).

A page begins after the last row of the previous one, not at an offset: every page costs the same however far
back it is, and rows inserted meanwhile do not shift the pages.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, TypeAlias

import aiosqlite
import msgspec

from suite.errors import InvalidRequest
from suite.messages.actions.base import Moment, Page
from suite.messages.times import from_sql, parse_time, to_sql

Place: TypeAlias = tuple[str, int]
"""Time and seq of a row, by which pages are sorted."""

PAGE_BYTES: Final = 700 * 1024
"""The most bytes of rows, as JSON, on one page, so that a reply fits into one NATS message."""
_SOME: Final = 64
_MAX_SEQ: Final = 2**63 - 1

_encode = msgspec.json.Encoder().encode


def window(since: Moment | None, until: Moment | None) -> tuple[datetime | None, datetime | None]:
    """Parse the time range of a request.

    Raises InvalidRequest for an invalid time, and for an end that is not after the beginning.
    """
    begin = None if since is None else parse_time(since, "since")
    end = None if until is None else parse_time(until, "until")
    if begin is not None and end is not None and end <= begin:
        raise InvalidRequest("field 'until': it must be later than 'since', it is exclusive")
    return begin, end


async def page(
    db: aiosqlite.Connection,
    table: str,
    columns: str,
    time: str,
    wanted: Mapping[str, str | int | None],
    request: Page,
) -> tuple[list[tuple[Any, ...]], str | None]:
    """Read a page: its rows, and the cursor of the next page or None. Large rows make a page shorter.

    A row has ``time``, seq and then ``columns``. ``wanted`` maps a column to its required value, or to None
    for any. There must be an index on each set of these columns, followed by time and seq.
    Raises InvalidRequest for an invalid time or cursor.
    """
    since, until = window(request.since, request.until)
    ends = [] if until is None else [(to_sql(until), 0)]
    if request.cursor is not None:
        ends.append(_place(request.cursor))
    conditions = [f"{column} = ?" for column, value in wanted.items() if value is not None]
    values: list[str | int] = [value for value in wanted.values() if value is not None]
    if since is not None:
        conditions.append(f"{time} >= ?")
        values.append(to_sql(since))
    if ends:
        conditions.append(f"({time}, seq) < (?, ?)")
        values.extend(min(ends))
    rows: list[tuple[Any, ...]] = []
    size = 0
    async with db.execute(
        f"SELECT {time}, seq, {columns} FROM {table} "
        f"WHERE {' AND '.join(conditions) or 'TRUE'} ORDER BY {time} DESC, seq DESC LIMIT ?",
        (*values, request.limit + 1),
    ) as cursor:
        while some := list(await cursor.fetchmany(_SOME)):
            for row in map(tuple, some):
                size += len(_encode(row))
                if len(rows) == request.limit or (rows and size > PAGE_BYTES):
                    return rows, _cursor(rows[-1][:2])
                rows.append(row)
    return rows, None


def _cursor(place: tuple[Any, ...]) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode(place)).decode().rstrip("=")


def _place(cursor: str) -> Place:
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        time, seq = msgspec.json.decode(base64.b64decode(padded, b"-_", validate=True), type=Place)
        if 0 <= seq <= _MAX_SEQ:
            return to_sql(from_sql(time)), seq
    except (ValueError, binascii.Error, msgspec.DecodeError):
        pass
    raise InvalidRequest(f"field 'cursor': {cursor[:40]!r} is none: send the next_cursor of the page before")
