"""`suite backup` of a service that works, and `suite restore` where there is no log."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple
from zipfile import ZipFile

import anyio
import msgspec
import pytest
import pytest_asyncio

import suite
from suite.backup.archive import STREAM, Archive
from suite.backup.restoring import restore, restored
from suite.bus import stream_snapshot
from suite.bus.connection import Connection
from suite.bus.embedded import EmbeddedServer
from suite.bus.jetstream import JetStream, NoAnswer
from suite.client import Client
from suite.data_directory import IDS
from suite.errors import BackupUnusable, LogExists
from suite.identity import new_id, utc_now
from suite.log import Log
from suite.messages.envelope import Recorded
from suite.messages.subjects import Subjects
from support.command import Command
from support.models import tiny_model
from support.nats import running_nats
from support.service import Serving, history, serving

pytestmark = pytest.mark.asyncio(loop_scope="module")

READ_MODELS = ["catalogue", "usage", "evaluation", "errors", "history"]


class Taken(NamedTuple):
    """A backup, the service that it is of, and what that had when it was begun."""

    service: Serving
    file: Path
    report: dict[str, object]
    before: list[Recorded]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def taken(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Taken]:
    """A backup that was taken while events were appended."""
    directory = tmp_path_factory.mktemp("backup")
    models = directory / "models"
    models.mkdir()
    tiny_model(models / "tiny.gguf")
    async with serving(models, directory / "data", "--node", "box1") as service:
        async with suite.connect(data_dir=service.data_dir) as client:
            await something_of_everything(client)
            before = await history(client)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(append_on, client)
                report = await Command(service.data_dir).document("backup", str(directory / "log.backup"))
                tasks.cancel_scope.cancel()
        yield Taken(service, directory / "log.backup", report, before)


async def something_of_everything(client: Client) -> None:
    """Events that all read models have rows of."""
    await client.load_model("tiny")
    async for _ in client.generate("tiny", "a", max_tokens=3):
        pass
    for number in range(50):
        await client.record_usage("tiny", usage_type=f"kind {number % 3}")
        await client.log_performance_metric("agent", "latency_ms", float(number))
    await client.log_model_evaluation("tiny", "cycle 1", trust_score=0.5)
    await client.unload_model("tiny")


async def append_on(client: Client) -> None:
    while True:
        await client.record_usage("tiny", usage_type="meanwhile")


def seen(events: list[Recorded]) -> list[tuple[int, str, str, datetime, object, datetime | None]]:
    """What must be the same of events, the time included at which the server stored them."""
    return [(each.seq, each.id, each.subject, each.time, each.data, each.expires) for each in events]


async def test_a_backup_is_checked_against_the_read_models_of_the_service(taken: Taken) -> None:
    models = taken.report["read_models"]
    assert isinstance(models, list)
    assert [each["name"] for each in models] == READ_MODELS
    assert all(each["compared"] for each in models)
    assert taken.report["last_seq"] >= taken.before[-1].seq  # type: ignore[operator]


async def test_it_is_private_and_has_no_password(taken: Taken) -> None:
    assert taken.file.stat().st_mode & 0o077 == 0
    with ZipFile(taken.file) as archive:
        assert set(archive.namelist()) == {STREAM, IDS, "manifest.json"}
    assert not list(taken.file.parent.glob("*.part"))


async def test_a_restored_directory_serves_what_was_acknowledged_before(taken: Taken, tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    restored = await Command(data_dir).document("restore", str(taken.file))
    assert [each["name"] for each in restored["read_models"]] == READ_MODELS
    assert (data_dir / "ids.json").read_bytes() == (taken.service.data_dir / "ids.json").read_bytes()
    async with serving(taken.file.parent / "models", data_dir, "--node", "box1") as service:
        async with suite.connect(data_dir=data_dir) as client:
            events = await history(client)
            assert seen(events)[: len(taken.before)] == seen(taken.before)
            kept = (await client.usage(group_by=["usage_type"])).usage
            assert {"kind 0", "kind 1", "kind 2"} <= {count.usage_type for count in kept}
        assert "folded anew" not in service.errors.read_text()  # the read models came along
        assert "set aside" not in service.errors.read_text()

    again = await Command(data_dir).refusal("restore", str(taken.file))
    assert again.startswith(f"error log_exists: {data_dir} has a log already")


async def test_a_nats_of_ones_own_takes_it_once(taken: Taken, tmp_path: Path) -> None:
    async with running_nats(tmp_path) as (server, _):
        with pytest.MonkeyPatch.context() as environ:
            access = server.access
            environ.setenv("SUITE_NATS_USER", str(access.user))
            environ.setenv("SUITE_NATS_PASSWORD", str(access.password))
            environ.setenv("SUITE_NATS_INBOX_PREFIX", access.inbox_prefix)
            to = Command(tmp_path / "node")
            assert (await to.output("restore", str(taken.file), "--nats-url", access.url)).startswith(
                "restored "
            )
            refused = await to.refusal("restore", str(taken.file), "--nats-url", access.url)
        assert refused.startswith("error log_exists: ")
        assert "SUITE already" in refused


async def test_each_restore_begins_a_history_of_its_own(taken: Taken, tmp_path: Path) -> None:
    archive = await Archive.open(taken.file)
    identities = set()
    for name in ("one", "other"):
        async with EmbeddedServer.start(tmp_path / name) as server:
            async with Connection.open(server.access, name="test") as connection:
                await restore(connection, archive, new_id=new_id)
                async with opened(connection) as log:
                    identities.add((await log.extent()).created)
    assert len(identities) == 2


async def test_one_that_ends_too_early_or_does_not_fold_leaves_no_log(taken: Taken, tmp_path: Path) -> None:
    archive = await Archive.open(taken.file)
    last_seq = archive.manifest.last_seq + 10_000
    short = Archive(taken.file, msgspec.structs.replace(archive.manifest, last_seq=last_seq))
    async with running_nats(tmp_path) as (_, connection):
        with pytest.raises(BackupUnusable, match=f"not at {last_seq}"):
            await restore(connection, short, new_id=new_id)
        with pytest.raises(ZeroDivisionError):
            async with restored(connection, archive, new_id=new_id):
                raise ZeroDivisionError
        await restore(connection, archive, new_id=new_id)  # there is no log
        with pytest.raises(LogExists):
            await restore(connection, archive, new_id=new_id)
        async with opened(connection) as log:  # who finds one removes nothing
            assert (await log.extent()).last_seq >= archive.manifest.last_seq


async def test_a_restore_whose_last_answer_is_lost_has_succeeded(
    taken: Taken, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hand_over = stream_snapshot._hand_over

    async def lose_the_last(jetstream: JetStream, subject: str, chunk: bytes, seconds: float) -> bytes:
        answer = await hand_over(jetstream, subject, chunk, seconds)
        if not chunk:
            raise NoAnswer("the connection was lost")
        return answer

    monkeypatch.setattr(stream_snapshot, "_hand_over", lose_the_last)
    archive = await Archive.open(taken.file)
    async with running_nats(tmp_path) as (_, connection):
        info = await restore(connection, archive, new_id=new_id)
    assert info.state.last_seq >= archive.manifest.last_seq


def opened(connection: Connection) -> AbstractAsyncContextManager[Log]:
    return Log.open(connection, Subjects(), source="/test", new_id=new_id, now=utc_now, create=False)


@pytest.mark.parametrize("harm", ["cut off", "altered", "empty", "other"])
async def test_what_was_harmed_is_noticed_and_changes_nothing(
    taken: Taken, tmp_path: Path, harm: str
) -> None:
    content = bytearray(taken.file.read_bytes())
    match harm:
        case "cut off":
            del content[-1000:]
        case "altered":
            content[len(content) // 2] ^= 0xFF
        case "empty":
            content.clear()
        case "other":
            content[:] = b"something else"
    harmed = tmp_path / "harmed.backup"
    harmed.write_bytes(content)
    complaint = await Command(tmp_path / "data").refusal("restore", str(harmed))
    assert complaint.startswith(f"error backup_unusable: {harmed} ")
    assert not (tmp_path / "data").exists()


async def test_one_of_a_later_format_says_which_version_can_read_it(taken: Taken, tmp_path: Path) -> None:
    later = tmp_path / "later.backup"
    with ZipFile(taken.file) as archive, ZipFile(later, "w") as changed:
        manifest = archive.read("manifest.json").replace(b'"format": 1', b'"format": 99')
        changed.writestr("manifest.json", manifest)
    with pytest.raises(BackupUnusable, match=r"format 99.* up to 1"):
        await Archive.open(later)


async def test_a_service_whose_read_models_are_wrong_is_told(taken: Taken, tmp_path: Path) -> None:
    with sqlite3.connect(taken.service.data_dir / "projections" / "usage.db") as db:
        (seq,) = db.execute("SELECT max(seq) FROM usage").fetchone()
        db.execute("UPDATE usage SET usage_type = 'never' WHERE seq = ?", (seq,))
    try:
        to = tmp_path / "wrong.backup"
        complaint = await Command(taken.service.data_dir).refusal("backup", str(to))
        assert complaint.startswith("error backup_differs: the service's read models usage (usage)")
        assert files_in(tmp_path) == []
        assert "not checked" in await Command(taken.service.data_dir).output("backup", str(to), "--no-check")
    finally:
        await Command(taken.service.data_dir).output("rebuild", "usage")


async def test_a_file_that_is_there_stays(taken: Taken) -> None:
    before = taken.file.read_bytes()
    complaint = await Command(taken.service.data_dir).refusal("backup", str(taken.file))
    assert complaint.startswith(f"error file_name_taken: {taken.file} is there already")
    assert taken.file.read_bytes() == before


async def test_in_a_directory_it_is_named_by_its_time(taken: Taken, tmp_path: Path) -> None:
    said = await Command(taken.service.data_dir).output("backup", str(tmp_path), "--no-check")
    (file,) = files_in(tmp_path)
    assert file.name.startswith(f"suite-{datetime.now(UTC):%Y}")
    assert said.startswith(f"wrote {file} (")


def files_in(directory: Path) -> list[Path]:
    return list(directory.iterdir())


async def test_another_root_of_subjects_is_refused(taken: Taken, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as environ:
        environ.setenv("SUITE_SUBJECT_ROOT", "fleet")
        done = await Command(tmp_path / "data").run("restore", str(taken.file))
    assert done.stderr.startswith("error invalid_configuration: the backup's subjects begin with suite")
