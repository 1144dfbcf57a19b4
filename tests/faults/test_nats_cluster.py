"""The servers of a NATS cluster die, freeze and are restarted under load; then the log is judged.

`SUITE_FAULT_ROUNDS=20` makes so many rounds of each fault, and `SUITE_FAULT_SEED` names the chance.
`SUITE_FAULTS` says which of them; there is `hide_follower` too. A server that is stopped (SIGSTOP) is one
that a cut network hides: nobody hears of it, its connections stay, and it goes on with what it knew before.
"""

from __future__ import annotations

import logging
import os
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import anyio
import pytest

from suite.bus.connection import Connection
from suite.errors import SuiteError, Unavailable, UnknownOutcome
from suite.identity import new_id, utc_now
from suite.log import Expectation, Log
from suite.messages.events import UsageRecorded
from suite.messages.subjects import Subjects
from suite.node.cluster import ClusterWatch
from support.cluster import (
    PATIENCE_SECONDS,
    NatsCluster,
    lead,
    nats_cluster,
    nats_cluster_with_cable,
    stream_info,
)
from support.nats import eventually

logger = logging.getLogger("suite.tests")

ROUNDS = int(os.environ.get("SUITE_FAULT_ROUNDS", "1"))
SEED = int(os.environ.get("SUITE_FAULT_SEED", "1"))
FAULTS = os.environ.get("SUITE_FAULTS", "kill hide_most restart").split()

SUBJECTS = Subjects()
WRITERS = 2
"""On each server."""
END_SECONDS = 60.0


def used(model_id: str) -> UsageRecorded:
    return UsageRecorded(model_id=model_id, usage_type="test")


@asynccontextmanager
async def log_on(servers: NatsCluster, name: str, *, settle_seconds: float = 20.0) -> AsyncIterator[Log]:
    """The log, through one of the servers."""
    async with (
        Connection.open(servers.servers[name].access, name=f"test-{name}") as connection,
        Log.open(
            connection,
            SUBJECTS,
            source="/test",
            new_id=new_id,
            now=utc_now,
            replicas=3,
            settle_seconds=settle_seconds,
        ) as log,
    ):
        yield log


class Load:
    """Writers that go on whatever happens, and what they were told."""

    def __init__(self) -> None:
        self.stored: dict[str, int] = {}
        """The sequence that was acknowledged for each event, by its id."""
        self.decisions: dict[str, list[int]] = {}
        """The sequences of the decisions of each aggregate, each of which expected the one before."""
        self.errors: Counter[str] = Counter()
        self.done = anyio.Event()

    async def write(self, log: Log, name: str) -> None:
        """Append events with ids, one after the other."""
        count = 0
        while not self.done.is_set():
            count += 1
            id = f"{name}-{count}"
            try:
                with anyio.fail_after(END_SECONDS):
                    self.stored[id] = await log.append(used("plain"), id=id)
            except SuiteError as error:
                self.errors[error.code] += 1
            await anyio.sleep(0.005)

    async def decide(self, log: Log, name: str) -> None:
        """Append pairs of events, each of which expects the one before to be the last of the aggregate."""
        taken = self.decisions.setdefault(name, [])
        expect = Expectation(subject=SUBJECTS.aggregate("usage", name), last_seq=0)
        while not self.done.is_set():
            try:
                with anyio.fail_after(END_SECONDS):
                    last_seq = await log.append(used(name), used(name), expect=expect)
            except SuiteError as error:
                self.errors[error.code] += 1
                last_seq = await log.last_seq(expect.subject)
            else:
                taken.append(last_seq)
            expect = Expectation(subject=expect.subject, last_seq=last_seq)
            await anyio.sleep(0.005)


async def whole(servers: NatsCluster, log: Log) -> None:
    """Wait until all servers have the whole log again, which is before anything else is broken."""
    with anyio.fail_after(PATIENCE_SECONDS):
        while True:
            info = await stream_info(log._jetstream.connection)
            if (
                info is not None
                and info.cluster.leader
                and sum(each.is_there for each in info.cluster.replicas) == len(servers.servers) - 1
            ):
                return
            await anyio.sleep(0.05)


async def kill(servers: NatsCluster, leader: str, _: random.Random) -> None:
    """The leader of the log, as by a power cut."""
    pid = servers.servers[leader].pid
    servers.kill(leader)
    await eventually(lambda: servers.servers[leader].pid != pid)


async def hide_follower(servers: NatsCluster, leader: str, chance: random.Random) -> None:
    """One that follows: nobody else needs it."""
    await hide(servers, [chance.choice([name for name in servers.servers if name != leader])], chance)


async def hide_most(servers: NatsCluster, leader: str, chance: random.Random) -> None:
    """Two of three: nothing can be agreed on, and the leader may not know that yet."""
    await hide(servers, [name for name in servers.servers if name != leader], chance)


