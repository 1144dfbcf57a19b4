"""A read model is a fold of the log: whatever becomes of its file, it comes back the same."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from suite.bus.connection import Connection
from suite.bus.embedded import EmbeddedServer
from suite.errors import Conflict, InvalidRequest, ReadModelBehind, ReadModelUnavailable
from suite.identity import new_id, utc_now
from suite.log import Log
from suite.messages.events import NodeStopped
from suite.messages.subjects import Subjects
from suite.projections import projector as projector_module
from suite.projections import queries
from support.nats import eventually, restart_nats, running_nats
from support.projections import Tallies, projecting, use, uses


@asynccontextmanager
async def opened(directory: Path) -> AsyncIterator[tuple[EmbeddedServer, Connection, Log]]:
    async with (
        running_nats(directory) as (server, connection),
        Log.open(connection, Subjects(), source="/test", new_id=new_id, now=utc_now) as log,
    ):
        yield server, connection, log


def rows(path: Path) -> int:
    """What a stranger's SQL reader sees."""
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as db:
        return int(db.execute("SELECT coalesce(sum(uses), 0) FROM tally").fetchone()[0])


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


async def test_a_reader_sees_its_own_writes(tmp_path: Path) -> None:
    async with opened(tmp_path) as (_, _, log), projecting(log, tmp_path / "t.db") as projector:
        for number in range(1, 51):
            assert await uses(projector, await log.append(use())) == number


async def test_events_of_others_count_for_the_place_too(tmp_path: Path) -> None:
    async with opened(tmp_path) as (_, _, log), projecting(log, tmp_path / "t.db") as projector:
        await log.append(use())
        assert await uses(projector, await log.append(NodeStopped(node="n", epoch=1))) == 1
        assert projector.info.lag_events == 0


async def test_it_goes_on_from_its_own_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "t.db"
    async with opened(tmp_path) as (_, _, log):
        async with projecting(log, path) as projector:
            assert await uses(projector, await log.append(use(), use())) == 2
        with closing(sqlite3.connect(path)) as db:
            db.execute("UPDATE tally SET uses = 100")
            db.commit()
        async with projecting(log, path) as projector:
            assert await uses(projector, await log.append(use())) == 101


async def test_a_stopped_file_is_one_file_that_a_read_only_reader_can_open(tmp_path: Path) -> None:
    path = tmp_path / "t.db"
    async with opened(tmp_path) as (_, _, log), projecting(log, path) as projector:
        assert await uses(projector, await log.append(use())) == 1
        assert rows(path) == 1
    assert rows(path) == 1
    assert names(tmp_path) == {"nats", "t.db"}


