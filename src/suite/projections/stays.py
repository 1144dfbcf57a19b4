"""When which model was in memory on which node, and why it came and left: a row each time."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from itertools import groupby
from typing import Final, TypeAlias

import aiosqlite
import anyio.to_thread
import msgspec
from msgspec.structs import astuple, replace

from suite.domain.exit_codes import described
from suite.domain.sizes import ready_bytes
from suite.errors import InvalidRequest, LoadCancelled
from suite.messages.actions.statistics import (
    GetResidencyTimelineReply,
    GetResidencyTimelineRequest,
    Lane,
    Stay,
)
from suite.messages.decisions import Purpose
from suite.messages.envelope import Recorded
from suite.messages.events import (
    InstanceCrashed,
    InstanceEvent,
    InstanceGrew,
    InstanceLoaded,
    InstanceLoadFailed,
    InstanceLoadStarted,
    InstanceUnloaded,
    NodeLifeEvent,
    NodeStopped,
)
from suite.messages.times import from_sql, parse_time, rfc3339, to_sql
from suite.projections.over_time import day_before, first_of
from suite.projections.reply_size import as_many_as_fit

Place: TypeAlias = tuple[str, str]
"""A model and a node."""

_PARTS: Final = 400
"""A window is told in so many parts unless the request says otherwise."""


class StayRow(msgspec.Struct, frozen=True, kw_only=True):
    """A stay as it is stored, with times as SQL tables have them."""

    begun_seq: int
    node: str
    model_id: str
    instance_id: str
    purpose: Purpose
    content: str
    version: int
    bytes: int
    begun_at: str
    ready_at: str | None = None
    ended_at: str | None = None
    ended_seq: int | None = None
    end: str | None = None
    end_detail: str = ""


_COLUMNS: Final = ", ".join(StayRow.__struct_fields__)
_MARKS: Final = ", ".join("?" * len(StayRow.__struct_fields__))

SCHEMA: Final = """
    CREATE TABLE stays (
        begun_seq INTEGER PRIMARY KEY,
        node TEXT NOT NULL,
        model_id TEXT NOT NULL,
        instance_id TEXT NOT NULL,
        purpose TEXT NOT NULL,
        content TEXT NOT NULL,
        version INTEGER NOT NULL,
        bytes INTEGER NOT NULL,
        begun_at TEXT NOT NULL,
        ready_at TEXT,
        ended_at TEXT,
        ended_seq INTEGER,
        end TEXT,
        end_detail TEXT NOT NULL
    );
    CREATE INDEX stays_by_model ON stays (model_id, node, begun_at, ended_at);
    CREATE INDEX stays_by_time ON stays (begun_at, ended_at, model_id, node);
    CREATE INDEX stays_by_end ON stays (ended_at, begun_at, model_id, node);
    CREATE INDEX open_stays ON stays (node) WHERE ended_at IS NULL;
