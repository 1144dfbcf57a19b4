"""Following the log in batches: everything once, in order, and where it ends."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import msgspec
import pytest

from suite.bus.connection import Connection, Message
from suite.bus.embedded import EmbeddedServer
from suite.bus.jetstream import ConsumerInfo, JetStream
from suite.errors import ServerUnsuitable
from suite.identity import new_id, utc_now
from suite.log import Log
from suite.log.consumer import Consumer
from suite.log.follower import Follower
from suite.messages.events import NodeStopped, UsageRecorded
from suite.messages.subjects import Subjects
from support.nats import restart_nats, running_nats


def usage(number: int) -> UsageRecorded:
    return UsageRecorded(model_id="phi", usage_type=str(number))


@asynccontextmanager
async def opened(directory: Path) -> AsyncIterator[tuple[EmbeddedServer, Connection, Log]]:
    async with (
        running_nats(directory) as (server, connection),
        Log.open(connection, Subjects(), source="/test", new_id=new_id, now=utc_now) as log,
    ):
        yield server, connection, log


async def until(follower: Follower, seq: int) -> list[int]:
    """The sequences that come until all up to `seq` has come."""
    seqs: list[int] = []
    with anyio.fail_after(30):
        while True:
            batch = await follower.next()
            seqs += [event.seq for event in batch.events]
            if batch.seq >= seq:
                return seqs
            follower.settle()


async def test_all_events_come_once_and_in_order(tmp_path: Path) -> None:
    async with opened(tmp_path) as (_, _, log):
        await log.append(*map(usage, range(1000)))
        last = await log.append(*map(usage, range(1000)))
        async with log.follow(["usage"], after=10) as follower:
            assert await until(follower, last) == list(range(11, 2001))


async def test_the_end_is_known_although_the_last_events_are_others(tmp_path: Path) -> None:
    async with opened(tmp_path) as (_, _, log):
        await log.append(usage(1))
        async with log.follow(["usage"], after=0) as follower:
            assert await until(follower, 1) == [1]
            last = await log.append(NodeStopped(node="n", epoch=1))
            assert await until(follower, last) == []
            last = await log.append(usage(2))
            assert await until(follower, last) == [last]


async def test_a_quiet_log_gives_empty_batches(tmp_path: Path) -> None:
    async with opened(tmp_path) as (_, _, log), log.follow(["usage"], after=0) as follower:
        batch = await follower.next()
        assert (list(batch.events), batch.seq, batch.pending) == ([], 0, 0)


async def test_nothing_is_lost_when_the_server_dies_between(tmp_path: Path) -> None:
    async with opened(tmp_path) as (server, connection, log):
        last = await log.append(*map(usage, range(900)))
        async with log.follow(["usage"], after=0) as follower:
            first = await follower.next()
            await restart_nats(server, connection)
            rest = await until(follower, last)
            assert [event.seq for event in first.events] + rest == list(range(1, last + 1))
            last = await log.append(usage(1))
            assert await until(follower, last) == [last]


async def test_many_pulls_need_one_consumer(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="suite.log")
    async with opened(tmp_path) as (_, _, log):
        for _ in range(5):
            last = await log.append(*map(usage, range(1000)))
        async with log.follow(["usage"], after=0) as follower:
            assert await until(follower, last) == list(range(1, 5001))
    assert "new consumer" not in caplog.text


async def test_large_events_come_all_although_few_fit_into_a_pull(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="suite.log")
    async with opened(tmp_path) as (_, _, log):
        for _ in range(30):
            last = await log.append(UsageRecorded(model_id="phi", usage_type="x" * 700_000))
        async with log.follow(["usage"], after=0) as follower:
            assert await until(follower, last) == list(range(1, 31))
    assert "new consumer" not in caplog.text


async def test_what_its_consumer_has_not_heard_of_yet_is_not_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    receive, told, late = Consumer._receive, JetStream.consumer_info, False
    before: list[ConsumerInfo] = []

    async def received(consumer: Consumer, message: Message) -> None:
        if not late:
            await receive(consumer, message)

    async def info(jetstream: JetStream, name: str) -> ConsumerInfo:
        if not late:
            before[:] = [await told(jetstream, name)]
        return before[0]

    monkeypatch.setattr(Consumer, "_receive", received)
    monkeypatch.setattr(JetStream, "consumer_info", info)
    async with opened(tmp_path) as (_, connection, log):
        async with log.follow(["usage", "node"], after=0) as follower:
            assert await until(follower, await log.append(usage(1))) == [1]
            (name,) = await consumers(connection)
            await JetStream(connection, Subjects().stream, new_id=new_id).consumer_info(name)
            late = True
            await log.append(usage(2))
            follower.settle()
            batch = await follower.next()
            assert (list(batch.events), batch.seq) == ([], 1)
            late = False


async def consumers(connection: Connection) -> list[str]:
    answer = await connection.request(f"$JS.API.CONSUMER.NAMES.{Subjects().stream}", b"", timeout=5)
    return list(msgspec.json.decode(answer.data)["consumers"])


async def test_another_stream_of_that_name_is_not_followed_on(tmp_path: Path) -> None:
    async with opened(tmp_path) as (_, connection, log):
        await log.append(*map(usage, range(5)))
        async with log.follow(["usage"], after=0) as follower:
            await until(follower, 5)
            await connection.request(f"$JS.API.STREAM.DELETE.{Subjects().stream}", b"", timeout=5)
            async with Log.open(
                connection, Subjects(), source="/test", new_id=new_id, now=utc_now
            ) as another:
                await another.append(usage(1))
                with pytest.raises(ServerUnsuitable, match="another"), anyio.fail_after(20):
                    while True:
                        await follower.next()
