"""Objects are in the store whole or not at all, and leave nothing when they are deleted."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import msgspec
import pytest

from suite.bus.bucket import STORE_POLICY, Bucket, store_breaker
from suite.bus.connection import Connection, Message
from suite.bus.credentials import Credentials
from suite.bus.embedded import EmbeddedServer
from suite.bus.object_store import CHUNK_BYTES, ObjectStore, Storage
from suite.errors import AccessDenied, ServerUnsuitable, StoreFull, Unavailable
from suite.identity import new_id
from support.cluster import nats_cluster, stream_info
from support.faults import KillableServer
from support.nats import PATIENCE_SECONDS, running_nats

BUCKET = "SUITE_TEST"
MAX_BYTES = 4 << 20
STORAGES: tuple[Storage, ...] = ("file", "memory")


@asynccontextmanager
async def store_of(directory: Path) -> AsyncIterator[tuple[ObjectStore, Connection]]:
    async with running_nats(directory) as (_, connection):
        yield await opened(connection), connection


async def opened(connection: Connection) -> ObjectStore:
    return await ObjectStore.open(connection, BUCKET, ttl_seconds=60, max_bytes=MAX_BYTES, new_id=new_id)


async def messages(connection: Connection) -> int:
    answer = await connection.request(f"$JS.API.STREAM.INFO.OBJ_{BUCKET}", timeout=5)
    count: int = msgspec.json.decode(answer.data)["state"]["messages"]
    return count


async def test_an_object_comes_back_as_it_was_put_and_leaves_nothing(tmp_path: Path) -> None:
    async with store_of(tmp_path) as (store, connection):
        for size in (0, 1, CHUNK_BYTES, 2 * CHUNK_BYTES + 7):
            data = os.urandom(size)
            await store.put("a part", data)
            assert await (await opened(connection)).get("a part") == data
        assert await messages(connection) == 4  # those before were replaced
        assert (await store.get("another"), await store.info("another")) == (None, None)
        await store.delete("a part")
        await store.delete("another")
        assert await store.get("a part") is None
        assert await messages(connection) == 0


async def test_what_is_not_whole_or_damaged_is_not_there(tmp_path: Path) -> None:
    async with store_of(tmp_path) as (store, connection):
        for spoil in ("purged", "more"):
            await store.put("part", os.urandom(2 * CHUNK_BYTES))
            info = await store.info("part")
            assert info is not None
            chunks = f"$O.{BUCKET}.C.{info.nuid}"
            if spoil == "purged":
                body = msgspec.json.encode({"filter": chunks, "keep": 1})
                await connection.request(f"$JS.API.STREAM.PURGE.OBJ_{BUCKET}", body, timeout=5)
            else:
                await connection.request(chunks, b"more", timeout=5)
            assert await store.get("part") is None


async def test_a_full_store_says_so_and_keeps_no_half_of_an_object(tmp_path: Path) -> None:
    async with store_of(tmp_path) as (store, connection):
        await store.put("first", bytes(MAX_BYTES // 2))
        before = await messages(connection)
        with pytest.raises(StoreFull, match="wait until other transfers have ended"):
            await store.put("second", bytes(MAX_BYTES))
        assert await messages(connection) == before
        await store.delete("first")
        await store.put("second", bytes(MAX_BYTES // 2))
        assert await store.get("second") == bytes(MAX_BYTES // 2)


async def test_a_bucket_that_cannot_hold_objects_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    async with running_nats(tmp_path) as (_, connection):
        other = {"name": f"OBJ_{BUCKET}", "subjects": ["somewhere.else"]}
        await connection.request(f"$JS.API.STREAM.CREATE.OBJ_{BUCKET}", msgspec.json.encode(other), timeout=5)
        with pytest.raises(ServerUnsuitable, match="cannot hold objects"):
            await opened(connection)


async def test_only_nodes_reach_what_travels(tmp_path: Path) -> None:
    async with EmbeddedServer.start(tmp_path / "nats", users=Credentials.new().listed()) as server:
        for role in ("client", "operator", "consumer"):
            async with Connection.open(server.access_of(role), name=role) as connection:
                for subject in (f"$O.{BUCKET}.C.1", f"$JS.API.DIRECT.GET.OBJ_{BUCKET}"):
                    with pytest.raises(AccessDenied):
                        await connection.request(subject, timeout=5)
                with pytest.raises(AccessDenied):
                    await connection.subscribe("$O.>", nobody)


async def nobody(_: Message) -> None:
    raise AssertionError


async def test_in_a_cluster_a_server_that_is_away_stops_nothing(tmp_path: Path) -> None:
    data = os.urandom(2 * CHUNK_BYTES)
    async with (
        nats_cluster(tmp_path) as cluster,
        Connection.open(cluster.servers["n1"].access, name="test") as connection,
    ):
        buckets = [
            Bucket(
                connection,
                f"SUITE_{storage}",
                ttl_seconds=60,
                max_bytes=MAX_BYTES,
                storage=storage,
                replicas=3,
                new_id=new_id,
                breaker=store_breaker(f"SUITE_{storage}", node="box1", clock=time.monotonic),
            )
            for storage in STORAGES
        ]
        for bucket, storage in zip(buckets, STORAGES, strict=True):
            async with bucket.opened() as store:
                await store.put("part", data)
                assert await store.get("part") == data
            info = await stream_info(connection, f"OBJ_SUITE_{storage}")
            assert info is not None and info.config["num_replicas"] == 3
        leader = await cluster.leader(connection, f"OBJ_SUITE_{STORAGES[0]}")
        away = leader if leader != "n1" else "n2"
        cluster.freeze(away)
        try:
            assert [await patiently(bucket, "part") for bucket in buckets] == [data, data]
        finally:
            cluster.thaw(away)


async def patiently(bucket: Bucket, name: str) -> bytes | None:
    """An object, as soon as another server leads."""
    with anyio.fail_after(PATIENCE_SECONDS):
        while True:
            try:
                async with bucket.opened() as store:
                    return await store.get(name)
            except Unavailable:
                await anyio.sleep(0.1)


async def test_a_store_that_is_away_is_left_alone_after_some_failures(tmp_path: Path) -> None:
    now = 0.0
    async with (
        KillableServer.start(tmp_path) as server,
        Connection.open(server.access, name="test") as connection,
    ):
        breaker = store_breaker(BUCKET, node="box1", clock=lambda: now)
        bucket = Bucket(
            connection,
            BUCKET,
            ttl_seconds=60,
            max_bytes=MAX_BYTES,
            storage="memory",
            replicas=1,
            new_id=new_id,
            breaker=breaker,
        )
        await server.kill()
        for _ in range(STORE_POLICY.failures):
            with pytest.raises(Unavailable):
                async with bucket.opened():
                    pass
        assert not breaker.is_closed
        await server.up()
        await connection.wait_connected(PATIENCE_SECONDS)
        with pytest.raises(Unavailable, match=f"object store {BUCKET} is left alone"):
            async with bucket.opened():
                pass
        now += STORE_POLICY.first_pause_seconds
        async with bucket.opened() as store:
            await store.put("part", b"data")
        assert breaker.is_closed
