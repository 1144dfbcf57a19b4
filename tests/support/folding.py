"""Events as the log has them, folded into a read model of a test's own file."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import TypeAlias

import aiosqlite
import msgspec
from hypothesis import strategies as st

from suite.messages.envelope import Recorded
from suite.messages.events import Event
from suite.messages.subjects import Subjects
from suite.projections import event_ids
from suite.projections.projection import Projection

T0 = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
Tables: TypeAlias = dict[str, list[tuple[object, ...]]]


def recorded(
    event: Event,
    seq: int,
    *,
    at: datetime | None = None,
    expires: datetime | None = None,
    id: str | None = None,
) -> Recorded:
    """An event of the log; a minute a sequence after T0 unless said otherwise."""
    return Recorded(
        seq=seq,
        subject=Subjects().event(event.aggregate, event.ids, event.fact),
        id=id or f"e{seq}",
        type=event.type,
        source="/node/test",
        time=at or T0 + timedelta(minutes=seq),
        data=event,
        expires=expires,
    )


def log_of(events: Iterable[Event]) -> list[Recorded]:
    """Events in the order of the log."""
    return [recorded(event, seq) for seq, event in enumerate(events, start=1)]


@st.composite
def logs(draw: st.DrawFn, events: st.SearchStrategy[Event], *, expiring: bool = False) -> list[Recorded]:
    """A short log with gaps; with ``expiring`` each event may have an end within two hours of T0.

    Some of its events are stored again later under the same id.
    """
    ends = st.none() | st.integers(1, 120) if expiring else st.none()
    seq = 0
    log: list[Recorded] = []
    for event in draw(st.lists(events, max_size=30)):
        seq += draw(st.integers(1, 3))
        end = draw(ends)
        expires = None if end is None else T0 + timedelta(minutes=end)
        log.append(recorded(event, seq, expires=expires))
        if draw(st.integers(0, 3)) == 0:
            seq += 1
            again = draw(st.sampled_from(log))
            log.append(msgspec.structs.replace(again, seq=seq))
    return log


@asynccontextmanager
async def read_model(projection: Projection) -> AsyncIterator[aiosqlite.Connection]:
    """An empty file with the projection's tables."""
    with tempfile.TemporaryDirectory() as directory:
        async with aiosqlite.connect(Path(directory) / "model.db", isolation_level=None) as db:
            await db.execute("PRAGMA synchronous = OFF")
            for statement in (projection.schema + event_ids.SCHEMA).split(";"):
                await db.execute(statement)
            yield db


async def fold(
    db: aiosqlite.Connection, projection: Projection, log: Sequence[Recorded], *, cuts: Iterable[int] = ()
) -> None:
    """Bring a log in, in batches that begin at ``cuts``, a transaction each."""
    edges = [0, *sorted(cut for cut in set(cuts) if 0 < cut < len(log)), len(log)]
    for begin, end in pairwise(edges):
        await db.execute("BEGIN")
        fresh = await event_ids.first_of_each(db, log[begin:end], but=projection.idempotent)
        await projection.fold(db, fresh)
        await db.commit()


async def expire(db: aiosqlite.Connection, projection: Projection, now: datetime) -> None:
    """Let all rows expire whose time is over, some in each transaction."""
    more = True
    while more:
        await db.execute("BEGIN")
        more = await event_ids.expire(db, now)
        more |= await projection.expire(db, now)
        await db.commit()


async def tables(db: aiosqlite.Connection) -> Tables:
    """Every row of every table."""
    names = await db.execute_fetchall("SELECT name FROM sqlite_master WHERE type = 'table'")
    return {
        name: [tuple(row) for row in await db.execute_fetchall(f'SELECT * FROM "{name}" ORDER BY 1, 2')]
        for (name,) in names
    }


async def batching_changes_nothing(
    projection: Projection, log: Sequence[Recorded], cuts: Iterable[int]
) -> None:
    """Folded in these batches, and at once: the same tables."""
    async with read_model(projection) as batched, read_model(projection) as whole:
        await fold(batched, projection, log, cuts=cuts)
        await fold(whole, projection, log)
        assert await tables(batched) == await tables(whole)


async def repetition_changes_nothing(projection: Projection, log: Sequence[Recorded]) -> None:
    """The tables are those of the log without what is stored in it again, with the id and end of before."""
    first = {event.id: event for event in reversed(log)}
    log = [msgspec.structs.replace(event, expires=first[event.id].expires) for event in log]
    first = {event.id: event for event in reversed(log)}
    once = [event for event in log if event is first[event.id]]
    async with read_model(projection) as repeated, read_model(projection) as single:
        await fold(repeated, projection, log)
        await fold(single, projection, once)
        had, has = await tables(single), await tables(repeated)
        # Where samples wait whose id is taken, the same sample may wait too: it counts for nothing.
        assert {**has, "repeated_metrics": []} == {**had, "repeated_metrics": []}


async def expired_as_if_never_there(
    projection: Projection, log: Sequence[Recorded], cut: int, now: datetime
) -> None:
    """A read model that lived on has what one has that is folded after the log lost what expired."""
    kept = [event for event in log if event.expires is None or event.expires > now]
    async with read_model(projection) as live, read_model(projection) as anew:
        await fold(live, projection, log[:cut])
        await expire(live, projection, now)
        await fold(live, projection, log[cut:])
        await expire(live, projection, now)
        await fold(anew, projection, kept)
        assert await tables(live) == await tables(anew)
        await expire(anew, projection, now)
        assert await tables(live) == await tables(anew)
