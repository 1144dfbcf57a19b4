"""A log from before there were accounts is found again, and of two logs none is chosen silently."""

from __future__ import annotations

from pathlib import Path

import pytest

from suite.bus import store
from suite.bus.connection import Connection
from suite.bus.embedded import EmbeddedServer
from suite.errors import DataDirUnusable
from suite.identity import new_id, utc_now
from suite.log import Log
from suite.messages.actor import NatsAccess
from support.faults import KillableServer
from support.journal import SUBJECTS, generated, open_log


async def log_without_accounts(directory: Path) -> str:
    """The store of an older version, whose server was killed: 20 events. When its stream was made."""
    (directory / "nats").mkdir()
    async with KillableServer.start(directory / "nats") as server, open_log(server.access) as (_, log):
        await log.append(*(generated(str(number)) for number in range(10)))
        for number in range(10):
            await log.append(generated(f"single {number}"))
        created = (await log.extent()).created
        await server.kill()
    (directory / "nats" / "store").rename(directory / "nats" / "jetstream")
    return created


async def log_now(access: NatsAccess) -> tuple[str, list[int]]:
    async with (
        Connection.open(access, name="test") as connection,
        Log.open(connection, SUBJECTS, source="/t", new_id=new_id, now=utc_now) as log,
    ):
        return (await log.extent()).created, [event.seq async for event in log.read()]


async def test_an_older_version_s_log_is_kept(tmp_path: Path) -> None:
    created = await log_without_accounts(tmp_path)
    for _ in range(2):
        async with EmbeddedServer.start(tmp_path / "nats") as server:
            assert await log_now(server.access) == (created, list(range(1, 21)))
    assert not (tmp_path / "nats" / "jetstream" / "jetstream" / "$G").exists()


async def test_two_logs_are_refused_and_both_are_left(tmp_path: Path) -> None:
    directory = tmp_path / "jetstream"
    for account in ("$G", "SUITE"):
        (directory / "jetstream" / account / "streams" / "SUITE").mkdir(parents=True)
    with pytest.raises(DataDirUnusable, match="two logs"):
        store.adopt(directory)
    assert len(list(directory.glob("jetstream/*/streams/SUITE"))) == 2


def test_what_holds_no_stream_is_nothing_to_move(tmp_path: Path) -> None:
    store.adopt(tmp_path / "nowhere")
    (tmp_path / "jetstream" / "$G" / "streams").mkdir(parents=True)
    store.adopt(tmp_path)
    assert not store.streams(tmp_path).exists()