@pytest.mark.parametrize("kind", ["missing", "empty", "bare", "garbage", "torn", "older"])
async def test_a_file_that_cannot_be_used_is_folded_anew(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "t.db"
    async with opened(tmp_path) as (_, _, log):
        async with projecting(log, path) as projector:
            last = await log.append(*[use(f"model {number}") for number in range(300)])
            assert await uses(projector, last) == 300
        match kind:
            case "missing":
                path.unlink()
            case "empty":
                path.write_bytes(b"")
            case "bare":  # killed before it wrote its tables
                path.unlink()
                with closing(sqlite3.connect(path)) as db:
                    db.execute("PRAGMA journal_mode = WAL")
            case "garbage":
                path.write_bytes(b"this is no database" * 1000)
            case "torn":
                whole = path.read_bytes()
                path.write_bytes(whole[:4096] + b"\xff" * (len(whole) - 4096))
            case "older":
                with closing(sqlite3.connect(path)) as db:
                    db.execute("UPDATE suite_checkpoint SET version = 0")
                    db.execute("DROP TABLE tally")
                    db.commit()
        async with projecting(log, path) as projector:
            last = await log.append(use())
            with anyio.fail_after(20):
                while True:  # of a torn file, only a query or a write finds out
                    try:
                        assert await uses(projector, last) == 301
                        break
                    except ReadModelUnavailable:
                        await anyio.sleep(0.05)
        kept = {"t.damaged-1.db"} if kind in ("garbage", "torn") else set()
        assert {name for name in names(tmp_path) if name.startswith("t.")} == {"t.db"} | kept


async def test_a_file_that_is_removed_under_it_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "t.db"
    async with opened(tmp_path) as (_, _, log), projecting(log, path) as projector:
        assert await uses(projector, await log.append(use())) == 1
        path.unlink()
        await eventually(path.exists)
        assert await uses(projector, await log.append(use())) == 2
        assert rows(path) == 2


async def test_a_database_of_somebody_else_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "t.db"
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE performance_metrics (metric_id TEXT)")
        db.execute("INSERT INTO performance_metrics VALUES ('old')")
        db.commit()
    async with opened(tmp_path) as (_, _, log), projecting(log, path) as projector:
        assert await uses(projector, await log.append(use())) == 1
        with closing(sqlite3.connect(tmp_path / "t.foreign-1.db")) as db:
            assert db.execute("SELECT * FROM performance_metrics").fetchall() == [("old",)]


async def test_a_fold_of_another_log_is_folded_anew(tmp_path: Path) -> None:
    path = tmp_path / "t.db"
    for directory, count in ((tmp_path / "one", 5), (tmp_path / "two", 2)):
        directory.mkdir()
        async with opened(directory) as (_, _, log), projecting(log, path) as projector:
            last = await log.append(*[use() for _ in range(count)])
            assert await uses(projector, last) == count


async def test_a_rebuild_disturbs_no_query(tmp_path: Path) -> None:
    path = tmp_path / "t.db"
    async with opened(tmp_path) as (_, _, log), projecting(log, path) as projector:
        for _ in range(5):
            await log.append(*[use() for _ in range(400)])
        heard: list[float] = []
        over = anyio.Event()

        async def hear(fraction: float) -> None:
            heard.append(fraction)

        async def ask() -> None:
            while not over.is_set():
                last = await log.append(use())
                seen = await uses(projector, last)
                assert seen == last
                await anyio.lowlevel.checkpoint()

        with closing(sqlite3.connect(path)) as stranger:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(ask)
                await anyio.sleep(0.05)
                stranger.execute("SELECT count(*) FROM use").fetchone()
                rebuilt = await projector.rebuild(hear)
                async with anyio.create_task_group() as twice:
                    twice.start_soon(projector.rebuild)
                    await anyio.lowlevel.checkpoint()
                    with pytest.raises(Conflict):
                        await projector.rebuild()
                over.set()
        assert rebuilt.events >= 2000 and rebuilt.seq >= 2000 and heard[-1] == 1.0
        assert heard == sorted(heard)
        last = await log.append(use())
        assert await uses(projector, last) == last == rows(path)
        assert not any(name.startswith("t.db.new") for name in names(tmp_path))


async def test_a_rebuild_that_is_given_up_leaves_the_live_one(tmp_path: Path) -> None:
    path = tmp_path / "t.db"
    async with opened(tmp_path) as (_, _, log), projecting(log, path) as projector:
        assert await uses(projector, await log.append(*[use() for _ in range(900)])) == 900

        async def give_up(_: float) -> None:
            scope.cancel()

        with anyio.CancelScope() as scope:
            await projector.rebuild(give_up)
        assert await uses(projector, await log.append(use())) == 901
        assert not any(name.startswith("t.db.new") for name in names(tmp_path))


async def test_beyond_the_end_of_the_log_nothing_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queries, "WAIT_SECONDS", 600)
    async with opened(tmp_path) as (_, connection, log), projecting(log, tmp_path / "t.db") as projector:
        last = await log.append(use())
        refused = []

        async def ask(seq: int) -> None:
            with pytest.raises(InvalidRequest, match=f"'min_seq': the log has no event {seq} yet"):
                await uses(projector, seq)
            refused.append(seq)

        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                for seq in (last + 1, 10**15, *range(last + 2, last + 200)):
                    tasks.start_soon(ask, seq)
            assert len(refused) == 200
            assert await uses(projector, last) == 1
            # What another node wrote is there, though this one has not heard of it.
            async with Log.open(connection, Subjects(), source="/other", new_id=new_id, now=utc_now) as other:
                assert await uses(projector, await other.append(use())) == 2


