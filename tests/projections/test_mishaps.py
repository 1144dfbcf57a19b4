"""Whatever is done to the file of a read model, or stands in it, nothing is lost and the rest goes on."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path

import aiosqlite
import anyio
import msgspec
import pytest

from suite.bus.connection import Connection
from suite.bus.embedded import EmbeddedServer
from suite.errors import ReadModelUnavailable, RebuildWouldLose
from suite.identity import new_id, utc_now
from suite.log import Log, consumer, follower, reader
from suite.messages.actions.evaluation import CompareModelsRequest
from suite.messages.envelope import Recorded
from suite.messages.events import REGISTRY, UsageRecorded
from suite.messages.subjects import Subjects
from suite.projections import projector as projector_module
from suite.projections.comparison import compare_models
from suite.projections.evaluation import EvaluationProjection
from suite.projections.file import ProjectionFile
from suite.projections.projector import Projector
from support.folding import read_model
from support.nats import eventually, running_nats
from support.projections import Tallies, projecting, use, uses


@asynccontextmanager
async def opened(directory: Path) -> AsyncIterator[tuple[EmbeddedServer, Connection, Log]]:
    async with running_nats(directory) as (server, connection), logging(connection) as log:
        yield server, connection, log


@asynccontextmanager
async def logging(connection: Connection) -> AsyncIterator[Log]:
    async with Log.open(connection, Subjects(), source="/test", new_id=new_id, now=utc_now) as log:
        yield log


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(projector_module, "RETRY_SECONDS", 0.05)


def strange(path: Path) -> Path:
    """Somebody else's database."""
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE performance_metrics (metric_id TEXT, context TEXT)")
        rows = [(str(number), "x" * 100) for number in range(2000)]
        db.executemany("INSERT INTO performance_metrics VALUES (?, ?)", rows)
        db.commit()
    return path


def is_whole(path: Path) -> bool:
    """Whether somebody else's database is as it was."""
    with closing(sqlite3.connect(path)) as db:
        ((count,),) = db.execute("SELECT count(*) FROM performance_metrics")
        return bool(count == 2000 and list(db.execute("PRAGMA integrity_check")) == [("ok",)])


def changed(path: Path, sql: str) -> None:
    """A change that the service did not make."""
    with closing(sqlite3.connect(path)) as db:
        db.execute(sql)
        db.commit()


def kept(path: Path, why: str) -> list[Path]:
    """The files that were set aside, by their reason."""
    return sorted(path.parent.glob(f"{path.stem}.{why}-*T*.db"))


async def eventually_uses(projector: Projector, seq: int) -> int:
    with anyio.fail_after(20):
        while True:
            try:
                return await uses(projector, seq)
            except ReadModelUnavailable:
                await anyio.sleep(0.02)


# --- files that come and go -------------------------------------------------------------------------------


async def test_a_database_that_is_moved_into_its_place_is_kept(tmp_path: Path) -> None:
    path, other = tmp_path / "t.db", strange(tmp_path / "old.db")
    async with opened(tmp_path) as (_, _, log), projecting(log, path) as projector:
        for _ in range(5):
            last = await log.append(*[use(f"model {number}") for number in range(200)])
        assert await uses(projector, last) == 1000
        other.replace(path)
        await eventually((tmp_path / "t.foreign-1.db").exists)
        assert await eventually_uses(projector, await log.append(use())) == 1001
        assert is_whole(tmp_path / "t.foreign-1.db")


async def test_a_database_that_comes_during_a_rebuild_is_kept(tmp_path: Path) -> None:
    path, other = tmp_path / "t.db", strange(tmp_path / "old.db")
    async with opened(tmp_path) as (_, _, log), projecting(log, path) as projector:
        assert await uses(projector, await log.append(*[use() for _ in range(900)])) == 900

        async def disturb(_: float) -> None:
            if other.exists():
                other.replace(path)

        await projector.rebuild(disturb)
        assert await eventually_uses(projector, await log.append(use())) == 901
        assert is_whole(tmp_path / "t.foreign-1.db")


async def test_a_database_whose_writer_was_killed_is_kept_with_its_journal(tmp_path: Path) -> None:
    source, path = strange(tmp_path / "old.db"), tmp_path / "t.db"
    with closing(sqlite3.connect(source, isolation_level=None)) as db:
        db.execute("PRAGMA cache_size = 5")
        db.execute("BEGIN")
        db.execute("UPDATE performance_metrics SET context = 'y' || context")
        for name in ("", "-journal"):
            shutil.copy(f"{source}{name}", f"{path}{name}")
        db.execute("ROLLBACK")
    async with opened(tmp_path) as (_, _, log), projecting(log, path) as projector:
        assert await eventually_uses(projector, await log.append(use())) == 1
        with closing(sqlite3.connect(tmp_path / "t.foreign-1.db")) as db:
            changes = db.execute("SELECT count(*) FROM performance_metrics WHERE context LIKE 'y%'")
            assert changes.fetchone() == (0,)
        assert is_whole(tmp_path / "t.foreign-1.db")


