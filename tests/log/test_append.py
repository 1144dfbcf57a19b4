"""Appending: once, all or nothing, one winner, and nobody's event lost with somebody else."""

from __future__ import annotations

import logging
from pathlib import Path

import anyio
import anyio.lowlevel
import msgspec
import pytest

from suite.errors import Conflict, InvalidRequest, Overloaded, TooLarge, Unavailable
from suite.log import Expectation, Log
from suite.messages.events import Event, Generated
from suite.messages.subjects import escape
from support.faults import KillableServer
from support.journal import SUBJECTS, generated, loaded, open_log, removed, started

MODEL = SUBJECTS.aggregate("model", "m")


async def everything(log: Log) -> list[Event]:
    return [event.data async for event in log.read()]


async def test_an_append_returns_the_sequence_under_which_it_is_read(tmp_path: Path) -> None:
    async with KillableServer.start(tmp_path) as server, open_log(server.access) as (_, log):
        first = await log.append(generated("a"), correlation_id="request 7", causation_id="b\r\nad")
        second = await log.append(generated("b"), generated("c"))
        assert (first, second) == (1, 3)
        read = [event async for event in log.read()]
    assert [(event.seq, event.data) for event in read] == [
        (1, generated("a")),
        (2, generated("b")),
        (3, generated("c")),
    ]
    assert (read[0].correlation_id, read[0].causation_id) == ("request 7", "b\r\nad")
    assert read[0].subject == "suite.event.usage.m.generated"


async def test_an_id_is_stored_once(tmp_path: Path) -> None:
    async with KillableServer.start(tmp_path) as server, open_log(server.access) as (_, log):
        seq = await log.append(generated("a"), id="mine %\n")
        await log.append(generated("b"))
        assert await log.append(generated("a"), id="mine %\n") == seq
        assert await everything(log) == [generated("a"), generated("b")]


async def test_of_two_decisions_on_one_state_one_wins(tmp_path: Path) -> None:
    async with (
        KillableServer.start(tmp_path) as server,
        open_log(server.access) as (_, log),
        open_log(server.access) as (_, other),
    ):
        results: list[int | Conflict] = []

        async def decide(log: Log, name: str) -> None:
            try:
                results.append(await log.append(removed(name), expect=Expectation(subject=MODEL, last_seq=0)))
            except Conflict as conflict:
                results.append(conflict)

        async with anyio.create_task_group() as tasks:
            for number in range(10):
                tasks.start_soon(decide, log if number % 2 else other, str(number))
        assert sorted(type(result).__name__ for result in results) == ["Conflict"] * 9 + ["int"]
        assert len(await everything(log)) == 1


async def test_a_decision_of_several_events_is_stored_whole_or_not_at_all(tmp_path: Path) -> None:
    async with KillableServer.start(tmp_path) as server, open_log(server.access) as (_, log):
        seq = await log.append(removed("a"), removed("b"), expect=Expectation(subject=MODEL, last_seq=0))
        with pytest.raises(Conflict):
            await log.append(removed("c"), removed("d"), expect=Expectation(subject=MODEL, last_seq=1))
        await log.append(removed("e"), removed("f"), expect=Expectation(subject=MODEL, last_seq=seq))
        assert [event.node for event in await everything(log) if hasattr(event, "node")] == list("abef")


async def test_an_older_process_of_a_node_is_fenced_by_a_newer_start(tmp_path: Path) -> None:
    fence = SUBJECTS.event("node", ("box1",), "started")
    async with KillableServer.start(tmp_path) as server, open_log(server.access) as (_, log):
        epoch = await log.append(started(1), expect=Expectation(subject=fence, last_seq=0))
        old = Expectation(subject=fence, last_seq=epoch)
        await log.append(loaded(1), expect=old)
        await log.append(loaded(2), expect=old)
        await log.append(loaded(3), loaded(4), expect=old)
        newer = await log.append(started(2), expect=old)
        with pytest.raises(Conflict):
            await log.append(loaded(5), expect=old)
        with pytest.raises(Conflict):
            await log.append(loaded(6), loaded(7), expect=old)
        await log.append(loaded(8), expect=Expectation(subject=fence, last_seq=newer))
        pids = [event.pid for event in await everything(log) if hasattr(event, "pid")]
    assert pids == [1, 1, 2, 3, 4, 2, 8]


