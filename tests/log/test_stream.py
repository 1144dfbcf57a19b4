"""The stream under the log: created as it has to be; one that is there is taken or refused, never changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anyio
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
    config = wanted_config("SUITE", SUBJECTS.events) | changes
    while "error" in (answer := await api(connection, "STREAM.CREATE.SUITE", config)):
        # The server may still be removing the files of the stream that was there before.
        assert answer["error"]["err_code"] == 10049, answer
        await anyio.sleep(0.05)


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
        chosen = {"description": "ours", "compression": "s2", "discard": "old", "max_msg_size": 2**20}
        await existing(bare, **chosen, metadata={"a": "b"}, allow_direct=True, duplicate_window=10**12)
        before = (await api(bare, "STREAM.INFO.SUITE"))["config"]
        async with open_log(server.access) as (_, log):
            assert await log.append(generated("a")) == 1
        assert (await api(bare, "STREAM.INFO.SUITE"))["config"] == before
        assert before.items() >= chosen.items()


HARMFUL: list[dict[str, object]] = [
    {"allow_atomic": False},
    {"allow_msg_ttl": False},
    {"deny_delete": False},
    {"deny_purge": False},
    {"duplicate_window": 10**9},
    {"max_msg_size": 100},
    {"subject_delete_marker_ttl": 10**9, "deny_purge": False, "allow_rollup_hdrs": True},
    {"subjects": ["suite.event.usage.>"]},
    {"storage": "memory"},
    {"max_msgs": 1000},
    {"max_bytes": 10**6},
    {"max_age": 10**12},
    {"retention": "workqueue"},
]


async def test_a_stream_that_would_lose_facts_is_refused_with_the_field_and_left_alone(
    tmp_path: Path,
) -> None:
    async with KillableServer.start(tmp_path) as server, Connection.open(server.access, name="t") as bare:
        for changes in HARMFUL:
            await existing(bare, **changes)
            before = (await api(bare, "STREAM.INFO.SUITE"))["config"]
            with pytest.raises(ServerUnsuitable, match=f"{next(iter(changes))} is .* and must be"):
                async with open_log(server.access):
                    pass
            assert (await api(bare, "STREAM.INFO.SUITE"))["config"] == before
            await api(bare, "STREAM.DELETE.SUITE")


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
