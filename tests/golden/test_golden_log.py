"""The logs of earlier versions, as backups: each later version restores, reads and folds them.

`WRITE_GOLDEN_LOG=1 pytest tests/golden/test_golden_log.py` writes that of this version, with an event of each
golden file, before it is released. It is never changed afterwards. What its events mean stands beside it, and
changes only as that of golden files does.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

import suite
from suite.backup import archive, taking
from suite.backup.archive import Archive
from suite.backup.restoring import restore
from suite.bus.connection import Connection
from suite.bus.embedded import EmbeddedServer
from suite.bus.jetstream import JetStream, Outgoing
from suite.identity import new_id, utc_now
from suite.log import Log
from suite.log.mirror import keep_mirror
from suite.messages.envelope import Envelope, Recorded
from suite.messages.events import UnknownEvent
from suite.messages.subjects import Subjects
from suite.messages.upcasters import decode_event
from suite.projections.verification import verify
from suite.tasks import background
from suite.version import __version__
from support.command import Command

HERE = Path(__file__).parent
LOGS = sorted((HERE / "logs").glob("*.backup"))
TIME = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


@asynccontextmanager
async def restored(backup: Path, directory: Path) -> AsyncIterator[Log]:
    async with (
        EmbeddedServer.start(directory / "nats") as server,
        Connection.open(server.access, name="test") as connection,
    ):
        await restore(connection, await Archive.open(backup), new_id=new_id)
        async with Log.open(
            connection, Subjects(), source="/test", new_id=new_id, now=utc_now, create=False
        ) as log:
            yield log


def meaning(event: Recorded) -> dict[str, Any]:
    """What an event means today, as JSON."""
    document: dict[str, Any] = json.loads(msgspec.json.encode(event))
    return {
        name: document[name] for name in ("seq", "subject", "id", "source", "time", "data", "expires")
    } | {"newest": event.data.type}


@pytest.mark.parametrize("backup", LOGS, ids=lambda path: path.stem)
async def test_every_event_of_an_earlier_version_is_read_and_folded(backup: Path, tmp_path: Path) -> None:
    expected = json.loads(backup.with_suffix(".json").read_text())
    async with restored(backup, tmp_path) as log:
        events = [event async for event in log.read()]
        assert [meaning(event) for event in events] == expected
        assert not any(isinstance(event.data, UnknownEvent) for event in events)
        folded = await verify(log, tmp_path, {})
    assert all(each.events for each in folded)


@pytest.mark.parametrize("backup", LOGS, ids=lambda path: path.stem)
async def test_the_command_restores_it_for_a_node(backup: Path, tmp_path: Path) -> None:
    copy = tmp_path / backup.name
    shutil.copyfile(backup, copy)
    said = await Command(tmp_path / "data").document("restore", str(copy))
    assert said["version"] == backup.stem
    assert said["last_seq"] == len(json.loads(backup.with_suffix(".json").read_text()))


async def test_there_is_one_of_this_version(tmp_path: Path) -> None:
    to = HERE / "logs" / f"{__version__}.backup"
    if os.environ.get("WRITE_GOLDEN_LOG"):
        to.unlink(missing_ok=True)
        await _write(to, tmp_path)
    assert to in LOGS


async def _write(to: Path, tmp_path: Path) -> None:
    async with EmbeddedServer.start(tmp_path / "nats") as server:
        async with Connection.open(server.access, name="test") as connection, background() as tasks:
            async with Log.open(connection, Subjects(), source="/node/box1", new_id=new_id, now=utc_now):
                await tasks.start(partial(keep_mirror, connection, server.mirror, Subjects(), new_id=new_id))
                await _append_golden(connection)
                access = server.access
                async with suite.connect(access.url, user=access.user, password=access.password) as client:
                    part = await taking.take(client, to, ids=None, now=lambda: TIME)
            tasks.cancel_scope.cancel()
    archive.publish(part, to)
    async with restored(to, tmp_path / "again") as log:
        written = [meaning(event) async for event in log.read()]
    to.with_suffix(".json").write_text(json.dumps(written, indent=1) + "\n")


async def _append_golden(connection: Connection) -> None:
    """Each golden event with its body to the letter; none expires."""
    jetstream = JetStream(connection, Subjects().stream, new_id=new_id)
    for number, path in enumerate(sorted(HERE.glob("*.json"))):
        golden = json.loads(path.read_text())
        event = decode_event(golden["type"], golden["body"].encode())
        envelope = Envelope(
            id=f"01890a5d-ac96-774b-bcce-{number:012}",
            source="/node/box1",
            time=TIME + timedelta(minutes=number),
            data=event,
        )
        headers = {**envelope.headers(), "ce-type": golden["type"]}
        message = Outgoing.build(envelope.subject(Subjects()), golden["body"].encode(), headers)
        await jetstream.publish([message], timeout=10)
