"""Requests over time: how many there were, how long they took, what was reused.

All of them together are summed up by the hour and by the day, those of each model by the day, with their
times in bins (`latencies.py`). Sums are added to when uses are folded, and taken from when their rows expire:
they are whole numbers, so nothing is lost. Long windows are read from few rows, short ones from the uses.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from operator import add
from typing import Final, NamedTuple, TypeAlias, TypeVar

import aiosqlite

from suite.messages.actions.statistics import (
    GetRequestStatisticsReply,
    GetRequestStatisticsRequest,
    ModelRequests,
    RequestFigures,
    RequestPoint,
)
from suite.messages.envelope import Recorded
from suite.messages.events import Generated, InstanceLoadStarted, Outcome, RequestsRefused
from suite.messages.times import from_sql, rfc3339, to_sql
from suite.projections.buckets import DAY, HOUR, minute_of, time_of
from suite.projections.latencies import bin_of, latency, microseconds
from suite.projections.over_time import SECOND, Window
from suite.projections.projection import EXPIRE_ROWS, remove_expired
from suite.projections.reply_size import as_many_as_fit, left_out

SCHEMA: Final = """
    CREATE TABLE request_sums (
        width INTEGER NOT NULL,
        model_id TEXT NOT NULL,
        start INTEGER NOT NULL,
        requests INTEGER NOT NULL,
        failed INTEGER NOT NULL,
        cancelled INTEGER NOT NULL,
        prompt_tokens INTEGER NOT NULL,
        reused_tokens INTEGER NOT NULL,
        completion_tokens INTEGER NOT NULL,
        first_us INTEGER NOT NULL,
        total_us INTEGER NOT NULL,
        PRIMARY KEY (width, model_id, start)
    ) WITHOUT ROWID;
    CREATE TABLE request_times (
        width INTEGER NOT NULL,
        model_id TEXT NOT NULL,
        start INTEGER NOT NULL,
        is_first INTEGER NOT NULL,
        bin INTEGER NOT NULL,
        count INTEGER NOT NULL,
        PRIMARY KEY (width, model_id, start, is_first, bin)
    ) WITHOUT ROWID;
    CREATE TABLE request_misses (
        seq INTEGER PRIMARY KEY,
        model_id TEXT NOT NULL,
        at TEXT NOT NULL,
        refused INTEGER NOT NULL,
        code TEXT NOT NULL,
        cold_starts INTEGER NOT NULL,
        expires INTEGER
    );
    CREATE INDEX misses_by_time ON request_misses (at, model_id);
    CREATE INDEX misses_by_expiry ON request_misses (expires) WHERE expires IS NOT NULL;
