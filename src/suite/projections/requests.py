"""Requests over time: how many there were, how long they took, what was reused.

Those of all models together are counted by the hour, with their times in bins (`latencies.py`), when they are
folded. So long windows are read from few rows. Short windows, and those of one model, are read from the rows
of the uses themselves.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from operator import add
from typing import Any, Final, NamedTuple, TypeAlias

import aiosqlite

from suite.messages.actions.statistics import (
    GetRequestStatisticsReply,
    GetRequestStatisticsRequest,
    ModelRequests,
    RequestFigures,
    RequestPoint,
)
from suite.messages.envelope import Recorded
from suite.messages.events import Generated, InstanceLoadStarted, Outcome, RequestsRefused, UsageRecorded
from suite.messages.times import from_sql, rfc3339, to_sql
from suite.projections.buckets import HOUR, minute_of, time_of
from suite.projections.latencies import bin_of, latency, microseconds
from suite.projections.over_time import Window
from suite.projections.projection import EXPIRE_ROWS, remove_expired
from suite.projections.reply_size import as_many_as_fit, left_out

SCHEMA: Final = """
    CREATE TABLE request_hours (
        hour INTEGER NOT NULL,
        expires INTEGER NOT NULL,
        requests INTEGER NOT NULL,
        failed INTEGER NOT NULL,
        cancelled INTEGER NOT NULL,
        prompt_tokens INTEGER NOT NULL,
        reused_tokens INTEGER NOT NULL,
        completion_tokens INTEGER NOT NULL,
        first_us INTEGER NOT NULL,
        total_us INTEGER NOT NULL,
        PRIMARY KEY (hour, expires)
    ) WITHOUT ROWID;
    CREATE TABLE request_times (
        hour INTEGER NOT NULL,
        expires INTEGER NOT NULL,
        is_first INTEGER NOT NULL,
        bin INTEGER NOT NULL,
        count INTEGER NOT NULL,
        PRIMARY KEY (hour, expires, is_first, bin)
    ) WITHOUT ROWID;
    CREATE TABLE request_misses (
        seq INTEGER PRIMARY KEY,
        model_id TEXT NOT NULL,
        at TEXT NOT NULL,
        refused INTEGER NOT NULL,
        cold_starts INTEGER NOT NULL,
        expires INTEGER
    );
    CREATE INDEX misses_by_time ON request_misses (at, model_id);
    CREATE INDEX misses_by_expiry ON request_misses (expires) WHERE expires IS NOT NULL;
