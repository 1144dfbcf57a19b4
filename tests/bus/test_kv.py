"""A lease is there while it is put again and again, and its end is told to who watches."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from suite.bus.connection import Connection
from suite.bus.kv import Leases
from suite.errors import ServerUnsuitable
from support.nats import restart_nats, running_nats

Watch = AsyncGenerator[tuple[str, bytes | None], None]


@asynccontextmanager
async def leases_of(connection: Connection, ttl_seconds: float = 60.0) -> AsyncIterator[tuple[Leases, Watch]]:
    leases = await Leases.open(connection, "SUITE_NODES", ttl_seconds)
    async with aclosing(leases.watch()) as watch:
        yield leases, watch


async def test_what_is_there_comes_first_and_then_each_change(tmp_path: Path) -> None:
    async with running_nats(tmp_path) as (_, connection), leases_of(connection) as (leases, watch):
        await leases.put("box 1.local", b"one")
        assert await anext(watch) == ("box 1.local", b"one")
        await leases.put("box2", b"two")
        assert await anext(watch) == ("box2", b"two")
        await leases.put("box 1.local", b"again")
        assert await anext(watch) == ("box 1.local", b"again")
        await leases.delete("box2")
        assert await anext(watch) == ("box2", None)


async def test_only_the_newest_value_of_each_is_there(tmp_path: Path) -> None:
    async with running_nats(tmp_path) as (_, connection), leases_of(connection) as (leases, watch):
        for value in (b"1", b"2", b"3"):
            await leases.put("box1", value)
        await leases.put("box2", b"x")
        await leases.delete("box2")
        await leases.put("box3", b"y")
        assert [await anext(watch), await anext(watch)] == [("box1", b"3"), ("box3", b"y")]


async def test_what_others_put_into_the_bucket_stops_no_watch(tmp_path: Path) -> None:
    async with running_nats(tmp_path) as (_, connection), leases_of(connection) as (leases, watch):
        heartbeat = {"Status": "100", "Nats-Last-Consumer": "many"}
        await connection.request("$KV.SUITE_NODES.%ff", b"x", timeout=5)
        await connection.request("$KV.SUITE_NODES.box1", b"one", headers=heartbeat, timeout=5)
        assert await anext(watch) == ("box1", b"one")
        await connection.request("$KV.SUITE_NODES.%ff", b"x", headers=heartbeat, timeout=5)
        await leases.put("box2", b"two")
        assert await anext(watch) == ("box2", b"two")


async def test_a_lease_that_is_not_put_again_expires(tmp_path: Path) -> None:
    async with running_nats(tmp_path) as (_, connection), leases_of(connection, 1.0) as (leases, watch):
        await leases.put("lost", b"x")
        assert await anext(watch) == ("lost", b"x")
        told: list[tuple[str, bytes | None]] = []

        async def keep() -> None:
            while True:
                await leases.put("kept", b"x")
                await anyio.sleep(0.2)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(keep)
            with anyio.fail_after(20):
                while ("lost", None) not in told:
                    told.append(await anext(watch))
            tasks.cancel_scope.cancel()
        assert ("kept", None) not in told


async def test_a_watch_tells_after_a_restart_what_it_missed(tmp_path: Path) -> None:
    async with running_nats(tmp_path) as (server, connection), leases_of(connection) as (leases, watch):
        await leases.put("gone", b"x")
        await leases.put("kept", b"x")
        assert {await anext(watch), await anext(watch)} == {("gone", b"x"), ("kept", b"x")}
        await restart_nats(server, connection)
        await leases.delete("gone")
        await leases.put("new", b"x")
        told: list[tuple[str, bytes | None]] = []
        with anyio.fail_after(20):
            while ("new", b"x") not in told or ("gone", None) not in told:
                told.append(await anext(watch))
        assert ("kept", None) not in told


async def test_one_at_a_time_takes_a_lease_until_it_is_deleted_or_expires(tmp_path: Path) -> None:
    async with running_nats(tmp_path) as (_, connection):
        one, other = [await Leases.open(connection, "SUITE_PREDICTOR", 1.0) for _ in range(2)]
        taken: list[str] = []

        async def take(leases: Leases, name: str) -> None:
            if await leases.take("predictor", name.encode()):
                taken.append(name)

        async with anyio.create_task_group() as tasks:
            for number in range(4):
                tasks.start_soon(take, one if number % 2 else other, f"node {number}")
        [holder] = taken
        assert await one.take("predictor", holder.encode())  # it renews it
        assert not await one.take("predictor", b"another")
        await other.delete("predictor")
        assert await one.take("predictor", b"of a node that dies now")
        with anyio.fail_after(20):
            while not await other.take("predictor", b"another"):
                await anyio.sleep(0.1)


async def api(connection: Connection, what: str, body: object) -> dict[str, Any]:
    answer = await connection.request(f"$JS.API.{what}", json.dumps(body).encode(), timeout=5)
    reply: dict[str, Any] = json.loads(answer.data)
    assert "error" not in reply, reply
    return reply


async def test_a_bucket_that_was_edited_is_taken_where_that_is_harmless_and_never_changed(
    tmp_path: Path,
) -> None:
    async with running_nats(tmp_path) as (_, connection):
        async with leases_of(connection):
            pass
        config = (await api(connection, "STREAM.INFO.KV_SUITE_NODES", {}))["config"]
        edited = config | {
            "description": "leases of the suite",
            "max_msgs_per_subject": 5,
            "compression": "s2",
        }
        before = (await api(connection, "STREAM.UPDATE.KV_SUITE_NODES", edited))["config"]
        async with leases_of(connection) as (leases, watch):
            await leases.put("box1", b"x")
            assert await anext(watch) == ("box1", b"x")
        assert (await api(connection, "STREAM.INFO.KV_SUITE_NODES", {}))["config"] == before
        for changes in (
            {"max_age": 0, "subject_delete_marker_ttl": 0},
            {"max_msg_size": 10},
            {"max_bytes": 9},
        ):
            await api(connection, "STREAM.UPDATE.KV_SUITE_NODES", before | changes)
            with pytest.raises(ServerUnsuitable, match=f"{next(iter(changes))} is .* and must be"):
                await Leases.open(connection, "SUITE_NODES", 60.0)
