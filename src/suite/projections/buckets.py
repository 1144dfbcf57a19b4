"""Aggregates metric samples into buckets of a minute, an hour, a day and 30 days, by the samples' timestamps.

A bucket holds a sketch of one metric of one agent. Minute buckets are built from the samples, one for each
expiry time, so that a whole bucket expires at once. Each wider bucket is the merge of the next narrower ones,
so expired samples leave it when it is merged again from what is left. Sketches merge without loss
(`sketch.py`): the same samples give the same buckets, in whatever order they were added and removed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any, Final, NamedTuple, TypeAlias

import aiosqlite

from suite.messages.times import from_sql
from suite.projections.projection import EXPIRE_ROWS
from suite.projections.samples import Row
from suite.projections.sketch import Sketch

MINUTE: Final = 60
WIDTHS: Final = (MINUTE, 3_600, 86_400, 30 * 86_400)
"""The widths of buckets, in seconds. Each is a multiple of the one before."""

HOUR: Final = WIDTHS[1]
DAY: Final = WIDTHS[2]
STEPS: Final = (MINUTE, 300, 900, HOUR, 3 * HOUR, 6 * HOUR, DAY, 7 * DAY, 30 * DAY, 360 * DAY)
"""The steps of series, in seconds. Each is a multiple of the widths that are not wider than it."""
MOST_POINTS: Final = 120
"""A series has about so many points at most."""

BEFORE_ALL: Final = -(10**7) * WIDTHS[-1]
AFTER_ALL: Final = 10**7 * WIDTHS[-1]

SCHEMA: Final = """
    CREATE TABLE metric_minutes (
        metric_name TEXT,
        start INTEGER,
        agent_name TEXT,
        expires INTEGER,
        sketch BLOB NOT NULL,
        PRIMARY KEY (metric_name, start, agent_name, expires)
    ) WITHOUT ROWID;
    CREATE INDEX minutes_by_expiry ON metric_minutes (expires);
    CREATE TABLE metric_spans (
        metric_name TEXT,
        start INTEGER,
        agent_name TEXT,
        width INTEGER,
        sketch BLOB NOT NULL,
        PRIMARY KEY (width, metric_name, start, agent_name)
    ) WITHOUT ROWID;