async def hide(servers: NatsCluster, names: list[str], chance: random.Random) -> None:
    for name in names:
        servers.freeze(name)
    await anyio.sleep(chance.uniform(0.5, 4.0))
    for name in names:
        servers.thaw(name)


async def restart(servers: NatsCluster, leader: str, _: random.Random) -> None:
    """All of them one after the other, in order, the leader first, as an upgrade does."""
    names = [leader, *(name for name in servers.servers if name != leader)]
    async with log_on(servers, leader) as log:
        for name in names:
            await servers.servers[name].restart()
            await whole(servers, log)


KINDS: Mapping[str, Callable[[NatsCluster, str, random.Random], Awaitable[None]]] = {
    each.__name__: each for each in (kill, hide_follower, hide_most, restart)
}


async def test_whatever_happens_to_servers_each_event_is_there_once(tmp_path: Path) -> None:
    chance, load = random.Random(SEED), Load()
    async with nats_cluster(tmp_path) as servers, AsyncExitStack() as stack:
        logs = {name: await stack.enter_async_context(log_on(servers, name)) for name in servers.servers}
        first = logs["n1"]
        watch = ClusterWatch(first._jetstream.connection, SUBJECTS, replicas=3, new_id=new_id)
        with anyio.fail_after(PATIENCE_SECONDS):
            while watch.log is None or not watch.log.survives_loss:
                await watch.look()
                await anyio.sleep(0.1)
        async with anyio.create_task_group() as tasks:
            for name, log in logs.items():
                for number in range(WRITERS):
                    tasks.start_soon(load.write, log, f"{name}-{number}")
                tasks.start_soon(load.decide, log, f"decisions-{name}")
            for fault in FAULTS:
                before = len(load.stored)
                for _ in range(ROUNDS):
                    await KINDS[fault](servers, await servers.leader(first._jetstream.connection), chance)
                    await whole(servers, first)
                    await anyio.sleep(chance.uniform(0.0, 0.5))
                logger.info("%s: %d events stored, errors %s", fault, len(load.stored) - before, load.errors)
            load.done.set()
        await judge(first, load)


async def judge(log: Log, load: Load) -> None:
    """What was acknowledged is there, at its place and once, and nobody was refused."""
    events = [event async for event in log.read()]
    numbers = Counter(event.id for event in events)
    assert max(numbers.values()) == 1
    places = {event.id: event.seq for event in events}
    assert {id: places.get(id) for id in load.stored} == load.stored
    for name, taken in load.decisions.items():
        there = [event.seq for event in events if getattr(event.data, "model_id", "") == name]
        assert there == sorted(seq for last in taken for seq in (last - 1, last))
    assert load.errors == Counter()
    logger.info("%d events, %d decisions", len(events), sum(map(len, load.decisions.values())))


async def test_a_server_that_is_cut_off_stores_nothing_and_the_others_go_on(tmp_path: Path) -> None:
    async with nats_cluster_with_cable(tmp_path) as (servers, cable), log_on(servers, "n1") as near:
        connection = near._jetstream.connection
        watch = ClusterWatch(connection, SUBJECTS, replicas=3, new_id=new_id)
        await near.append(used("x"), id="before")
        async with log_on(servers, "n3", settle_seconds=2.0) as far:
            await lead(connection, "n3")
            cable.cut()
            with anyio.fail_after(END_SECONDS), pytest.raises((UnknownOutcome, Unavailable)):
                await far.append(used("x"), id="far")
            assert far.writability.problem is None  # nothing is wrong with a disk
            with anyio.fail_after(END_SECONDS):
                assert await near.append(used("x"), id="near") == 2
            with anyio.fail_after(END_SECONDS):
                while watch.log is None or "n3" not in watch.log.missing:
                    await watch.look()
                    await anyio.sleep(0.1)
            assert watch.problem is not None and "would not survive" in watch.problem
            cable.mend()
            await whole(servers, near)
            await far.append(used("x"), id="far")
            ids = [event.id async for event in far.read()]
            assert ids == ["before", "near", "far"]


async def test_what_is_read_has_all_that_was_acknowledged_also_from_a_server_that_lags(
    tmp_path: Path,
) -> None:
    async with nats_cluster(tmp_path) as servers, log_on(servers, "n1") as any_log:
        leader = await servers.leader(any_log._jetstream.connection)
        lagging = next(name for name in servers.servers if name != leader)
        async with log_on(servers, leader) as log:
            servers.freeze(lagging)
            async with anyio.create_task_group() as tasks:
                for _ in range(2000):
                    tasks.start_soon(log.append, used("many"))
            servers.thaw(lagging)
            async with anyio.create_task_group() as tasks:
                for number in range(40):
                    tasks.start_soon(read_own, log, f"own-{number}")
                    await anyio.sleep(0.005)


async def read_own(log: Log, model_id: str) -> None:
    seq = await log.append(used(model_id))
    assert [each.seq async for each in log.read(SUBJECTS.aggregate("usage", model_id))] == [seq]