"""
"""In `request_sums` and `request_times` an empty `model_id` stands for all models together. `request_misses`
has the requests that were refused, with the code of their error, and the loads that were begun for one."""

ALL: Final = ""
FAILED: Final[tuple[Outcome, ...]] = ("failed", "deadline")
CANCELLED: Final[tuple[Outcome, ...]] = ("cancelled", "client_gone")
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

Key: TypeAlias = str | int
"""A step of time by its start, or a model."""
K = TypeVar("K", int, str)
_Span: TypeAlias = tuple[int, str, int]
"""The width of a span of time, the model or `ALL`, and when it begins."""


class Times(NamedTuple):
    """How long a request took from when the node had it, in microseconds. None: it has no such time."""

    first_us: int | None = None
    """Until its first token."""
    total_us: int | None = None
    """Until its end."""


class Use(NamedTuple):
    """What a use that is a request adds to the sums."""

    model_id: str
    second: int
    """When it ended, since 1970."""
    outcome: str | None
    prompt_tokens: int
    reused_tokens: int
    completion_tokens: int
    times: Times


def times_of(event: Generated) -> Times:
    """The times of a generation that came to its end: how soon one was given up says nothing of the service.

    Waits for memory and for the load are included.
    """
    if event.outcome in FAILED or event.outcome in CANCELLED:
        return Times()
    waited = event.waited_ms if isinstance(event.waited_ms, float) else 0.0
    first = event.time_to_first_token_ms
    until_first = event.queue_ms if first is None else first
    return Times(
        first_us=None if first is None else microseconds(waited + first),
        total_us=microseconds(waited + until_first + event.generation_ms),
    )


# --- the fold ---------------------------------------------------------------------------------------------


async def count(db: aiosqlite.Connection, uses: Iterable[Use], *, sign: int = 1) -> None:
    """Add uses to the sums, or take them out again with a ``sign`` of -1."""
    sums: dict[_Span, Sequence[int]] = {}
    times: Counter[tuple[int, str, int, bool, int]] = Counter()
    for use in uses:
        row = _sums(use)
        bins = [(is_first, bin_of(time)) for is_first, time in _each_time(use.times)]
        for span in _spans(use):
            before = sums.get(span)
            sums[span] = row if before is None else tuple(map(add, before, row))
            for bin_ in bins:
                times[(*span, *bin_)] += 1
    if not sums:
        return
    added = ", ".join(f"{name} = {name} + excluded.{name}" for name in _SUMS)
    await db.executemany(
        f"INSERT INTO request_sums VALUES (?, ?, ?, {', '.join('?' * len(_SUMS))}) "
        f"ON CONFLICT DO UPDATE SET {added}",
        [(*span, *(sign * each for each in row)) for span, row in sums.items()],
    )
    if times:
        await db.executemany(
            "INSERT INTO request_times VALUES (?, ?, ?, ?, ?, ?) "
            "ON CONFLICT DO UPDATE SET count = count + excluded.count",
            [(*key, sign * each) for key, each in times.items()],
        )
    if sign < 0:
        await _remove_empty(db, sums, times)


async def _remove_empty(
    db: aiosqlite.Connection, spans: Iterable[_Span], times: Iterable[tuple[int, str, int, bool, int]]
) -> None:
    await db.executemany(
        "DELETE FROM request_sums WHERE width = ? AND model_id = ? AND start = ? AND requests = 0",
        list(spans),
    )
    await db.executemany(
        "DELETE FROM request_times "
        "WHERE width = ? AND model_id = ? AND start = ? AND is_first = ? AND bin = ? AND count = 0",
        list(times),
    )


def _spans(use: Use) -> tuple[_Span, ...]:
    """The spans of time in whose sums it is."""
    hour, day = use.second // HOUR * HOUR, use.second // DAY * DAY
    return (HOUR, ALL, hour), (DAY, ALL, day), (DAY, use.model_id, day)


def _each_time(times: Times) -> Iterator[tuple[bool, int]]:
    for is_first, time_us in ((True, times.first_us), (False, times.total_us)):
        if time_us is not None:
            yield is_first, time_us


def _sums(use: Use) -> tuple[int, ...]:
    """What it adds, in the order of `_SUMS`."""
    return (
        1,
        use.outcome in FAILED,
        use.outcome in CANCELLED,
        use.prompt_tokens,
        use.reused_tokens,
        use.completion_tokens,
        use.times.first_us or 0,
        use.times.total_us or 0,
    )


async def fold_misses(db: aiosqlite.Connection, events: Sequence[Recorded]) -> None:
    """Store what tells of requests that were refused, and of loads that were begun for one.

    What nodes wanted to load themselves is neither: what became of a bet, `bets` has.
    """
    rows = [row for recorded in events if (row := _miss(recorded)) is not None]
    if rows:
        await db.executemany("INSERT INTO request_misses VALUES (?, ?, ?, ?, ?, ?, ?)", rows)


def _miss(recorded: Recorded) -> tuple[object, ...] | None:
    match recorded.data:
        case RequestsRefused() as event if event.is_of_clients:
            counts = event.requests, event.code, 0
        case InstanceLoadStarted() as event if event.decision is None or event.decision.purpose == "request":
            counts = 0, "", 1
        case _:
            return None
    expires = None if recorded.expires is None else int(recorded.expires.timestamp())
    return recorded.seq, event.model_id, to_sql(recorded.time), *counts, expires


async def expire_misses(db: aiosqlite.Connection, now: datetime) -> bool:
    """Remove those that have expired. Returns whether there may be more."""
    return await remove_expired(db, "request_misses", now) == EXPIRE_ROWS


# --- queries ----------------------------------------------------------------------------------------------


class _Part(NamedTuple):
    """Where the requests of a part of a window are read from."""

    sums: str
    """A query for the model, the time and the sums."""
    times: str
    """A query for the model, the time, whether it is of first tokens, the bin, and how many are in it."""
    values: tuple[object, ...]
    """Of the first. The second has them twice if it reads the uses."""
    reads_uses: bool = False


def _of_spans(width: int, begin: int, end: int, model_id: str | None) -> _Part:
    """From the sums. A ``model_id`` of None: those of each model."""
    where = "WHERE width = ? AND start >= ? AND start < ?"
    values: tuple[object, ...] = (width, begin, end)
    if model_id is None:
        where += " AND model_id > ''"
    else:
        where += " AND model_id = ?"
        values += (model_id,)
    return _Part(
        sums=f"SELECT model_id, start, {', '.join(_SUMS)} FROM request_sums {where}",
        times=f"SELECT model_id, start, is_first, bin, count FROM request_times {where}",
        values=values,
    )


def _of_uses(begin: int, end: int, model_id: str | None) -> _Part:
    """From the rows of the uses. A ``model_id`` of None: of all models."""
    where = "WHERE at >= ? AND at < ? AND is_request"
    values: tuple[object, ...] = (to_sql(time_of(begin)), to_sql(time_of(end)))
    index = "usage_by_time"
    if model_id is not None:
        index = "usage_by_model"
        where += " AND model_id = ?"
        values += (model_id,)
    second = f"model_id, {SECOND} AS start"
    table = f"FROM usage INDEXED BY {index} {where}"
    return _Part(
        sums=f"SELECT {second}, 1 AS requests, ifnull(outcome IN {FAILED}, 0) AS failed, "
        f"ifnull(outcome IN {CANCELLED}, 0) AS cancelled, prompt_tokens, reused_tokens, completion_tokens, "
        f"ifnull(first_us, 0) AS first_us, ifnull(total_us, 0) AS total_us {table}",
        times=f"SELECT {second}, 1 AS is_first, first_bin AS bin, 1 AS count {table} "
        f"AND first_bin IS NOT NULL UNION ALL SELECT {second}, 0, total_bin, 1 {table} "
        "AND total_bin IS NOT NULL",
        values=values,
        reads_uses=True,
    )


def _series_of(window: Window, model_id: str | None) -> _Part:
    """Where the steps of a window are read from: the widest spans that fit into a step."""
    if window.step >= DAY:
        return _of_spans(DAY, window.begin, window.end, model_id or ALL)
    if window.step >= HOUR and model_id is None:
        return _of_spans(HOUR, window.begin, window.end, ALL)
    return _of_uses(window.begin, window.end, model_id)


def _models_of(window: Window) -> list[_Part]:
    """Where the models of a window are read from: whole days, and the uses before and after them."""
    first, last = -(-window.begin // DAY) * DAY, window.end // DAY * DAY
    if first >= last:
        return [_of_uses(window.begin, window.end, None)]
    edges = ((window.begin, first), (last, window.end))
    parts = [_of_uses(begin, end, None) for begin, end in edges if begin < end]
    return [_of_spans(DAY, first, last, None), *parts]


class _Found:
    """The figures of some groups of requests, while they are put together."""

    def __init__(self) -> None:
        self.sums: dict[Key, Sequence[int]] = {}
        self.bins: dict[bool, defaultdict[Key, Counter[int]]] = {
            True: defaultdict(Counter),
            False: defaultdict(Counter),
        }
        self.cold_starts: Counter[Key] = Counter()
        self.refusals: defaultdict[Key, Counter[str]] = defaultdict(Counter)
        """By the code of the error."""

    @property
    def keys(self) -> list[Key]:
        """The groups of which there is anything."""
        return list({**self.sums, **self.cold_starts, **self.refusals})

    def figures(self, key: Key) -> RequestFigures:
        """Those of one group."""
        return self._figures(
            self.sums.get(key, (0,) * len(_SUMS)),
            {is_first: bins.get(key, Counter()) for is_first, bins in self.bins.items()},
            self.cold_starts.get(key, 0),
            self.refusals.get(key, Counter()),
        )

    def total(self) -> RequestFigures:
        """Those of all groups together."""
        sums = [sum(column) for column in zip(*self.sums.values(), strict=True)] or (0,) * len(_SUMS)
        bins = {is_first: _added(bins.values()) for is_first, bins in self.bins.items()}
        return self._figures(sums, bins, self.cold_starts.total(), _added(self.refusals.values()))

    @staticmethod
    def _figures(
        sums: Sequence[int],
        bins: Mapping[bool, Mapping[int, int]],
        cold_starts: int,
        refusals: Counter[str],
    ) -> RequestFigures:
        requests, failed, cancelled, prompt, reused, completion, first_us, total_us = sums
        return RequestFigures(
            requests=requests,
            failed=failed,
            cancelled=cancelled,
            refused=refusals.total(),
            refusals=dict(refusals.most_common()),
            cold_starts=cold_starts,
            prompt_tokens=prompt,
            reused_tokens=reused,
            completion_tokens=completion,
            first_token=latency(bins[True], first_us),
            total=latency(bins[False], total_us),
        )


def _added(counts: Iterable[Mapping[K, int]]) -> Counter[K]:
    added: Counter[K] = Counter()
    for each in counts:
        added.update(each)
    return added


async def request_statistics(
    db: aiosqlite.Connection, request: GetRequestStatisticsRequest, now: datetime
) -> GetRequestStatisticsReply:
    """The figures over a window, and of the models that were used most in it.

    Raises InvalidRequest for an invalid time, and for a window that does not end after it begins.
    """
    window = Window.of(request, await _begin(db), now)
    found = await _steps(db, window, request.model_id)
    are_models_told = request.model_id is None and request.limit > 0
    models = await _busiest(db, window, request.limit) if are_models_told else []
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


async def _steps(db: aiosqlite.Connection, window: Window, model_id: str | None) -> _Found:
    """The figures of each step of a window."""
    part = _series_of(window, model_id)
    step = f"start / {window.step} * {window.step}"
    found = _Found()
    sums = ", ".join(f"sum({name})" for name in _SUMS)
    for key, *row in await db.execute_fetchall(
        f"SELECT {step} AS step, {sums} FROM ({part.sums}) GROUP BY step", part.values
    ):
        found.sums[key] = row
    await _add_times(db, found, [part], step)
    await _add_misses(
        db,
        found,
        window,
        f"{SECOND} / {window.step} * {window.step}",
        [] if model_id is None else [model_id],
    )
    return found


async def _busiest(db: aiosqlite.Connection, window: Window, limit: int) -> list[ModelRequests]:
    """The models that most requests asked for in a window, those that were refused among them."""
    parts = _models_of(window)
    found = _Found()
    sums = ", ".join(f"sum({name})" for name in _SUMS)
    served = f"SELECT *, 0 AS refused FROM ({' UNION ALL '.join(part.sums for part in parts)})"
    nothing = ", ".join("0" for _ in _SUMS)
    refused = f"SELECT model_id, 0, {nothing}, refused FROM request_misses WHERE at >= ? AND at < ?"
    rows = await db.execute_fetchall(
        f"SELECT model_id, {sums} FROM ({served} UNION ALL {refused}) GROUP BY model_id "
        "HAVING sum(requests) + sum(refused) > 0 "
        "ORDER BY sum(requests) + sum(refused) DESC, model_id LIMIT ?",
        (*(value for part in parts for value in part.values), *_bounds(window), limit),
    )
    found.sums = {model_id: row for model_id, *row in rows}
    names = [str(name) for name in found.sums]
    if not names:
        return []
    await _add_times(db, found, parts, "model_id", names)
    await _add_misses(db, found, window, "model_id", names)
    return [ModelRequests(model_id=name, figures=found.figures(name)) for name in names]


async def _add_times(
    db: aiosqlite.Connection, found: _Found, parts: Sequence[_Part], key: str, models: Sequence[str] = ()
) -> None:
    """Add the bins of the times of each group."""
    only = f"WHERE model_id IN ({', '.join('?' * len(models))})" if models else ""
    for part in parts:
        for group, is_first, bin_, count_ in await db.execute_fetchall(
            f"SELECT {key} AS key, is_first, bin, sum(count) FROM ({part.times}) {only} "
            "GROUP BY key, is_first, bin",
            (*part.values * (1 + part.reads_uses), *models),
        ):
            found.bins[bool(is_first)][group][bin_] += count_


async def _add_misses(
    db: aiosqlite.Connection, found: _Found, window: Window, key: str, models: Sequence[str]
) -> None:
    """Add the refusals and the cold starts of each group."""
    only = f"model_id IN ({', '.join('?' * len(models))}) AND " if models else ""
    for group, code, refused, cold_starts in await db.execute_fetchall(
        f"SELECT {key} AS key, code, sum(refused), sum(cold_starts) FROM request_misses "
        f"WHERE {only}at >= ? AND at < ? GROUP BY key, code",
        (*models, *_bounds(window)),
    ):
        if refused:
            found.refusals[group][code] += refused
        if cold_starts:
            found.cold_starts[group] += cold_starts


def _bounds(window: Window) -> tuple[str, str]:
    """When a window begins and ends, as the tables have it."""
    return to_sql(time_of(window.begin)), to_sql(time_of(window.end))