class Halting(Tallies):
    """It folds nothing while it is told so."""

    halted = False
    full = False

    async def fold(self, db: aiosqlite.Connection, events: Sequence[Recorded]) -> None:
        while self.halted:
            await anyio.sleep(0.01)
        await db.execute(f"PRAGMA max_page_count = {1 if self.full else 1_000_000}")
        await super().fold(db, events)


async def test_one_that_is_folded_anew_is_not_current(tmp_path: Path) -> None:
    path, projection = tmp_path / "t.db", Halting()
    async with opened(tmp_path) as (_, _, log), projecting(log, path, projection) as projector:
        assert await uses(projector, await log.append(use(), use())) == 2
        await projector.wait_current()
        projection.halted = True
        path.unlink()
        await eventually(lambda: projector.seq == 0)
        with anyio.move_on_after(0.3) as waiting:
            await projector.wait_current()
        assert waiting.cancelled_caught
        projection.halted = False
        assert await uses(projector, await projector.wait_current()) == 2


async def test_after_a_full_disk_a_removed_file_is_answered_from_anew(tmp_path: Path) -> None:
    path, projection = tmp_path / "t.db", Halting()
    async with opened(tmp_path) as (_, _, log), projecting(log, path, projection) as projector:
        assert await uses(projector, await log.append(use())) == 1
        projection.full = True
        await log.append(*[use(f"{number:0200}") for number in range(300)])
        await eventually(lambda: projector.problem is not None)
        projection.halted, projection.full = True, False
        path.unlink()
        projection.halted = False
        await eventually(lambda: projector.problem is None)
        assert await uses(projector, await log.append(use())) == 302


async def test_many_queries_go_on_while_files_are_swapped(tmp_path: Path) -> None:
    async with opened(tmp_path) as (_, _, log), projecting(log, tmp_path / "t.db") as projector:
        assert await uses(projector, await log.append(*[use() for _ in range(10)])) == 10
        over = anyio.Event()

        async def ask() -> None:
            while not over.is_set():
                assert await uses(projector) == 10

        with anyio.fail_after(40):
            async with anyio.create_task_group() as tasks:
                for _ in range(10):
                    tasks.start_soon(ask)
                for _ in range(4):
                    await projector.rebuild()
                over.set()


async def test_a_file_has_one_writer(tmp_path: Path) -> None:
    path, elsewhere = tmp_path / "t.db", tmp_path / "elsewhere"
    elsewhere.mkdir()
    async with opened(tmp_path) as (_, _, log), opened(elsewhere) as (_, _, another):
        async with projecting(another, path) as second:
            await another.append(use(), use())
            async with projecting(log, path) as first:
                await eventually(lambda: first.problem is not None)
                assert "in use by another process" in str(first.problem)
                with pytest.raises(ReadModelUnavailable, match="in use by another process"):
                    await first.rebuild()
                assert await uses(second, another.newest) == 2 and second.problem is None
            assert await uses(second, await another.append(use())) == 3
        async with projecting(log, path) as first:
            assert await uses(first, await log.append(use())) == 1


async def test_what_a_killed_rebuild_left_goes(tmp_path: Path) -> None:
    left = tmp_path / "t.db.new"
    left.write_bytes(b"half")
    async with opened(tmp_path) as (_, _, log), projecting(log, tmp_path / "t.db") as projector:
        assert await uses(projector, await log.append(use())) == 1
        assert not left.exists()


async def test_a_directory_that_is_removed_comes_back(tmp_path: Path) -> None:
    directory = tmp_path / "projections"
    async with opened(tmp_path) as (_, _, log), projecting(log, directory / "t.db") as projector:
        assert await uses(projector, await log.append(use(), use())) == 2
        shutil.rmtree(directory)
        await eventually((directory / "t.db").exists)
        assert await eventually_uses(projector, await log.append(use())) == 3
        assert (await projector.rebuild()).events == 3
        shutil.rmtree(directory)
        with suppress(ReadModelUnavailable):  # it may come between
            await projector.rebuild()
        assert await eventually_uses(projector, await log.append(use())) == 4
        assert projector.problem is None and (directory / "t.db.lock").exists()


