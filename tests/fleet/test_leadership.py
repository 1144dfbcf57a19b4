"""One node at a time does what only one is to do, and another goes on when it dies."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import anyio

from suite.bus.kv import Leases
from suite.messages.presence import PROTOCOL, NodeState
from suite.node.fleet.leadership import CANDIDATES, Leadership
from suite.node.fleet.peers import Peers
from suite.node.membership import LEASE_SECONDS
from support.nats import running_nats

NAMES = [f"box{number}" for number in range(CANDIDATES + 1)]
SECONDS = 20.0


@asynccontextmanager
async def leaderships(
    directory: Path, names: list[str], others: Sequence[str] = ()
) -> AsyncIterator[dict[str, Leadership]]:
    """Of nodes that know each other, and others that do not stand for it. Nothing runs yet."""
    async with running_nats(directory) as (_, connection):
        leases = partial(Leases.open, connection, "SUITE_PREDICTOR", LEASE_SECONDS)
        made = {}
        for name in names:
            peers = Peers(name, time.monotonic)
            for other in (*names, *others):
                stands_for = ("predictor",) if other in names else ("placement",)
                peers.hear(NodeState(node=other, epoch=1, number=1, protocol=PROTOCOL, stands_for=stands_for))
            made[name] = Leadership("predictor", name, peers, leases, time.monotonic)
        yield made


async def becomes(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(SECONDS):
        while not condition():
            await anyio.sleep(0.05)


async def test_one_at_a_time_holds_it_and_another_does_when_that_one_dies_or_leaves(tmp_path: Path) -> None:
    async with leaderships(tmp_path, NAMES) as every, anyio.create_task_group() as tasks:
        running = {name: anyio.CancelScope() for name in every}

        def holders() -> list[str]:
            return [name for name, each in every.items() if each.is_held]

        async def run(name: str) -> None:
            with running[name]:
                await every[name].run()

        for name in every:
            tasks.start_soon(run, name)
        await becomes(lambda: len(holders()) == 1)
        [first] = holders()
        assert first in NAMES[:CANDIDATES]
        running[first].cancel()
        await becomes(lambda: len(holders()) == 1 and holders() != [first])
        tasks.cancel_scope.cancel()


async def test_a_node_that_has_died_holds_it_for_some_seconds_only(tmp_path: Path) -> None:
    async with leaderships(tmp_path, ["box1", "box2"]) as every:
        dying, other = every["box1"], every["box2"]
        async with anyio.create_task_group() as tasks:
            await dying._look()  # and then nothing more comes of it
            assert dying.is_held
            tasks.start_soon(other.run)
            await becomes(lambda: other.is_held)
            assert not dying.is_held
            tasks.cancel_scope.cancel()


async def test_nodes_that_do_not_stand_for_it_are_in_nobodys_way(tmp_path: Path) -> None:
    async with leaderships(tmp_path, ["box9"], others=NAMES) as every:
        await every["box9"]._look()
        assert every["box9"].is_held


async def test_a_node_without_others_holds_it_and_asks_nobody() -> None:
    async def nobody() -> Leases:
        raise AssertionError("it asked for a lease")

    alone = Leadership("predictor", "box1", Peers("box1", time.monotonic), nobody, time.monotonic)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(alone.run)
        await becomes(lambda: alone.is_held)
        tasks.cancel_scope.cancel()
