"""A read model that is as small as can be, and a projector that keeps it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path

import aiosqlite

from suite.log import Log
from suite.messages.envelope import Recorded
from suite.messages.events import UsageRecorded
from suite.projections.projection import Projection
from suite.projections.projector import Projector
from suite.tasks import background


class Tallies(Projection):
    """How often each model was used, and every use."""

    name = "usage"
    version = 1
    aggregates = ("usage",)
    schema = """
    CREATE TABLE tally (model TEXT PRIMARY KEY, uses INTEGER NOT NULL);
    CREATE TABLE use (seq INTEGER PRIMARY KEY, kind TEXT NOT NULL, expires INTEGER)
    """

    async def fold(self, db: aiosqlite.Connection, events: Sequence[Recorded]) -> None:
        for event in events:
            if isinstance(event.data, UsageRecorded):
                await db.execute(
                    "INSERT INTO tally VALUES (?, 1) ON CONFLICT DO UPDATE SET uses = uses + 1",
                    (event.data.model_id,),
                )
                expires = None if event.expires is None else int(event.expires.timestamp())
                await db.execute(
                    "INSERT INTO use VALUES (?, ?, ?)", (event.seq, event.data.usage_type, expires)
                )

    async def expire(self, db: aiosqlite.Connection, now: datetime) -> bool:
        await db.execute("DELETE FROM use WHERE expires <= ?", (now.timestamp(),))
        return False


def use(model_id: str = "phi", kind: str = "test") -> UsageRecorded:
    return UsageRecorded(model_id=model_id, usage_type=kind)


async def uses(projector: Projector, min_seq: int = 0, *, own_seq: int = 0) -> int:
    """All uses that the read model counts."""
    async with projector.reading(min_seq, own_seq=own_seq) as db:
        (row,) = await db.execute_fetchall("SELECT coalesce(sum(uses), 0) FROM tally")
        return int(row[0])


@asynccontextmanager
async def projecting(log: Log, path: Path, projection: Projection | None = None) -> AsyncIterator[Projector]:
    projector = Projector(projection or Tallies(), path, log)
    async with background() as tasks:
        tasks.start_soon(projector.run)
        yield projector