"""


# --- the fold ---------------------------------------------------------------------------------------------


class _OpenStays:
    """The stays on some nodes that have not ended, while events are applied to them."""

    def __init__(self, rows: Iterable[StayRow]) -> None:
        self._open = {(row.model_id, row.node): row for row in rows}
        self.changed: dict[int, StayRow] = {}
        """By sequence: those that differ from before."""

    def apply(self, recorded: Recorded) -> None:
        """Apply one event. An event of an instance that is not the current one changes nothing."""
        event = recorded.data
        match event:
            case NodeLifeEvent():
                end = "shutdown" if isinstance(event, NodeStopped) else "node_lost"
                for row in [row for row in self._open.values() if row.node == event.node]:
                    self._end(row, recorded, end)
            case InstanceLoadStarted():
                before = self._open.get((event.model_id, event.node))
                if before is not None:
                    self._end(before, recorded, "node_lost")
                self._put(_begun(recorded, event))
            case InstanceEvent():
                current = self._open.get((event.model_id, event.node))
                if current is not None and current.instance_id == event.instance_id:
                    self._go_on(current, recorded, event)

    def _go_on(self, row: StayRow, recorded: Recorded, event: InstanceEvent) -> None:
        match event:
            case InstanceLoaded():
                self._put(_ready(row, recorded, event))
            case InstanceGrew():
                self._put(replace(row, bytes=max(row.bytes, event.reserved_bytes)))
            case InstanceLoadFailed(code=LoadCancelled.code):
                self._end(row, recorded, "cancelled")
            case InstanceLoadFailed():
                self._end(row, recorded, "failed", event.code)
            case InstanceUnloaded():
                self._end(row, recorded, event.reason, event.evicted_for or event.requested_by)
            case InstanceCrashed():
                self._end(row, recorded, "crashed", event.reason or described(event.exit_code))

    def _put(self, row: StayRow) -> None:
        self._open[row.model_id, row.node] = self.changed[row.begun_seq] = row

    def _end(self, row: StayRow, recorded: Recorded, end: str, detail: str = "") -> None:
        del self._open[row.model_id, row.node]
        self.changed[row.begun_seq] = replace(
            row, ended_at=to_sql(recorded.time), ended_seq=recorded.seq, end=end, end_detail=detail
        )


def _begun(recorded: Recorded, event: InstanceLoadStarted) -> StayRow:
    return StayRow(
        begun_seq=recorded.seq,
        node=event.node,
        model_id=event.model_id,
        instance_id=event.instance_id,
        purpose="request" if event.decision is None else event.decision.purpose,
        content=event.content,
        version=event.version,
        bytes=event.reserved_bytes,
        begun_at=to_sql(recorded.time),
    )


def _ready(row: StayRow, recorded: Recorded, event: InstanceLoaded) -> StayRow:
    return replace(
        row,
        ready_at=to_sql(recorded.time),
        bytes=ready_bytes(event).total,
        content=event.content or row.content,
        version=event.version or row.version,
    )


async def fold(db: aiosqlite.Connection, events: Sequence[Recorded]) -> None:
    """Apply the events of instances, and those that end all instances of a node."""
    own = [recorded for recorded in events if isinstance(recorded.data, InstanceEvent | NodeLifeEvent)]
    if not own:
        return
    nodes = {recorded.data.ids[0] for recorded in own}
    rows = await db.execute_fetchall(
        f"SELECT {_COLUMNS} FROM stays INDEXED BY open_stays "
        f"WHERE ended_at IS NULL AND node IN ({', '.join('?' * len(nodes))})",
        tuple(nodes),
    )
    stays = _OpenStays(map(_row, rows))
    for recorded in own:
        stays.apply(recorded)
    if stays.changed:
        await db.executemany(f"REPLACE INTO stays VALUES ({_MARKS})", map(astuple, stays.changed.values()))


def _row(row: Iterable[object]) -> StayRow:
    return StayRow(**dict(zip(StayRow.__struct_fields__, row, strict=True)))  # type: ignore[arg-type] # stored so


# --- queries ----------------------------------------------------------------------------------------------


class _Span(msgspec.Struct, frozen=True, kw_only=True):
    """The window that a timeline is asked for."""

    since: datetime
    until: datetime
    resolution: timedelta
    now: datetime

    @classmethod
    def of(cls, request: GetResidencyTimelineRequest, first: datetime | None, now: datetime) -> _Span:
        """The window, from `first` on at the earliest.

        Raises InvalidRequest for an invalid time, and for a window that does not end after it begins.
        """
        until = now if request.until is None else parse_time(request.until, "until")
        since = day_before(until) if request.since is None else parse_time(request.since, "since")
        if until <= since:
            raise InvalidRequest("field 'until': it must be later than 'since', it is exclusive")
        since = first_of(since, until, first)
        seconds = request.resolution_seconds
        part = (until - since) / _PARTS if seconds is None else timedelta(seconds=seconds)
        return cls(since=since, until=until, resolution=part, now=now)


async def timeline(
    db: aiosqlite.Connection, request: GetResidencyTimelineRequest, now: datetime
) -> GetResidencyTimelineReply:
    """Who was in memory in a window, by model and node; fewer lanes than asked for if they are crowded.

    Raises InvalidRequest for an invalid time or cursor, and for a window that does not end after it begins.
    """
    span = _Span.of(request, await _first(db), now)
    places = await _places(db, request, span)
    lanes: tuple[Lane, ...] = ()
    if wanted := places[: request.limit]:
        rows = await _stays_at(db, span, wanted[0], wanted[-1])
        # Many stays take a while, which would block the event loop.
        lanes = await anyio.to_thread.run_sync(_lanes, rows, frozenset(wanted), span)
    return GetResidencyTimelineReply(
        since=rfc3339(span.since),
        until=rfc3339(span.until),
        resolution_seconds=span.resolution.total_seconds(),
        lanes=lanes,
        next_cursor=_cursor(places[len(lanes) - 1]) if len(places) > len(lanes) else None,
    )


async def _first(db: aiosqlite.Connection) -> datetime | None:
    """When the first stay began."""
    ((at,),) = await db.execute_fetchall("SELECT min(begun_at) FROM stays")
    return None if at is None else from_sql(at)


async def _places(db: aiosqlite.Connection, request: GetResidencyTimelineRequest, span: _Span) -> list[Place]:
    """The models and nodes with a stay in the window, one more than asked for if there are more."""
    conditions: list[str] = ["TRUE"]
    values: list[str] = []
    if request.cursor is not None:
        conditions.append("(model_id, node) > (?, ?)")
        values += _after(request.cursor)
    for column, value in (("model_id", request.model_id), ("node", request.of_node)):
        if value is not None:
            conditions.append(f"{column} = ?")
            values.append(value)
    rows = await db.execute_fetchall(
        f"SELECT DISTINCT model_id, node FROM stays WHERE {' AND '.join(conditions)} "
        "AND begun_at < ? AND (ended_at IS NULL OR ended_at > ?) ORDER BY model_id, node LIMIT ?",
        (*values, to_sql(span.until), to_sql(span.since), request.limit + 1),
    )
    return [(model_id, node) for model_id, node in rows]


async def _stays_at(
    db: aiosqlite.Connection, span: _Span, first: Place, last: Place
) -> Iterable[Iterable[object]]:
    """The rows of stays in the window between two places, in their order, and then by time."""
    return await db.execute_fetchall(
        f"SELECT {_COLUMNS} FROM stays INDEXED BY stays_by_model "
        "WHERE (model_id, node) >= (?, ?) AND (model_id, node) <= (?, ?) "
        "AND begun_at < ? AND (ended_at IS NULL OR ended_at > ?) "
        "ORDER BY model_id, node, begun_at, begun_seq",
        (*first, *last, to_sql(span.until), to_sql(span.since)),
    )


def _lanes(rows: Iterable[Iterable[object]], wanted: frozenset[Place], span: _Span) -> tuple[Lane, ...]:
    """The lanes of these places, as many as fit into a reply."""
    by_place = groupby(map(_row, rows), lambda row: (row.model_id, row.node))
    return as_many_as_fit(_lane(place, stays, span) for place, stays in by_place if place in wanted)


def _lane(place: Place, rows: Iterable[StayRow], span: _Span) -> Lane:
    model_id, node = place
    stays = [_told(row, span) for row in rows]
    return Lane(
        model_id=model_id,
        lane_node=node,
        loads=len(stays),
        resident_seconds=round(sum(stay.resident_seconds for stay in stays), 3),
        stays=tuple(_merged(stays, span.resolution)),
    )


def _told(row: StayRow, span: _Span) -> Stay:
    resident = timedelta()
    if row.ready_at is not None:
        end = span.now if row.ended_at is None else from_sql(row.ended_at)
        resident = max(min(end, span.until) - max(from_sql(row.ready_at), span.since), timedelta())
    return Stay(
        begun_at=rfc3339(from_sql(row.begun_at)),
        begun_seq=row.begun_seq,
        purpose=row.purpose,
        ready_at=None if row.ready_at is None else rfc3339(from_sql(row.ready_at)),
        ended_at=None if row.ended_at is None else rfc3339(from_sql(row.ended_at)),
        ended_seq=row.ended_seq,
        end=row.end,
        end_detail=row.end_detail,
        bytes=row.bytes,
        content=row.content,
        version=row.version,
        resident_seconds=round(resident.total_seconds(), 3),
    )


def _merged(stays: Iterable[Stay], resolution: timedelta) -> Iterator[Stay]:
    """The stays, with short ones that follow each other closely told as one."""
    before: Stay | None = None
    for stay in stays:
        if before is None:
            before = stay
        elif _are_close(before, stay, resolution):
            before = _together(before, stay)
        else:
            yield before
            before = stay
    if before is not None:
        yield before


def _are_close(before: Stay, after: Stay, resolution: timedelta) -> bool:
    """Whether two are one on a timeline: no gap can be seen between them, and one of them can hardly be."""
    if before.ended_at is None or _seconds(before.ended_at, after.begun_at) >= resolution.total_seconds():
        return False
    is_short = after.ended_at is not None and _is_shorter(after, resolution)
    return is_short or before.stays > 1 or _is_shorter(before, resolution)


def _is_shorter(stay: Stay, resolution: timedelta) -> bool:
    return _seconds(stay.begun_at, stay.ended_at or "") < resolution.total_seconds()


def _seconds(begin: str, end: str) -> float:
    return (datetime.fromisoformat(end) - datetime.fromisoformat(begin)).total_seconds()


def _together(before: Stay, after: Stay) -> Stay:
    return replace(
        before,
        ready_at=before.ready_at or after.ready_at,
        ended_at=after.ended_at,
        ended_seq=after.ended_seq,
        end=after.end,
        end_detail=after.end_detail,
        bytes=max(before.bytes, after.bytes),
        content=after.content,
        version=after.version,
        stays=before.stays + 1,
        resident_seconds=round(before.resident_seconds + after.resident_seconds, 3),
    )


def _cursor(place: Place) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode(place)).decode().rstrip("=")


def _after(cursor: str) -> Place:
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        return msgspec.json.decode(base64.b64decode(padded, b"-_", validate=True), type=tuple[str, str])
    except (ValueError, binascii.Error, msgspec.DecodeError):
        raise InvalidRequest(
            f"field 'cursor': {cursor[:40]!r} is none: send the next_cursor of the page before"
        ) from None