"""
"""`request_misses` has the requests that were refused, and the loads that were begun for a request."""

_FAILED: Final[tuple[Outcome, ...]] = ("failed", "deadline")
_CANCELLED: Final[tuple[Outcome, ...]] = ("cancelled", "client_gone")
_NEVER: Final = 2**63 - 1
"""Stored as the expiry of what never expires: a column of a primary key cannot be NULL."""
_SUMS: Final = (
    "requests",
    "failed",
    "cancelled",
    "prompt_tokens",
    "reused_tokens",
    "completion_tokens",
    "first_us",
    "total_us",
)
_SUMS_OF_USES: Final = (
    f"count(*), sum(ifnull(outcome IN {_FAILED}, 0)), sum(ifnull(outcome IN {_CANCELLED}, 0)), "
    "sum(prompt_tokens), sum(reused_tokens), sum(completion_tokens), "
    "ifnull(sum(first_us), 0), ifnull(sum(total_us), 0)"
)

_ONE: Final = (1, *(0 for _ in _SUMS[1:]))

_Hour: TypeAlias = tuple[int, int]
"""The start of an hour, and when what is counted there expires."""
Key: TypeAlias = str | int
"""A step of time by its start, or a model."""


class Times(NamedTuple):
    """How long a request took from when the node had it, in microseconds. None: it has no such time."""

    first_us: int | None = None
    """Until its first token."""
    total_us: int | None = None
    """Until its end."""


def times_of(event: Generated) -> Times:
    """The times of a generation that came to its end: how soon one was given up says nothing of the service.

    Waits for memory and for the load are included.
    """
    if event.outcome in _FAILED or event.outcome in _CANCELLED:
        return Times()
    waited = event.waited_ms if isinstance(event.waited_ms, float) else 0.0
    first = event.time_to_first_token_ms
    until_first = event.queue_ms if first is None else first
    return Times(
        first_us=None if first is None else microseconds(waited + first),
        total_us=microseconds(waited + until_first + event.generation_ms),
    )


# --- the fold ---------------------------------------------------------------------------------------------


async def fold(db: aiosqlite.Connection, events: Sequence[Recorded]) -> None:
    """Count requests by the hour, and store those that were refused and loads that were begun for one."""
    hours: dict[_Hour, list[int]] = {}
    times: Counter[tuple[int, int, bool, int]] = Counter()
    misses: list[tuple[object, ...]] = []
    for recorded in events:
        match recorded.data:
            case Generated() as event:
                took = times_of(event)
                _add(hours, _hour(recorded), _sums(event, took))
                for is_first, time_us in ((True, took.first_us), (False, took.total_us)):
                    if time_us is not None:
                        times[(*_hour(recorded), is_first, bin_of(time_us))] += 1
            case UsageRecorded(node=node) if node:
                _add(hours, _hour(recorded), _ONE)
            case RequestsRefused() | InstanceLoadStarted() as event:
                misses += _misses(recorded, event)
            case _:
                pass
    await _store(db, hours, times, misses)


def _hour(recorded: Recorded) -> _Hour:
    expires = _expires(recorded)
    return int(recorded.time.timestamp() // HOUR) * HOUR, _NEVER if expires is None else expires


def _add(hours: dict[_Hour, list[int]], hour: _Hour, sums: Sequence[int]) -> None:
    before = hours.get(hour)
    hours[hour] = list(sums) if before is None else list(map(add, before, sums))


def _expires(recorded: Recorded) -> int | None:
    return None if recorded.expires is None else int(recorded.expires.timestamp())


def _sums(event: Generated, took: Times) -> Sequence[int]:
    """What it adds to the sums of its hour, in the order of `_SUMS`."""
    return (
        1,
        event.outcome in _FAILED,
        event.outcome in _CANCELLED,
        event.prompt_tokens,
        event.reused_tokens,
        event.completion_tokens,
        took.first_us or 0,
        took.total_us or 0,
    )


def _misses(recorded: Recorded, event: RequestsRefused | InstanceLoadStarted) -> Iterator[tuple[object, ...]]:
    row = recorded.seq, event.model_id, to_sql(recorded.time)
    if isinstance(event, RequestsRefused):
        yield *row, event.requests, 0, _expires(recorded)
    elif event.decision is None or event.decision.purpose == "request":
        yield *row, 0, 1, _expires(recorded)


async def _store(
    db: aiosqlite.Connection,
    hours: Mapping[_Hour, Sequence[int]],
    times: Mapping[tuple[int, int, bool, int], int],
    misses: Sequence[tuple[object, ...]],
) -> None:
    if hours:
        sums = ", ".join(f"{name} = {name} + excluded.{name}" for name in _SUMS)
        await db.executemany(
            f"INSERT INTO request_hours VALUES (?, ?, {', '.join('?' * len(_SUMS))}) "
            f"ON CONFLICT DO UPDATE SET {sums}",
            [(*hour, *row) for hour, row in hours.items()],
        )
    if times:
        await db.executemany(
            "INSERT INTO request_times VALUES (?, ?, ?, ?, ?) "
            "ON CONFLICT DO UPDATE SET count = count + excluded.count",
            [(*key, count) for key, count in times.items()],
        )
    if misses:
        await db.executemany("INSERT INTO request_misses VALUES (?, ?, ?, ?, ?, ?)", misses)


async def expire(db: aiosqlite.Connection, now: datetime) -> bool:
    """Remove what has expired. Returns whether there may be more."""
    removed = [
        await remove_expired(db, "request_hours", now, key="hour, expires"),
        await remove_expired(db, "request_times", now, key="hour, expires, is_first, bin"),
        await remove_expired(db, "request_misses", now),
    ]
    return EXPIRE_ROWS in removed


# --- queries ----------------------------------------------------------------------------------------------


class _Found:
    """The figures of some groups of requests, while they are put together."""

    def __init__(self) -> None:
        self.sums: dict[Key, Sequence[int]] = {}
        self.bins: dict[bool, defaultdict[Key, Counter[int]]] = {
            True: defaultdict(Counter),
            False: defaultdict(Counter),
        }
        self.misses: dict[Key, tuple[int, int]] = {}

    @property
    def keys(self) -> list[Key]:
        """The groups of which there is anything."""
        return list({**self.sums, **self.misses})

    def figures(self, key: Key) -> RequestFigures:
        """Those of one group."""
        return self._figures(
            self.sums.get(key, (0,) * len(_SUMS)),
            {is_first: bins.get(key, Counter()) for is_first, bins in self.bins.items()},
            self.misses.get(key, (0, 0)),
        )

    def total(self) -> RequestFigures:
        """Those of all groups together."""
        sums = [sum(column) for column in zip(*self.sums.values(), strict=True)] or (0,) * len(_SUMS)
        bins = {is_first: _added(bins.values()) for is_first, bins in self.bins.items()}
        refused, cold_starts = (sum(each[place] for each in self.misses.values()) for place in (0, 1))
        return self._figures(sums, bins, (refused, cold_starts))

    @staticmethod
    def _figures(
        sums: Sequence[int], bins: Mapping[bool, Mapping[int, int]], misses: tuple[int, int]
    ) -> RequestFigures:
        requests, failed, cancelled, prompt, reused, completion, first_us, total_us = sums
        return RequestFigures(
            requests=requests,
            failed=failed,
            cancelled=cancelled,
            refused=misses[0],
            cold_starts=misses[1],
            prompt_tokens=prompt,
            reused_tokens=reused,
            completion_tokens=completion,
            first_token=latency(bins[True], first_us),
            total=latency(bins[False], total_us),
        )


def _added(bins: Iterable[Mapping[int, int]]) -> Counter[int]:
    added: Counter[int] = Counter()
    for each in bins:
        added.update(each)
    return added


async def request_statistics(
    db: aiosqlite.Connection, request: GetRequestStatisticsRequest, now: datetime
) -> GetRequestStatisticsReply:
    """The figures over a window, and of the models that were used most in it.

    Raises InvalidRequest for an invalid time, and for a window that does not end after it begins.
    """
    window = Window.of(request, await _begin(db), now)
    if request.model_id is None and window.step >= HOUR:
        found = await _by_hours(db, window)
    else:
        found = await _by_uses(db, window, _step(window), request.model_id)
    models = []
    if request.model_id is None:
        models = await _busiest(db, window, request.limit)
    kept = as_many_as_fit(models)
    return GetRequestStatisticsReply(
        since=rfc3339(time_of(window.begin)),
        until=rfc3339(time_of(window.end)),
        step_seconds=window.step,
        total=found.total(),
        points=tuple(
            RequestPoint(start=rfc3339(time_of(int(key))), figures=found.figures(key))
            for key in sorted(found.keys)
        ),
        models=kept,
        warnings=left_out(models, kept, "models after these"),
    )


async def _begin(db: aiosqlite.Connection) -> int | None:
    """The minute of the first thing that is known."""
    rows = await db.execute_fetchall(
        "SELECT min(at) FROM (SELECT min(at) AS at FROM usage UNION ALL SELECT min(at) FROM request_misses)"
    )
    ((at,),) = rows
    return None if at is None else minute_of(from_sql(at))


def _step(window: Window) -> str:
    """SQL for the start of the step in which the column ``at`` is."""
    return f"CAST(strftime('%s', at) AS INTEGER) / {window.step} * {window.step}"


async def _by_hours(db: aiosqlite.Connection, window: Window) -> _Found:
    found = _Found()
    step, bounds = f"hour / {window.step} * {window.step}", (window.begin, window.end)
    sums = ", ".join(f"sum({name})" for name in _SUMS)
    for key, *row in await db.execute_fetchall(
        f"SELECT {step} AS step, {sums} FROM request_hours WHERE hour >= ? AND hour < ? GROUP BY step", bounds
    ):
        found.sums[key] = row
    for key, is_first, bin_, count in await db.execute_fetchall(
        f"SELECT {step} AS step, is_first, bin, sum(count) FROM request_times "
        "WHERE hour >= ? AND hour < ? GROUP BY step, is_first, bin",
        bounds,
    ):
        found.bins[bool(is_first)][key][bin_] = count
    await _find_misses(db, found, window, _step(window))
    return found


async def _by_uses(db: aiosqlite.Connection, window: Window, group: str, *models: str | None) -> _Found:
    """The figures by the uses themselves, in groups; of these models only, unless that is None."""
    found = _Found()
    ids = [each for each in models if each is not None]
    index = "usage_by_model" if ids else "usage_by_time"
    of_models = f"model_id IN ({', '.join('?' * len(ids))}) AND " if ids else ""
    where = f"FROM usage INDEXED BY {index} WHERE {of_models}at >= ? AND at < ? AND is_request"
    values = (*ids, *_bounds(window))
    for key, *row in await db.execute_fetchall(
        f"SELECT {group} AS key, {_SUMS_OF_USES} {where} GROUP BY key", values
    ):
        found.sums[key] = row
    for is_first, column in ((True, "first_bin"), (False, "total_bin")):
        for key, bin_, count in await db.execute_fetchall(
            f"SELECT {group} AS key, {column}, count(*) {where} AND {column} IS NOT NULL "
            f"GROUP BY key, {column}",
            values,
        ):
            found.bins[is_first][key][bin_] = count
    await _find_misses(db, found, window, group, ids)
    return found


async def _find_misses(
    db: aiosqlite.Connection, found: _Found, window: Window, group: str, ids: Sequence[str] = ()
) -> None:
    of_models = f"model_id IN ({', '.join('?' * len(ids))}) AND " if ids else ""
    for key, refused, cold_starts in await db.execute_fetchall(
        f"SELECT {group} AS key, sum(refused), sum(cold_starts) FROM request_misses "
        f"WHERE {of_models}at >= ? AND at < ? GROUP BY key",
        (*ids, *_bounds(window)),
    ):
        found.misses[key] = refused, cold_starts


async def _busiest(db: aiosqlite.Connection, window: Window, limit: int) -> list[ModelRequests]:
    """The models that were used most in a window."""
    rows: Iterable[Any] = await db.execute_fetchall(
        "SELECT model_id, count(*) AS uses FROM usage INDEXED BY usage_by_time WHERE at >= ? AND at < ? "
        "GROUP BY model_id ORDER BY uses DESC, model_id LIMIT ?",
        (*_bounds(window), limit),
    )
    names = [name for name, _ in rows]
    if not names:
        return []
    found = await _by_uses(db, window, "model_id", *names)
    return [ModelRequests(model_id=name, figures=found.figures(name)) for name in names if name in found.keys]


def _bounds(window: Window) -> tuple[str, str]:
    return to_sql(time_of(window.begin)), to_sql(time_of(window.end))
