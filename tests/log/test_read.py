"""Reading: from anywhere, all of it, in order, each once, whatever happens to the connection."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

import anyio
import pytest

from suite.bus.connection import Connection
from suite.log import Log
from suite.messages.envelope import Recorded
from support.faults import KillableServer, LossyWire
from support.journal import SUBJECTS, generated, open_log, removed


async def fill(log: Log, count: int) -> None:
    for first in range(0, count, 500):
        await log.append(*[generated(str(number)) for number in range(first, min(first + 500, count))])


async def consumers(connection: Connection) -> int:
    answer = await connection.request("$JS.API.CONSUMER.NAMES.SUITE", timeout=5)
    return int(json.loads(answer.data)["total"])


async def seqs(events: AsyncGenerator[Recorded, None]) -> list[int]:
    return [event.seq async for event in events]


async def test_it_reads_after_a_sequence_and_under_a_filter(tmp_path: Path) -> None:
    async with KillableServer.start(tmp_path) as server, open_log(server.access) as (connection, log):
        assert await seqs(log.read()) == []
        await log.append(generated("a"), removed("b"), generated("c", model_id="other"), removed("d"))
        assert await seqs(log.read()) == [1, 2, 3, 4]
        assert await seqs(log.read(after=2)) == [3, 4]
        assert await seqs(log.read(after=4)) == []
        assert await seqs(log.read(after=99)) == []
        assert await seqs(log.read("suite.event.usage.>")) == [1, 3]
        assert await seqs(log.read("suite.event.usage.*.generated", after=1)) == [3]
        assert await seqs(log.read("suite.event.node.>")) == []
        assert await seqs(log.read(last_per_subject=True)) == [1, 3, 4]
        assert await seqs(log.read(SUBJECTS.aggregate("model", "m"), last_per_subject=True)) == [4]
        assert await seqs(log.read(after=3, last_per_subject=True)) == [4]
        assert await consumers(connection) == 0


async def test_more_than_any_buffer_comes_in_order(tmp_path: Path) -> None:
    async with KillableServer.start(tmp_path) as server, open_log(server.access) as (_, log):
        await fill(log, 3000)
        assert await seqs(log.read()) == list(range(1, 3001))


async def test_the_end_is_the_end_as_it_was_when_reading_began(tmp_path: Path) -> None:
    async with KillableServer.start(tmp_path) as server, open_log(server.access) as (_, log):
        await fill(log, 10)
        read = []
        async with aclosing(log.read()) as events:
            async for event in events:
                read.append(event.seq)
                await log.append(generated("later"))
        assert read == list(range(1, 11))


async def test_following_goes_on_and_closing_it_removes_the_consumer(tmp_path: Path) -> None:
    async with KillableServer.start(tmp_path) as server, open_log(server.access) as (connection, log):
        await fill(log, 3)
        async with aclosing(log.read(follow=True, after=1)) as events:
            assert [(await anext(events)).seq for _ in range(2)] == [2, 3]
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(log.append, generated("new"))
                assert (await anext(events)).seq == 4
            assert await consumers(connection) == 1
        assert await consumers(connection) == 0


async def test_following_the_newest_of_each_subject_then_gives_everything(tmp_path: Path) -> None:
    async with KillableServer.start(tmp_path) as server, open_log(server.access) as (_, log):
        await log.append(removed("a"), removed("b"), generated("c"))
        async with aclosing(log.read(follow=True, last_per_subject=True)) as events:
            assert [(await anext(events)).seq for _ in range(2)] == [2, 3]
            await log.append(removed("d"), removed("e"))
            assert [(await anext(events)).seq for _ in range(2)] == [4, 5]
            await server.kill()
            await server.up()
            await log.append(removed("f"), removed("g"))
            assert [(await anext(events)).seq for _ in range(2)] == [6, 7]


@pytest.mark.parametrize("lost", ["connection", "answers", "answers and connection"])
async def test_what_is_lost_on_the_way_is_read_again(lost: str, tmp_path: Path) -> None:
    logging.getLogger("suite.bus").setLevel(logging.CRITICAL)
    count = 4000
    async with (
        KillableServer.start(tmp_path) as server,
        LossyWire.open(server.port) as wire,
        open_log(server.access) as (_, writer),
        open_log(wire.access) as (_, log),
    ):
        await fill(writer, count)
        read = []
        async with aclosing(log.read()) as events:
            async for event in events:
                read.append(event.seq)
                if event.seq in (700, 2100):
                    wire.deaf = lost.startswith("answers")
                    await anyio.sleep(0.02)
                    if lost.endswith("connection"):
                        wire.cut()
                    wire.deaf = False
        assert read == list(range(1, count + 1))


async def test_a_lost_end_is_noticed_although_nothing_comes_after_it(tmp_path: Path) -> None:
    logging.getLogger("suite.bus").setLevel(logging.CRITICAL)
    async with (
        KillableServer.start(tmp_path) as server,
        LossyWire.open(server.port) as wire,
        open_log(server.access) as (_, writer),
        open_log(wire.access) as (_, log),
    ):
        async with aclosing(log.read(follow=True)) as events:
            await writer.append(generated("a"))
            assert (await anext(events)).seq == 1
            wire.deaf = True
            await writer.append(generated("b"), generated("c"))
            await anyio.sleep(0.1)
            wire.cut()
            with anyio.fail_after(10):
                assert [(await anext(events)).seq for _ in range(2)] == [2, 3]


async def test_a_consumer_that_the_server_removed_is_made_again(tmp_path: Path) -> None:
    async with KillableServer.start(tmp_path) as server, open_log(server.access) as (connection, log):
        await fill(log, 2)
        async with aclosing(log.read(follow=True)) as events:
            assert [(await anext(events)).seq for _ in range(2)] == [1, 2]
            names = json.loads((await connection.request("$JS.API.CONSUMER.NAMES.SUITE", timeout=5)).data)
            await connection.request(f"$JS.API.CONSUMER.DELETE.SUITE.{names['consumers'][0]}", timeout=5)
            await log.append(generated("after"))
            with anyio.fail_after(10):
                assert (await anext(events)).seq == 3


async def test_what_is_no_event_is_passed_over_and_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with KillableServer.start(tmp_path) as server, open_log(server.access) as (connection, log):
        await log.append(generated("a"))
        await connection.request("suite.event.usage.m.generated", b"no event", timeout=5)
        await connection.request(
            "suite.event.usage.m.generated",
            b"{}",
            headers={"ce-id": "x", "ce-source": "s", "ce-type": "suite.usage.generated.v1", "ce-time": "t"},
            timeout=5,
        )
        await log.append(generated("b"))
        assert await seqs(log.read()) == [1, 4]
        told = [line for line in caplog.messages if "is no event of the suite" in line]
        assert len(told) == 1  # where the first one is; a thousand of them are no thousand lines
        assert told[0].startswith("message 2 on suite.event.usage.m.generated")


async def test_the_newest_event_of_an_aggregate_is_seen_at_once(tmp_path: Path) -> None:
    async with KillableServer.start(tmp_path) as server, open_log(server.access) as (_, log):
        assert await log.last(SUBJECTS.aggregate("model", "m")) is None
        for number in range(20):
            seq = await log.append(removed(str(number)))
            newest = await log.last(SUBJECTS.aggregate("model", "m"))
            assert isinstance(newest, Recorded)
            assert (newest.seq, newest.data) == (seq, removed(str(number)))