async def test_a_directory_that_becomes_a_file_is_a_problem_until_it_is_one_again(tmp_path: Path) -> None:
    directory = tmp_path / "projections"
    async with opened(tmp_path) as (_, _, log), projecting(log, directory / "t.db") as projector:
        assert await uses(projector, await log.append(use(), use())) == 2
        shutil.rmtree(directory)
        directory.touch()
        await eventually(lambda: projector.problem is not None)
        assert str(directory / "t.db") in str(projector.problem)
        with pytest.raises(ReadModelUnavailable, match=str(directory)):
            await uses(projector, await log.append(use()))
        with pytest.raises(ReadModelUnavailable, match=str(directory)):
            await projector.rebuild()
        directory.unlink()
        await eventually(lambda: projector.problem is None)
        assert await eventually_uses(projector, log.newest) == 3


@pytest.mark.parametrize("kinds", [("wal",), ("shm",), ("wal", "shm")])
async def test_what_sqlite_keeps_beside_a_file_is_missed_when_it_goes(
    tmp_path: Path, kinds: tuple[str, ...]
) -> None:
    path = tmp_path / "t.db"
    async with opened(tmp_path) as (_, _, log), projecting(log, path) as projector:
        assert await uses(projector, await log.append(use(), use())) == 2
        for kind in kinds:
            path.with_name(f"t.db-{kind}").unlink()
        await eventually((tmp_path / "t.damaged-1.db").exists)
        assert await eventually_uses(projector, await log.append(use())) == 3
        assert projector.problem is None
        with closing(sqlite3.connect(path)) as db:  # as readers of the file see it
            assert db.execute("SELECT sum(uses) FROM tally").fetchone() == (3,)


# --- what stands in a file --------------------------------------------------------------------------------


class Reading(Tallies):
    """Its fold reads what it wrote before."""

    poison = ""

    async def fold(self, db: aiosqlite.Connection, events: Sequence[Recorded]) -> None:
        for (kind,) in await db.execute_fetchall("SELECT kind FROM use"):
            msgspec.json.decode(kind)
        if any(getattr(event.data, "usage_type", "") == self.poison for event in events):
            raise ValueError("this cannot be folded")
        await super().fold(db, events)


@pytest.mark.parametrize("value", ["CAST(x'ff' AS TEXT)", "'no JSON'", "x'ff'"])
async def test_a_value_that_the_fold_cannot_read_has_it_folded_anew(tmp_path: Path, value: str) -> None:
    path = tmp_path / "t.db"
    async with opened(tmp_path) as (_, _, log):
        async with projecting(log, path, Reading()) as projector:
            assert await uses(projector, await log.append(use(kind="1"))) == 1
        changed(path, f"UPDATE use SET kind = {value}")
        async with projecting(log, path, Reading()) as projector:
            assert await eventually_uses(projector, await log.append(use(kind="1"))) == 2
            assert (tmp_path / "t.damaged-1.db").exists() and projector.problem is None


@pytest.mark.parametrize("value", ["CAST(x'ff' AS TEXT)", "'no JSON'"])
async def test_a_value_that_a_query_cannot_read_has_it_folded_anew(tmp_path: Path, value: str) -> None:
    path = tmp_path / "t.db"
    async with opened(tmp_path) as (_, _, log), projecting(log, path) as projector:
        last = await log.append(use(kind="1"))
        assert await uses(projector, last) == 1
        changed(path, f"UPDATE use SET kind = {value}")

        async def ask() -> None:
            async with projector.reading(last) as db:
                for (kind,) in await db.execute_fetchall("SELECT kind FROM use"):
                    assert msgspec.json.decode(kind) == 1

        with pytest.raises(ReadModelUnavailable, match="try again"):
            await ask()
        await eventually((tmp_path / "t.damaged-1.db").exists)
        await eventually_uses(projector, last)
        await ask()


async def test_an_event_that_cannot_be_folded_is_a_problem(tmp_path: Path) -> None:
    projection = Reading()
    projection.poison = "666"
    async with opened(tmp_path) as (_, _, log), projecting(log, tmp_path / "t.db", projection) as projector:
        assert await uses(projector, await log.append(use(kind="1"))) == 1
        last = await log.append(use(kind="666"))
        await eventually(lambda: projector.problem is not None)
        assert "this cannot be folded" in str(projector.problem)
        assert await uses(projector, own_seq=last) <= 1
        projection.poison = ""
        await eventually(lambda: projector.problem is None)
        assert await uses(projector, last) == 2
        assert not (tmp_path / "t.damaged-2.db").exists()