"""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_NEVER: Final = 2**63 - 1
"""Stored as the expiry of samples that never expire: a column of the primary key cannot be NULL."""
_EXPIRED: Final = (
    "SELECT metric_name, start, agent_name, expires FROM metric_minutes INDEXED BY minutes_by_expiry "
    "WHERE expires <= :now ORDER BY expires, metric_name, start, agent_name LIMIT :some"
)
_SOME: Final = 2000
"""Keys per statement: SQLite accepts about 32,000 values, and a key has four."""

Key: TypeAlias = tuple[str, int, str, int]
"""Metric, start, agent, and then the expiry (minute buckets) or the width (wider ones)."""


class Piece(NamedTuple):
    """Buckets of one width that start in ``[begin, end)``."""

    width: int
    begin: int
    end: int


def minute_of(time: datetime, *, up: bool = False) -> int:
    """Round a time down to a whole minute, or up with ``up``. Returns seconds since 1970."""
    seconds = (_EPOCH - time if up else time - _EPOCH) // timedelta(minutes=1) * MINUTE
    return -seconds if up else seconds


def time_of(seconds: int) -> datetime:
    """The time so many seconds after 1970."""
    return _EPOCH + timedelta(seconds=seconds)


def step_for(begin: int, end: int) -> int:
    """The narrowest of the steps with which a series over a window has at most `MOST_POINTS` points."""
    return next((step for step in STEPS if end - begin <= step * MOST_POINTS), STEPS[-1])


def cover(begin: int, end: int, widths: tuple[int, ...] = WIDTHS) -> list[Piece]:
    """Cover a range of whole minutes with the fewest buckets: wide inside, narrower at the edges."""
    if begin >= end:
        return []
    *narrower, width = widths
    first, last = -(-begin // width) * width, end // width * width
    if first >= last:
        return cover(begin, end, tuple(narrower))
    return [
        *cover(begin, first, tuple(narrower)),
        Piece(width, first, last),
        *cover(last, end, tuple(narrower)),
    ]


async def read(
    db: aiosqlite.Connection, metric_name: str, agent_name: str | None, begin: int, end: int
) -> list[tuple[str, bytes]]:
    """Read the buckets that cover a window of whole minutes. Returns pairs of agent and packed sketch."""
    rows = await _read(db, metric_name, agent_name, cover(begin, end))
    return [(agent, sketch) for agent, _, sketch in rows]


async def read_steps(
    db: aiosqlite.Connection, metric_name: str, agent_name: str | None, piece: Piece
) -> list[tuple[str, int, bytes]]:
    """Read the widest buckets that fit into the steps of a window: agent, start of the bucket, and sketch.

    The width of ``piece`` is that of a step; the window begins and ends with one.
    """
    width = next(width for width in reversed(WIDTHS) if piece.width % width == 0)
    return await _read(db, metric_name, agent_name, [piece._replace(width=width)])


async def first_minute(db: aiosqlite.Connection, metric_name: str) -> int | None:
    """The start of the first minute in which there are samples of a metric; None if there are none."""
    ((start,),) = await db.execute_fetchall(
        "SELECT min(start) FROM metric_minutes WHERE metric_name = ?", (metric_name,)
    )
    return None if start is None else int(start)


async def _read(
    db: aiosqlite.Connection, metric_name: str, agent_name: str | None, pieces: Iterable[Piece]
) -> list[tuple[str, int, bytes]]:
    parts: list[str] = []
    values: list[str | int] = []
    for piece in pieces:
        if piece.width == MINUTE:
            parts.append("SELECT agent_name, start, sketch FROM metric_minutes WHERE metric_name = ?")
            values.append(metric_name)
        else:
            parts.append(
                "SELECT agent_name, start, sketch FROM metric_spans WHERE width = ? AND metric_name = ?"
            )
            values += [piece.width, metric_name]
        parts[-1] += " AND start >= ? AND start < ?"
        values += [piece.begin, piece.end]
        if agent_name is not None:
            parts[-1] += " AND agent_name = ?"
            values.append(agent_name)
    if not parts:
        return []
    rows = await db.execute_fetchall(" UNION ALL ".join(parts), values)
    return [(agent, start, sketch) for agent, start, sketch in rows]


async def count(db: aiosqlite.Connection, rows: Sequence[Row]) -> None:
    """Add samples that are not in any bucket yet."""
    if not rows:
        return
    minutes: defaultdict[Key, Sketch] = defaultdict(Sketch)
    for _, agent_name, metric_name, value, timestamp, _, _, expires in rows:
        end = _NEVER if expires is None else expires
        minutes[metric_name, minute_of(from_sql(timestamp)), agent_name, end].add(value)
    spans: defaultdict[Key, Sketch] = defaultdict(Sketch)
    narrower: Mapping[Key, Sketch] = minutes
    for width in WIDTHS[1:]:
        wider: defaultdict[Key, Sketch] = defaultdict(Sketch)
        for (metric_name, start, agent_name, _), sketch in narrower.items():
            wider[metric_name, start // width * width, agent_name, width].merge(sketch)
        spans.update(wider)
        narrower = wider
    # Only now, after the wider buckets are built: sketches that were in the tables before must not be added
    # to the wider buckets a second time.
    await _merge(db, "metric_minutes", "expires", minutes)
    await _merge(db, "metric_spans", "width", spans)


async def _merge(db: aiosqlite.Connection, table: str, last: str, sketches: Mapping[Key, Sketch]) -> None:
    """Merge sketches into the rows of a table. ``last`` names the fourth column of its key."""
    keys = list(sketches)
    for begin in range(0, len(keys), _SOME):
        some = keys[begin : begin + _SOME]
        marks = ", ".join(["(?, ?, ?, ?)"] * len(some))
        found = await db.execute_fetchall(
            f"WITH wanted (metric_name, start, agent_name, {last}) AS (VALUES {marks}) "
            f"SELECT * FROM wanted CROSS JOIN {table} USING (metric_name, start, agent_name, {last})",
            [value for key in some for value in key],
        )
        for metric_name, start, agent_name, fourth, packed in found:
            sketches[metric_name, start, agent_name, fourth].absorb(packed)
    await _write(db, table, sketches)


async def _write(db: aiosqlite.Connection, table: str, sketches: Mapping[Key, Sketch]) -> None:
    await db.executemany(
        f"INSERT OR REPLACE INTO {table} (metric_name, start, agent_name, "
        f"{'expires' if table == 'metric_minutes' else 'width'}, sketch) VALUES (?, ?, ?, ?, ?)",
        [(*key, sketch.pack()) for key, sketch in sketches.items()],
    )


async def expire(db: aiosqlite.Connection, now: int) -> bool:
    """Remove minute buckets that have expired by ``now``, and rebuild the wider buckets that contain them.

    Removes up to `EXPIRE_ROWS`, those that expired first. Returns whether there may be more.
    """
    values = {"now": now, "some": EXPIRE_ROWS}
    if not await db.execute_fetchall(f"SELECT 1 FROM ({_EXPIRED}) LIMIT 1", values):
        return False
    for narrower, width in pairwise(WIDTHS):
        await _merge_anew(db, narrower, width, now)
    removed = await db.execute(
        f"DELETE FROM metric_minutes WHERE (metric_name, start, agent_name, expires) IN ({_EXPIRED})", values
    )
    return removed.rowcount == EXPIRE_ROWS


async def _merge_anew(db: aiosqlite.Connection, narrower: int, width: int, now: int) -> None:
    """Rebuild the buckets of one width that contain minutes which are about to be removed."""
    values: dict[str, Any] = {"narrower": narrower, "width": width, "now": now, "some": EXPIRE_ROWS}
    stale = (
        "SELECT DISTINCT metric_name, start - ((start % :width) + :width) % :width AS start "
        f"FROM ({_EXPIRED})"
    )
    left = (
        "metric_minutes AS part ON part.expires > :now AND"
        if narrower == MINUTE
        else "metric_spans AS part ON part.width = :narrower AND"
    )
    found = await db.execute_fetchall(
        f"SELECT part.metric_name, stale.start, part.agent_name, part.sketch FROM ({stale}) AS stale "
        f"CROSS JOIN {left} part.metric_name = stale.metric_name "
        "AND part.start >= stale.start AND part.start < stale.start + :width",
        values,
    )
    sketches: defaultdict[Key, Sketch] = defaultdict(Sketch)
    for metric_name, start, agent_name, packed in found:
        sketches[metric_name, start, agent_name, width].absorb(packed)
    await db.execute(
        f"DELETE FROM metric_spans WHERE width = :width AND (metric_name, start) IN ({stale})", values
    )
    await _write(db, "metric_spans", sketches)
