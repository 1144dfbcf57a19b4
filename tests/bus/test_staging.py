"""Batches are staged in memory, again after each restart of the server, and nothing of it stays behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from suite.bus import staging, store
from suite.bus.connection import Connection
from suite.bus.embedded import EmbeddedServer
from suite.identity import new_id, utc_now
from suite.log import Log
from suite.messages.events import NodeStopped
from suite.messages.subjects import Subjects
from support.nats import eventually, restart_nats, running_nats

pytestmark = pytest.mark.skipif(not staging.MEMORY.is_dir(), reason="there is no /dev/shm on this system")


def batches(directory: Path) -> Path:
    return store.streams(directory / "nats" / "jetstream") / "SUITE" / "batches"


async def append_batch(connection: Connection) -> int:
    async with Log.open(connection, Subjects(), source="/test", new_id=new_id, now=utc_now) as log:
        return await log.append(*(NodeStopped(node="a", epoch=number) for number in range(5)))


async def test_a_batch_goes_through_memory_and_into_the_stream(tmp_path: Path) -> None:
    async with running_nats(tmp_path) as (server, connection):
        assert await append_batch(connection) == 5
        await eventually(lambda: batches(tmp_path).is_symlink())
        memory = batches(tmp_path).readlink()
        assert memory.stat().st_mode & 0o777 == 0o700
        assert await append_batch(connection) == 10
        await restart_nats(server, connection)
        await eventually(lambda: batches(tmp_path).is_symlink())
        assert await append_batch(connection) == 15
    assert not memory.exists()


async def test_without_such_memory_the_server_does_as_it_always_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging, "MEMORY", tmp_path / "nowhere")
    async with running_nats(tmp_path) as (_, connection):
        assert await append_batch(connection) == 5
        assert not batches(tmp_path).is_symlink()


async def test_a_place_in_memory_that_leads_elsewhere_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory, elsewhere = tmp_path / "memory", tmp_path / "elsewhere"
    memory.mkdir()
    elsewhere.mkdir()
    (elsewhere / "kept").write_text("")
    monkeypatch.setattr(staging, "MEMORY", memory)
    place = staging.Staging(tmp_path / "nats" / "jetstream", "SUITE")._memory
    place.symlink_to(elsewhere)
    async with EmbeddedServer.start(tmp_path / "nats") as server:
        async with Connection.open(server.access, name="test") as connection:
            assert await append_batch(connection) == 5
        assert not batches(tmp_path).is_symlink()
    assert (elsewhere / "kept").exists()
