"""Who reads the log, and how: by its mirror, with the usual clients, within limits."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import nats
import nats.js.errors
import pytest
from faststream.nats import JStream, NatsBroker, PullSub
from nats.aio.client import Client as RawClient

from suite.bus.connection import Connection
from suite.bus.embedded import EmbeddedServer
from suite.bus.jetstream import JetStream, Refused
from suite.errors import AccessDenied, Unavailable
from suite.identity import new_id, utc_now
from suite.log import Log, mirror
from suite.log import reader as log_reader
from suite.log.mirror import keep_mirror
from suite.log.reader import Reader
from suite.messages.actor import NatsAccess
from suite.tasks import background
from support.journal import SUBJECTS, generated, open_log
from support.nats import eventually, restart_nats


@pytest.fixture(autouse=True)
def watchful(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror, "LOOK_SECONDS", 0.1)


@asynccontextmanager
async def mirrored(directory: Path) -> AsyncIterator[tuple[EmbeddedServer, Connection, Log]]:
    """A server with a log and its mirror."""
    async with (
        EmbeddedServer.start(directory / "nats") as server,
        open_log(server.access) as (connection, log),
        background() as tasks,
    ):
        await tasks.start(partial(keep_mirror, connection, server.mirror, SUBJECTS, new_id=new_id))
        yield server, connection, log


@asynccontextmanager
async def reading(access: NatsAccess) -> AsyncIterator[Reader]:
    async with Connection.open(access, name="reader") as connection:
        yield Reader(JetStream(connection, SUBJECTS.stream, new_id=new_id), new_id=new_id, is_mirror=True)


@asynccontextmanager
async def raw(access: NatsAccess) -> AsyncIterator[RawClient]:
    """nats-py as it comes, with its own inbox."""
    client = await nats.connect(access.url, user=access.user, password=access.password)
    try:
        yield client
    finally:
        await client.close()


async def sequences(reader: Reader, *, after: int = 0) -> list[int]:
    events = reader.read(SUBJECTS.events, after=after, follow=False, last_per_subject=False)
    async with aclosing(events):
        return [event.seq async for event in events]


async def test_readers_see_the_log_as_it_is_and_cannot_append(tmp_path: Path) -> None:
    async with mirrored(tmp_path) as (server, _, log), reading(server.consumer) as reader:
        await log.append(generated("a"), generated("b"))
        await reader.reach(2)
        assert await sequences(reader) == [1, 2]
        ours, theirs = await log.last(SUBJECTS.events), await reader.last(SUBJECTS.events)
        assert ours == theirs
        async with Connection.open(server.consumer, name="forger") as connection:
            with pytest.raises(AccessDenied):
                await connection.request("suite.event.usage.m.generated", b"{}", timeout=5)
        async with Connection.open(server.operator, name="operator") as connection:
            for verb in ("INFO", "STREAM.INFO.SUITE", "CONSUMER.NAMES.SUITE"):
                with pytest.raises(AccessDenied):
                    await connection.request(f"$JS.API.{verb}", b"", timeout=5)
        assert [event.seq async for event in log.read()] == [1, 2]


async def test_a_mirror_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_reader, "PATIENCE_SECONDS", 0.1)
    async with EmbeddedServer.start(tmp_path / "nats") as server, reading(server.consumer) as reader:
        with pytest.raises(Unavailable, match="its mirror for readers is not there"):
            await reader.extent()


async def test_the_mirror_comes_back_whatever_becomes_of_it_the_server_or_the_log(tmp_path: Path) -> None:
    async with mirrored(tmp_path) as (server, connection, log), reading(server.consumer) as reader:
        await log.append(*(generated(str(number)) for number in range(10)))
        await reader.reach(10)
        await restart_nats(server, connection)
        assert await log.append(generated("after a power cut")) == 11
        await reader.reach(11)
        async with Connection.open(server.mirror, name="vandal") as vandal:
            copy = JetStream(vandal, SUBJECTS.stream, new_id=new_id)
            await copy.delete()
            await there_again(reader, 11)
            await copy.update((await copy.info()).config | {"description": "edited"})
        assert await sequences(reader) == list(range(1, 12))
        theirs = JetStream(connection, SUBJECTS.stream, new_id=new_id)
        await theirs.delete()
    async with mirrored(tmp_path) as (server, _, log), reading(server.consumer) as reader:
        await log.append(generated("of another log"))
        await there_again(reader, 1)
        assert await sequences(reader) == [1]


async def test_a_reader_waits_for_what_the_mirror_has_not_yet_and_follows_it_into_the_next_one(
    tmp_path: Path,
) -> None:
    async with (
        EmbeddedServer.start(tmp_path / "nats") as server,
        open_log(server.access) as (connection, log),
        reading(server.consumer) as reader,
        background() as tasks,
    ):
        await log.append(generated("a"), generated("b"))
        reached = anyio.Event()

        async def reach() -> None:
            await reader.reach(2)
            reached.set()

        tasks.start_soon(reach)
        await anyio.sleep(0.1)
        assert not reached.is_set(), "there is no mirror yet"
        await tasks.start(partial(keep_mirror, connection, server.mirror, SUBJECTS, new_id=new_id))
        with anyio.fail_after(20):
            await reached.wait()
        assert await sequences(reader) == [1, 2]
        events = reader.read(SUBJECTS.events, after=0, follow=True, last_per_subject=False)
        async with aclosing(events), Connection.open(server.mirror, name="vandal") as vandal:
            assert [(await anext(events)).seq for _ in range(2)] == [1, 2]
            await JetStream(vandal, SUBJECTS.stream, new_id=new_id).delete()
            await log.append(generated("c"))
            with anyio.fail_after(20):
                assert (await anext(events)).seq == 3


async def there_again(reader: Reader, last_seq: int) -> None:
    """Wait until the mirror ends there, which it may not yet or not any more do."""
    with anyio.fail_after(20):
        while True:
            try:
                if (await reader._jetstream.info()).state.last_seq == last_seq:
                    return
            except Refused:
                pass
            await anyio.sleep(0.01)


async def test_what_expires_in_the_log_expires_for_readers(tmp_path: Path) -> None:
    async with (
        mirrored(tmp_path) as (server, connection, log),
        Log.open(
            connection, SUBJECTS, source="/t", new_id=new_id, now=utc_now, retention={"usage": 1}
        ) as expiring,
        reading(server.consumer) as reader,
    ):
        await expiring.append(generated("short"))
        await reader.reach(1)
        with anyio.fail_after(20):
            while (await reader._jetstream.info()).state.messages:
                await anyio.sleep(0.05)
        assert await sequences(reader) == []
        assert await log.append(generated("long")) == 2


async def test_the_usual_clients_read_with_their_own_inbox(tmp_path: Path) -> None:
    """Pull and push of nats-py, and FastStream, as their documentation shows them."""
    async with mirrored(tmp_path) as (server, _, log), reading(server.consumer) as reader:
        await log.append(*(generated(str(number)) for number in range(5)))
        await reader.reach(5)
        async with raw(server.consumer) as client:
            jetstream = client.jetstream()
            pulled = await jetstream.pull_subscribe("suite.event.>", durable="mine", stream="SUITE")
            messages = await pulled.fetch(5, timeout=5)
            for message in messages:
                await message.ack_sync()
            assert [message.metadata.sequence.stream for message in messages] == [1, 2, 3, 4, 5]
            pushed = await jetstream.subscribe("suite.event.>", stream="SUITE", ordered_consumer=True)
            assert (await pushed.next_msg(timeout=5)).metadata.sequence.stream == 1
            assert (await jetstream.get_last_msg("SUITE", "suite.event.>")).seq == 5
            assert (await jetstream.get_msg("SUITE", 2, direct=True)).seq == 2
        assert await by_faststream(server.consumer, 5) == [str(number) for number in range(5)]


async def by_faststream(access: NatsAccess, count: int) -> list[str]:
    got: list[str] = []
    enough = anyio.Event()
    broker = NatsBroker(access.url.replace("://", f"://{access.user}:{access.password}@"), logger=None)
    stream = JStream("SUITE", declare=False)

    @broker.subscriber("suite.event.usage.>", stream=stream, durable="faststream", pull_sub=PullSub())
    async def receive(event: dict[str, Any]) -> None:
        got.append(event["generation_id"])
        if len(got) == count:
            enough.set()

    async with broker:
        await broker.start()
        with anyio.fail_after(20):
            await enough.wait()
    return got


async def test_one_reader_that_wants_too_much_is_refused_and_the_others_go_on(tmp_path: Path) -> None:
    async with (
        mirrored(tmp_path) as (server, _, log),
        reading(server.consumer) as reader,
        raw(server.consumer) as client,
        raw(server.consumer) as greedy,
    ):
        await log.append(generated("before"))
        await reader.reach(1)
        honest = await client.jetstream().pull_subscribe("suite.event.>", durable="honest", stream="SUITE")
        refusals = [refusal for refusal in [await durable(greedy, f"d{n}") for n in range(286)] if refusal]
        assert len(refusals) > 286 - 128
        assert {refusal["description"] for refusal in refusals} == {"maximum consumers limit reached"}
        too_much = await durable(greedy, "honest", max_ack_pending=1_000_000)
        assert too_much is not None
        assert "max ack pending" in too_much["description"]
        await log.append(generated("after"))
        await reader.reach(2)
        messages = await honest.fetch(2, timeout=5)
        assert [message.metadata.sequence.stream for message in messages] == [1, 2]
        for message in messages:
            await message.ack()
        await greedy.publish("$JS.API.INFO", b"x" * 100_000)  # over what a reader may send at once
        await eventually(lambda: not greedy.is_connected)


async def durable(client: RawClient, name: str, **config: object) -> dict[str, Any] | None:
    """Make a durable consumer; the server's error, if it does not."""
    body = {
        "stream_name": "SUITE",
        "config": {"durable_name": name, "ack_policy": "explicit", **config},
    }
    answer = await client.request(
        f"$JS.API.CONSUMER.DURABLE.CREATE.SUITE.{name}", json.dumps(body).encode(), timeout=5
    )
    refusal: dict[str, Any] | None = json.loads(answer.data).get("error")
    return refusal


async def test_a_reader_who_is_put_out_is_told_and_does_not_wait_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("suite.log.reader.PATIENCE_SECONDS", 0.2)
    async with mirrored(tmp_path) as (server, _, log), reading(server.consumer) as reader:
        last = await log.append(generated("a"))
        followed = reader.read("suite.event.>", after=0, follow=True, last_per_subject=False)
        async with aclosing(followed):
            assert (await anext(followed)).seq == last
            await server.admit([user for user in server.users if user.name != "consumer"])
            with anyio.fail_after(20), pytest.raises(AccessDenied, match="user 'consumer'"):
                await anext(followed)
        with anyio.fail_after(20), pytest.raises(AccessDenied, match="user 'consumer'"):
            await reader.extent()
