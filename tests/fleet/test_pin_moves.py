"""Who keeps a pinned model when its node stalls, is lost, drains or comes back; nodes and time are fake."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

from suite.domain.nodes import Nodes
from suite.errors import RequestTimeout
from suite.messages.presence import PROTOCOL, HostedModel, NodeState, OfferedModel
from suite.node.fleet.leadership import Leadership
from suite.node.fleet.peers import Peers, view_of
from suite.node.node import Node
from suite.node.pin_moves import AGAIN_SECONDS, GONE_SECONDS, UNPINNED_SECONDS, PinMoves

MODEL = "m"


class Fleet:
    """The nodes as `here` knows them, and what it asks of them."""

    def __init__(self) -> None:
        self.now = 100.0
        self.own = SimpleNamespace(pins=())
        self.asked: list[tuple[str, str]] = []
        self.is_silent = False
        self.leads = SimpleNamespace(is_held=True)
        self.peers = Peers("here", lambda: self.now)
        self.peers.learn_catalogue("same", {MODEL: OfferedModel(memory={"ram": 10})})
        self._number = 0
        self._pins = SimpleNamespace(movable=(), on_unpin=lambda _: None)
        node = SimpleNamespace(name="here", pins=self._pins, fleet=self, clock=lambda: self.now)
        self.moves = PinMoves(cast(Node, node), cast(Leadership, self.leads))

    @property
    def others(self) -> dict[str, NodeState]:
        return dict(self.peers.states)

    @property
    def draining(self) -> tuple[str, ...]:
        return tuple(name for name, state in self.others.items() if state.is_draining)

    def views(self) -> Nodes:
        return self.peers.views(view_of(NodeState(node="here", epoch=1, number=1, protocol=PROTOCOL), {}))

    async def ask(self, node: str, action: str, *_: object) -> None:
        self.asked.append((action, node))
        if self.is_silent:
            raise RequestTimeout

    def tell(
        self, node: str, *, pins: bool = False, ready: bool = False, free: int = 0, draining: bool = False
    ) -> None:
        self._number += 1
        hosted = {MODEL: HostedModel(instance_id="i", is_ready=True)} if ready else {}
        self.peers.hear(
            NodeState(
                node=node,
                epoch=1,
                number=self._number,
                protocol=PROTOCOL,
                pins=(MODEL,) if pins else (),
                models=hosted,
                free={"ram": free},
                limits={"ram": 100},
                catalogue="same",
                is_draining=draining,
            )
        )

    def unpin(self) -> None:
        self._pins.on_unpin(MODEL)

    async def after(self, seconds: float) -> list[tuple[str, str]]:
        """What is asked for when so much time has passed."""
        self.now += seconds
        self.asked.clear()
        await self.moves.look()
        return list(self.asked)


async def kept_by_box1() -> Fleet:
    found = Fleet()
    found.tell("box1", pins=True, ready=True)
    found.tell("box2", free=50)
    assert await found.after(0) == []
    return found


async def test_a_node_that_is_lost_has_its_pins_kept_elsewhere_and_one_that_stalls_keeps_them() -> None:
    found = await kept_by_box1()
    found.peers.lose("box1")
    assert await found.after(0) == await found.after(GONE_SECONDS - 1) == []
    found.tell("box1", pins=True, ready=True)
    assert await found.after(10 * GONE_SECONDS) == []
    found.peers.lose("box1")
    assert await found.after(0) == []
    found.is_silent = True
    assert await found.after(GONE_SECONDS) == [("pin_model", "box2")]
    assert await found.after(AGAIN_SECONDS / 2) == []
    assert await found.after(AGAIN_SECONDS) == [("pin_model", "box2")]


async def test_what_a_draining_node_keeps_is_moved_at_once_but_nothing_leaves_for_it() -> None:
    found = await kept_by_box1()
    found.tell("box1", pins=True, ready=True, draining=True)
    assert await found.after(0) == [("pin_model", "box2")]
    found = await kept_by_box1()
    found.tell("box1", pins=True, ready=True, draining=True)
    found.tell("box2", free=5)
    assert await found.after(0) == []


async def test_of_several_that_keep_it_one_is_left_which_one_node_decides() -> None:
    found = await kept_by_box1()
    found.tell("box2", pins=True, ready=True)
    found.tell("box3", pins=True)
    found.leads.is_held = False
    assert await found.after(0) == []
    found.leads.is_held = True
    assert await found.after(0) == [("unpin_model", "box2"), ("unpin_model", "box3")]
    found.tell("box1", pins=True)
    assert await found.after(0) == [("unpin_model", "box1"), ("unpin_model", "box3")]
    found.tell("box2", pins=True)
    assert await found.after(0) == [], "while none has it loaded, all keep it"


async def test_what_was_unpinned_while_its_node_was_away_stays_unpinned() -> None:
    found = await kept_by_box1()
    found.unpin()  # box1 has died, which nobody has noticed yet
    assert await found.after(1) == []
    found.peers.lose("box1")
    assert await found.after(GONE_SECONDS) == []
    found = await kept_by_box1()
    found.peers.lose("box1")
    assert await found.after(1) == []
    found.unpin()
    assert await found.after(GONE_SECONDS) == []
    found.tell("box1", pins=True)
    assert await found.after(UNPINNED_SECONDS) == []
    found.peers.lose("box1")
    await found.after(0)
    assert await found.after(GONE_SECONDS) == [("pin_model", "box2")]