async def test_events_that_were_not_known_come_in_once_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "t.db"
    async with opened(tmp_path) as (_, _, log):
        last = await log.append(use(), use())
        with monkeypatch.context() as older:
            older.delitem(REGISTRY, UsageRecorded.type)
            async with projecting(log, path) as projector:
                assert await uses(projector, last) == 0
        async with projecting(log, path) as projector:
            assert await uses(projector, last) == 2


# --- without a log ----------------------------------------------------------------------------------------


async def test_a_stream_that_is_gone_is_a_problem_until_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower, "GONE_SECONDS", 0.1)
    monkeypatch.setattr(reader, "PATIENCE_SECONDS", 0.1)
    async with (
        opened(tmp_path) as (_, connection, log),
        projecting(log, tmp_path / "t.db") as projector,
    ):
        assert await uses(projector, await log.append(use(), use(), use())) == 3
        await connection.request(f"$JS.API.STREAM.DELETE.{Subjects().stream}", b"", timeout=5)
        await eventually(lambda: projector.problem is not None)
        assert await uses(projector, own_seq=log.newest) == 3
        async with logging(connection) as another:
            last = await another.append(use())
            await eventually(lambda: projector.problem is None)
            assert await uses(projector, last) == 1
            (other,) = kept(tmp_path / "t.db", "other-log")
            with closing(sqlite3.connect(other)) as db:  # the only history that is left
                assert db.execute("SELECT sum(uses) FROM tally").fetchone() == (3,)


async def test_a_file_of_an_older_version_is_replaced_unless_the_log_has_less(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "t.db"
    async with opened(tmp_path) as (_, _, log):
        last = await log.append(*[use() for _ in range(10)])
        for version, missed in ((1, 0), (2, 0), (3, 5)):
            monkeypatch.setattr(Tallies, "version", version)
            if missed:  # as if the log had lost some
                changed(path, f"UPDATE suite_ledger SET events = events + {missed}")
            async with projecting(log, path) as projector:
                assert await uses(projector, last) == 10
                assert len(kept(path, "lost-events")) == (missed > 0) == (projector.loss is not None)


async def test_a_log_that_has_lost_its_end_costs_no_file(tmp_path: Path) -> None:
    path = tmp_path / "t.db"
    async with opened(tmp_path) as (_, _, log):
        last = await log.append(use(), use())
        async with projecting(log, path) as projector:
            assert await uses(projector, last) == 2
        changed(path, "UPDATE suite_checkpoint SET seq = seq + 100")
        async with projecting(log, path) as projector:
            assert await uses(projector, last) == 2
            assert "ends at event 2" in str(projector.loss)
            assert len(kept(path, "lost-events")) == 1


async def test_a_rebuild_does_not_end_with_less_than_there_is(tmp_path: Path) -> None:
    path = tmp_path / "t.db"
    async with opened(tmp_path) as (_, _, log), projecting(log, path) as projector:
        last = await log.append(*[use() for _ in range(10)])
        assert await uses(projector, last) == 10
        changed(path, "UPDATE suite_ledger SET events = 12")  # as if the log had lost two
        with pytest.raises(RebuildWouldLose, match=r"has 12 events .* lost 2 of them"):
            await projector.rebuild()
        assert await uses(projector, last) == 10 and not kept(path, "lost-events")
        assert (await projector.rebuild(force=True)).events == 10
        assert len(kept(path, "lost-events")) == 1
        await projector.rebuild()
        assert len(kept(path, "lost-events")) == 1


async def test_a_server_that_does_not_answer_is_a_problem_until_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(projector_module, "TROUBLE_SECONDS", 0.1)
    async with opened(tmp_path) as (server, _, log), projecting(log, tmp_path / "t.db") as projector:
        assert await uses(projector, await log.append(use())) == 1
        os.kill(server.pid, signal.SIGSTOP)
        try:
            with monkeypatch.context() as impatient:
                impatient.setattr(consumer, "SILENCE_SECONDS", 0.1)
                await eventually(lambda: projector.problem is not None)
            assert await uses(projector) == 1
        finally:
            os.kill(server.pid, signal.SIGCONT)
        await eventually(lambda: projector.problem is None)
        assert await uses(projector, await log.append(use())) == 2


# --- at any moment ----------------------------------------------------------------------------------------


async def test_a_query_that_is_given_up_leaves_no_transaction() -> None:
    async with read_model(EvaluationProjection()) as db:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await compare_models(db, CompareModelsRequest())
        assert (await compare_models(db, CompareModelsRequest())).models == ()


async def test_an_expiry_that_is_given_up_leaves_no_transaction(tmp_path: Path) -> None:
    async with ProjectionFile.open(tmp_path / "t.db", Tallies(), "stream") as file:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await file.expire(utc_now())
        await file.expire(utc_now())
