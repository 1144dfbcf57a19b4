"""What nodes know of each other and of themselves, by clocks that only go forward, never by the time."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import msgspec

from suite.bus.connection import Connection
from suite.messages.presence import PROTOCOL, NodeState
from suite.messages.subjects import Subjects
from suite.node.fleet.peers import Peers
from suite.node.fleet.presence import CUT_OFF_SECONDS, Presence
from suite.node.fleet.state import OwnState
from suite.tasks import background
from support.nats import eventually, running_nats

SUBJECTS = Subjects()


class Told(OwnState):
    """The state of a node that has nothing."""

    def __init__(self, node: str, epoch: int) -> None:
        self.node, self.epoch = node, epoch
        self._last = 0

    def state(self, conversations: Iterable[int], *, is_leaving: bool = False) -> NodeState:
        self._last += 1
        return NodeState(
            node=self.node,
            epoch=self.epoch,
            number=self._last,
            protocol=PROTOCOL,
            is_leaving=is_leaving,
            conversations=tuple(conversations),
        )

    def look(self) -> None:
        pass


class Box:
    """A node that tells and hears, with a clock that the test moves."""

    def __init__(self, connection: Connection, node: str, epoch: int = 1) -> None:
        self.ahead = 0.0
        self.lost: list[str] = []
        self.left: list[str] = []
        self.cut_off = 0
        self.peers = Peers(node, self._clock)
        self.presence = Presence(
            connection,
            SUBJECTS,
            Told(node, epoch),
            self.peers,
            clock=self._clock,
            on_lost=self.lost.append,
            on_left=self.left.append,
            on_cut_off=self._cut_off,
        )

    def _clock(self) -> float:
        return anyio.current_time() + self.ahead

    def _cut_off(self) -> None:
        self.cut_off += 1

    @asynccontextmanager
    async def there(self) -> AsyncIterator[None]:
        async with background() as tasks:
            await tasks.start(self.presence.run)
            yield


async def test_a_node_that_stood_still_knows_it_before_others_hear_of_it_again(tmp_path: Path) -> None:
    async with running_nats(tmp_path) as (_, connection):
        box1, box2 = Box(connection, "box1"), Box(connection, "box2")
        async with box1.there(), box2.there():
            await eventually(lambda: "box2" in box1.peers.states and "box1" in box2.peers.states)
            assert not box1.presence.is_cut_off
            box1.ahead += CUT_OFF_SECONDS + 1
            assert box1.presence.is_cut_off, "also for what is read before it is told"
            await eventually(lambda: box1.cut_off == 1)
            await eventually(lambda: not box1.presence.is_cut_off)
            assert "box2" in box1.peers.states, "it could hear nothing, so nobody is lost"
            assert not box1.lost
        assert box1.cut_off == 1


async def test_a_later_process_of_a_name_is_another_life(tmp_path: Path) -> None:
    async with running_nats(tmp_path) as (_, connection):
        box1, first, second = Box(connection, "box1"), Box(connection, "box2"), Box(connection, "box2", 2)
        async with box1.there():
            async with first.there():
                await eventually(lambda: "box2" in box1.peers.states)
                async with second.there():
                    await eventually(lambda: box1.lost == ["box2"])
                    assert box1.peers.states["box2"].epoch == 2
                await eventually(lambda: box1.left == ["box2"])


async def test_the_last_words_of_an_earlier_life_are_not_those_of_a_later_one(tmp_path: Path) -> None:
    async with running_nats(tmp_path) as (_, connection):
        box1, second = Box(connection, "box1"), Box(connection, "box2", 2)
        async with box1.there(), second.there():
            await eventually(lambda: "box2" in box1.peers.states)
            for each in (state("box2", 1, is_leaving=True), state("box3", 1)):
                await connection.publish(SUBJECTS.node(each.node, "state"), msgspec.json.encode(each))
            await eventually(lambda: "box3" in box1.peers.states)
            assert not box1.left and box1.peers.states["box2"].epoch == 2


async def test_a_node_that_hears_none_of_several_others_is_cut_off_until_they_are_given_up(
    tmp_path: Path,
) -> None:
    async with running_nats(tmp_path) as (_, connection):
        box1 = Box(connection, "box1")
        async with box1.there():
            await connection.publish(SUBJECTS.node("box2", "state"), msgspec.json.encode(state("box2", 1)))
            await eventually(lambda: box1.lost == ["box2"])
            assert box1.cut_off == 0, "the only other may as well have crashed"
            for each in (state("box2", 2), state("box3", 1)):
                await connection.publish(SUBJECTS.node(each.node, "state"), msgspec.json.encode(each))
            await eventually(lambda: len(box1.peers.states) == 2)
            assert not box1.presence.is_cut_off
            await eventually(lambda: box1.cut_off == 1 and "box2" in box1.peers.states)
            await eventually(lambda: not box1.peers.states and not box1.presence.is_cut_off)


def state(node: str, epoch: int, *, is_leaving: bool = False) -> NodeState:
    return NodeState(node=node, epoch=epoch, number=1, protocol=PROTOCOL, is_leaving=is_leaving)


async def test_a_node_of_another_version_is_told_of_and_gets_nothing(tmp_path: Path) -> None:
    async with running_nats(tmp_path) as (_, connection):
        box1 = Box(connection, "box1")
        async with box1.there():
            later = {"node": "box2", "protocol": PROTOCOL + 1, "version": "9.0", "number": "7 of 12"}
            await connection.publish(SUBJECTS.node("box2", "state"), json.dumps(later).encode())
            await eventually(lambda: box1.peers.problems)
            (problem,) = box1.peers.problems
            assert "'box2' runs version 9.0" in problem and "same version" in problem
            assert not box1.peers.states
