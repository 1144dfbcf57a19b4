"""The stream under the log: created as it has to be, mended where that is possible, refused otherwise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from suite.bus.connection import Connection
from suite.errors import ServerUnsuitable, Unavailable
from suite.identity import new_id, utc_now
from suite.log import Log
from suite.log.stream import wanted_config
from support.faults import KillableServer
from support.journal import SUBJECTS, generated, open_log


async def api(connection: Connection, what: str, body: object = None) -> dict[str, Any]:
    data = b"" if body is None else json.dumps(body).encode()
    answer: dict[str, Any] = json.loads((await connection.request(f"$JS.API.{what}", data, timeout=5)).data)
    return answer


async def existing(connection: Connection, **changes: object) -> None:
    answer = await api(connection, "STREAM.CREATE.SUITE", wanted_config("SUITE", SUBJECTS.events) | changes)
    assert "error" not in answer, answer


async def test_facts_can_neither_be_deleted_nor_expire(tmp_path: Path) -> None:
    async with KillableServer.start(tmp_path) as server, open_log(server.access) as (connection, log):
        seq = await log.append(generated("a"))
        config = (await api(connection, "STREAM.INFO.SUITE"))["config"]
        assert config["allow_atomic"] is config["allow_msg_ttl"] is True
        assert (config["storage"], config["retention"], config["max_age"]) == ("file", "limits", 0)
        assert config["duplicate_window"] == 120 * 10**9
        assert "error" in await api(connection, "STREAM.MSG.DELETE.SUITE", {"seq": seq})
        assert "error" in await api(connection, "STREAM.PURGE.SUITE")


async def test_an_existing_stream_that_fits_is_taken_as_it_is(tmp_path: Path) -> None:
    async with KillableServer.start(tmp_path) as server, Connection.open(server.access, name="t") as bare:
        await existing(bare, description="ours", compression="s2", discard="old")
        async with open_log(server.access) as (_, log):
            assert await log.append(generated("a")) == 1
        config = (await api(bare, "STREAM.INFO.SUITE"))["config"]
        assert (config["description"], config["compression"]) == ("ours", "s2")


async def test_what_an_existing_stream_lacks_is_switched_on(tmp_path: Path) -> None:
    async with KillableServer.start(tmp_path) as server, Connection.open(server.access, name="t") as bare:
        await existing(
            bare,
            allow_atomic=False,
            allow_msg_ttl=False,
            deny_delete=False,
            deny_purge=False,
            duplicate_window=10**9,
        )
        with pytest.raises(ServerUnsuitable, match="allow_atomic"):
            async with Log.open(bare, SUBJECTS, source="/t", new_id=new_id, now=utc_now, create=False):
                pass
        async with open_log(server.access) as (_, log):
            await log.append(generated("a"), generated("b"))
        config = (await api(bare, "STREAM.INFO.SUITE"))["config"]
        assert config["allow_atomic"] is config["deny_delete"] is config["deny_purge"] is True
        assert config["duplicate_window"] == 120 * 10**9


@pytest.mark.parametrize(
    "changes",
    [
        {"subjects": ["suite.event.usage.>"]},
        {"storage": "memory"},
        {"max_msgs": 1000},
        {"max_bytes": 10**6},
        {"max_age": 10**12},
        {"retention": "workqueue"},
    ],
)
async def test_a_stream_that_would_lose_facts_is_refused(changes: dict[str, object], tmp_path: Path) -> None:
    async with KillableServer.start(tmp_path) as server, Connection.open(server.access, name="t") as bare:
        await existing(bare, **changes)
        with pytest.raises(ServerUnsuitable, match=next(iter(changes))):
            async with open_log(server.access):
                pass


async def test_another_stream_on_the_same_subjects_is_said(tmp_path: Path) -> None:
    async with KillableServer.start(tmp_path) as server, Connection.open(server.access, name="t") as bare:
        await api(bare, "STREAM.CREATE.OTHER", {"name": "OTHER", "subjects": ["suite.>"]})
        with pytest.raises(ServerUnsuitable, match="overlap"):
            async with open_log(server.access):
                pass


async def test_an_actor_does_not_create_the_stream(tmp_path: Path) -> None:
    async with KillableServer.start(tmp_path) as server, Connection.open(server.access, name="t") as bare:
        with pytest.raises(ServerUnsuitable, match="start a node"):
            async with Log.open(bare, SUBJECTS, source="/t", new_id=new_id, now=utc_now, create=False):
                pass


async def test_a_server_without_jetstream_is_said(tmp_path: Path) -> None:
    async with KillableServer.start(tmp_path, jetstream=False) as server:
        with pytest.raises((Unavailable, ServerUnsuitable), match="JetStream"):
            async with open_log(server.access, settle_seconds=0.5):
                pass