async def test_those_that_wait_for_an_event_leave_room_for_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queries, "WAIT_SECONDS", 600)
    monkeypatch.setattr(queries, "CROWDED_SECONDS", 0.05)
    async with opened(tmp_path) as (_, _, log), projecting(log, tmp_path / "t.db") as projector:
        last = await log.append(use())
        assert await uses(projector, last) == 1

        async def exists(_: int) -> bool:
            return True

        monkeypatch.setattr(projector._queries, "_exists", exists)  # as if folding took its time
        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                for _ in range(queries.PATIENT):
                    tasks.start_soon(uses, projector, last + 1)
                await anyio.lowlevel.checkpoint()
                for _ in range(3):
                    with pytest.raises(ReadModelBehind, match=f"does not have event {last + 1} yet"):
                        await uses(projector, last + 1)
                assert await uses(projector, last) == 1
                await log.append(use())  # and those that are patient get what they wait for


class Failing(Tallies):
    """Its disk is full while it is told so. SQLite itself gives the error: no more pages are allowed."""

    full = True

    async def fold(self, db, events) -> None:  # type: ignore[no-untyped-def]
        await db.execute(f"PRAGMA max_page_count = {1 if self.full else 1_000_000}")
        await super().fold(db, events)


async def test_a_full_disk_is_a_problem_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(projector_module, "RETRY_SECONDS", 0.05)
    monkeypatch.setattr(queries, "WAIT_SECONDS", 1.0)
    path, projection = tmp_path / "t.db", Failing()
    projection.full = False
    async with opened(tmp_path) as (_, _, log), projecting(log, path, projection) as projector:
        assert await uses(projector, await log.append(use())) == 1
        projection.full = True
        last = await log.append(*[use(f"{number:0200}") for number in range(300)])
        await eventually(lambda: projector.problem is not None)
        assert "full" in str(projector.problem) and str(path) in str(projector.problem)
        assert 1 <= await uses(projector) < 301  # some fit into the pages that there were
        with pytest.raises(ReadModelBehind, match="full"):
            await uses(projector, last)
        projection.full = False
        await eventually(lambda: projector.problem is None)
        assert await uses(projector, last) == 301


async def test_a_directory_that_cannot_be_written_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(projector_module, "RETRY_SECONDS", 0.05)
    blocker = tmp_path / "data"
    blocker.write_text("a file where a directory should be")
    async with opened(tmp_path) as (_, _, log), projecting(log, blocker / "t.db") as projector:
        last = await log.append(use())
        await eventually(lambda: projector.problem is not None)
        with pytest.raises(ReadModelUnavailable):
            await uses(projector)
        blocker.unlink()
        await eventually(lambda: projector.problem is None)
        assert await uses(projector, last) == 1


async def test_samples_go_from_the_file_as_from_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(projector_module, "EXPIRE_SECONDS", 0.1)
    async with (
        running_nats(tmp_path) as (_, connection),
        Log.open(
            connection, Subjects(), source="/test", new_id=new_id, now=utc_now, retention={"usage": 2}
        ) as log,
        projecting(log, tmp_path / "t.db") as projector,
    ):
        assert await uses(projector, await log.append(use(), use())) == 2

        async def kept() -> int:
            async with projector.reading() as db:
                (row,) = await db.execute_fetchall("SELECT count(*) FROM use")
                return int(row[0])

        with anyio.fail_after(20):
            while await kept():
                await anyio.sleep(0.05)
        assert await uses(projector, (await log.extent()).last_seq) == 2


async def test_it_follows_on_when_the_server_comes_back(tmp_path: Path) -> None:
    async with (
        opened(tmp_path) as (server, connection, log),
        projecting(log, tmp_path / "t.db") as projector,
    ):
        assert await uses(projector, await log.append(*[use() for _ in range(900)])) == 900
        await restart_nats(server, connection)
        assert await uses(projector, await log.append(use())) == 901
