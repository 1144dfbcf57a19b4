"""Who only wants to know how things stand is not held up by a read model that is behind or not there."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import aiosqlite
import anyio
import pytest

from suite.actions import best_effort
from suite.actions.best_effort import best_effort_read
from suite.identity import new_id, utc_now
from suite.log import Log
from suite.messages.envelope import Recorded
from suite.messages.subjects import Subjects
from suite.projections.projector import Projector
from support.nats import eventually, running_nats
from support.projections import Tallies, projecting, use


class Halted(Tallies):
    """It folds nothing until it may."""

    def __init__(self) -> None:
        self.may = anyio.Event()

    async def fold(self, db: aiosqlite.Connection, events: Sequence[Recorded]) -> None:
        if events:
            await self.may.wait()
        await super().fold(db, events)


@asynccontextmanager
async def opened(directory: Path) -> AsyncIterator[Log]:
    async with (
        running_nats(directory) as (_, connection),
        Log.open(connection, Subjects(), source="/test", new_id=new_id, now=utc_now) as log,
    ):
        yield log


async def seen(projector: Projector, own_seq: int) -> int | None:
    """The uses that are there; None if it cannot be read."""
    async with best_effort_read(projector, own_seq) as db:
        if db is None:
            return None
        ((count,),) = await db.execute_fetchall("SELECT coalesce(sum(uses), 0) FROM tally")
        return int(count)


async def test_what_the_node_has_just_written_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(best_effort, "PATIENCE_SECONDS", 20.0)
    async with opened(tmp_path) as log, projecting(log, tmp_path / "t.db") as projector:
        for count in range(1, 6):
            assert await seen(projector, await log.append(use())) == count


async def test_one_that_is_behind_shows_what_it_has(tmp_path: Path) -> None:
    halted = Halted()
    async with opened(tmp_path) as log, projecting(log, tmp_path / "t.db", halted) as projector:
        await projector.wait_for(0)
        seq = await log.append(use())
        assert await seen(projector, seq) == 0
        halted.may.set()
        await projector.wait_for(seq)
        assert await seen(projector, seq) == 1


async def test_one_that_is_not_there_is_left_out(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        never_begun = Projector(Tallies(), tmp_path / "t.db", log)
        assert await seen(never_begun, 0) is None
        (tmp_path / "blocker").write_text("a file where a directory should be")
        async with projecting(log, tmp_path / "blocker" / "t.db") as projector:
            await eventually(lambda: projector.problem is not None)
            assert await seen(projector, await log.append(use())) is None