async def test_many_at_once_are_each_stored_once_and_get_their_own_sequence(tmp_path: Path) -> None:
    count = 1500
    async with KillableServer.start(tmp_path) as server, open_log(server.access) as (_, log):
        seqs: dict[str, int] = {}

        async def append(number: int) -> None:
            events = [generated(f"{number}.{part}") for part in range(1 + (number % 7 == 0))]
            seqs[events[-1].generation_id] = await log.append(*events)

        for _ in range(2):  # first singly, while costs are measured, then grouped
            async with anyio.create_task_group() as tasks:
                for number in range(len(seqs), len(seqs) + count // 2):
                    tasks.start_soon(append, number)
        stored = [event async for event in log.read()]
    places = {event.data.generation_id: event.seq for event in stored if isinstance(event.data, Generated)}
    assert len(places) == len(stored)
    assert all(places[name] == seq for name, seq in seqs.items())
    for name, place in places.items():
        whole, part = name.split(".")
        if part == "1":
            assert place == places[f"{whole}.0"] + 1


async def test_one_duplicate_does_not_keep_its_group_out(tmp_path: Path) -> None:
    async with KillableServer.start(tmp_path) as server, open_log(server.access) as (_, log):
        first = await log.append(generated("again"), id="again")
        seqs: list[int] = []

        async def append(id: str | None) -> None:
            seqs.append(await log.append(generated(id or "new"), id=id))

        for _ in range(3):
            async with anyio.create_task_group() as tasks:
                for number in range(200):
                    tasks.start_soon(append, "again" if number in (3, 77) else None)
        events = await everything(log)
    assert seqs.count(first) == 6
    assert len(events) == len(set(seqs)) == 1 + 3 * 198


async def test_a_cancelled_waiter_takes_nobody_with_it(tmp_path: Path) -> None:
    async with KillableServer.start(tmp_path) as server, open_log(server.access) as (_, log):
        done: list[str] = []

        async def append(name: str) -> None:
            await log.append(generated(name))
            done.append(name)

        async with anyio.create_task_group() as tasks:
            for number in range(100):
                tasks.start_soon(append, f"kept {number}")
            async with anyio.create_task_group() as doomed:
                for number in range(100):
                    doomed.start_soon(append, f"given up {number}")
                await anyio.sleep(0.003)
                doomed.cancel_scope.cancel()
        assert await log.append(generated("after")) > 0
        names = [event.data.generation_id async for event in log.read() if isinstance(event.data, Generated)]
    assert set(done) <= set(names)
    assert {f"kept {number}" for number in range(100)} <= set(names)
    assert len(names) == len(set(names))


async def test_leaving_the_log_waits_for_what_is_under_way(tmp_path: Path) -> None:
    async with KillableServer.start(tmp_path) as server:
        async with anyio.create_task_group() as tasks:
            async with open_log(server.access) as (_, log):
                for number in range(50):
                    tasks.start_soon(log.append, generated(str(number)))
                await anyio.lowlevel.checkpoint()
                await anyio.lowlevel.checkpoint()
        with pytest.raises(Unavailable):
            await log.append(generated("too late"))
        async with open_log(server.access) as (_, log):
            assert len(await everything(log)) == 50


async def test_a_full_queue_says_so(tmp_path: Path) -> None:
    async with KillableServer.start(tmp_path) as server, open_log(server.access) as (_, log):
        refused: list[Overloaded] = []

        async def append() -> None:
            try:
                await log.append(*[generated("x")] * 100)
            except Overloaded as error:
                refused.append(error)

        async with anyio.create_task_group() as tasks:
            for _ in range(90):
                tasks.start_soon(append)
        assert len(refused) == 90 - 81
        assert len(await everything(log)) == 81 * 100


async def test_what_cannot_be_stored_is_refused_and_nothing_else_suffers(tmp_path: Path) -> None:
    async with KillableServer.start(tmp_path) as server, open_log(server.access) as (connection, log):
        huge = generated("x" * connection.max_payload)
        with pytest.raises(TooLarge):
            await log.append(huge)
        with pytest.raises(TooLarge):
            await log.append(generated("a"), huge)
        with pytest.raises(InvalidRequest):
            await log.append()
        with pytest.raises(InvalidRequest):
            await log.append(generated("a"), id="")
        with pytest.raises(InvalidRequest):
            await log.append(generated("a", model_id="x" * 300))
        assert connection.is_connected
        fits = connection.max_payload - len(msgspec.json.encode(generated(""))) - 1000
        assert await log.append(generated("x" * fits)) == 1


async def test_with_the_server_away_nothing_is_stored_and_that_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    async with KillableServer.start(tmp_path) as server:
        async with open_log(server.access, settle_seconds=0.5) as (connection, log):
            await server.kill()
            while connection.is_connected:
                await anyio.sleep(0.01)
            with pytest.raises(Unavailable):
                await log.append(generated("a"))
            with pytest.raises(Unavailable):
                await log.append(removed("a"), expect=Expectation(subject=MODEL, last_seq=0))
            await server.up()
            await connection.wait_connected(10)
            assert await everything(log) == []
            assert await log.append(generated("b")) == 1


async def test_an_id_of_dots_and_spaces_stays_one_token(tmp_path: Path) -> None:
    async with KillableServer.start(tmp_path) as server, open_log(server.access) as (_, log):
        await log.append(generated("a", model_id="Llama 3.2 *.>"))
        newest = await log.last(SUBJECTS.aggregate("usage", "Llama 3.2 *.>"))
        assert newest is not None
        assert newest.subject.split(".")[3] == escape("Llama 3.2 *.>")
