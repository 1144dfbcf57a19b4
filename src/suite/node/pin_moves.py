"""Keeps pinned models loaded: what a node kept that drains or is lost another one keeps (ADR 62)."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Final

from suite.domain.placement import Wanted, place
from suite.errors import SuiteError
from suite.messages.actions.residency import (
    PinModelReply,
    PinModelRequest,
    UnpinModelReply,
    UnpinModelRequest,
)
from suite.node.fleet.leadership import Leadership
from suite.node.node import Node
from suite.ticks import tick

logger = logging.getLogger("suite.fleet")

LOOK_SECONDS: Final = 1.0
GONE_SECONDS: Final = 9.0
"""After so long without a node its loss stands in the log: it was not only frozen."""
UNPINNED_SECONDS: Final = 5.0
"""So long after a model was unpinned what nodes told of it before does not count: they may be lost."""
AGAIN_SECONDS: Final = 10.0
"""After so long it is tried again to have another node keep a model."""


class PinMoves:
    """What a node knows of the pins of all nodes, and does about them while it is the one that decides."""

    def __init__(self, node: Node, leadership: Leadership) -> None:
        self._node = node
        self._leadership = leadership
        self._keepers: dict[str, str] = {}
        """The node that keeps each model, or did so when it was heard of last."""
        self._gone: dict[str, float] = {}
        """Since when the nodes are away that keep something."""
        self._tried: dict[str, float] = {}
        self._unpinned: dict[str, float] = {}
        """When models were unpinned lately."""
        node.pins.on_unpin = self._forget

    async def run(self) -> None:
        """Look every second, until cancelled."""
        while True:
            await tick(LOOK_SECONDS)
            await self.look()

    async def look(self) -> None:
        """Do what is to be done now."""
        pinned = self._pinned()
        self._follow(pinned)
        if not self._leadership.is_held:
            return
        for model_id, keeper in tuple(self._keepers.items()):
            if model_id in self._keepers:  # it may have been unpinned meanwhile
                await self._settle(model_id, keeper, pinned.get(model_id, ()))

    def _forget(self, model_id: str) -> None:
        """Have no node keep any more what was unpinned while the one that did so was away."""
        self._keepers.pop(model_id, None)
        self._unpinned[model_id] = self._node.clock()

    def _pinned(self) -> dict[str, list[str]]:
        """The nodes that keep each model, as they tell."""
        found: dict[str, list[str]] = {}
        told = {name: state.pins for name, state in self._node.fleet.others.items()}
        told[self._node.name] = self._node.pins.movable
        for name, pins in told.items():
            for model_id in pins:
                found.setdefault(model_id, []).append(name)
        return found

    def _follow(self, pinned: Mapping[str, Sequence[str]]) -> None:
        """Note who keeps what; forget what was unpinned by a node that is still there."""
        now, there = self._node.clock(), {self._node.name, *self._node.fleet.others}
        self._unpinned = {id: at for id, at in self._unpinned.items() if now - at < UNPINNED_SECONDS}
        lost = {id: keeper for id, keeper in self._keepers.items() if keeper not in there}
        told = {id: min(names) for id, names in pinned.items() if id not in self._unpinned}
        self._keepers = lost | told
        away = {keeper for keeper in self._keepers.values() if keeper not in there}
        self._gone = {keeper: self._gone.get(keeper, now) for keeper in away}

    async def _settle(self, model_id: str, keeper: str, names: Sequence[str]) -> None:
        """Have one node keep a model that takes new work."""
        taking = [each for each in names if each not in self._node.fleet.draining]
        ready = [each for each in taking if self._is_ready(each, model_id)]
        try:
            if ready:
                for spare in [each for each in names if each != min(ready)]:
                    await self._unpin(model_id, spare)
            elif not taking and self._is_due(model_id, keeper):
                await self._hand_over(model_id, keeper)
        except SuiteError as error:
            logger.warning("%s stays pinned where it is for now: %s", model_id, error.message)

    def _is_ready(self, name: str, model_id: str) -> bool:
        view = self._node.fleet.views().get(name)
        hosted = view.hosted.get(model_id) if view is not None else None
        return hosted is not None and hosted.is_ready

    def _is_due(self, model_id: str, keeper: str) -> bool:
        """Whether it is time to have another node keep a model: its own is not only frozen."""
        now = self._node.clock()
        is_lost = now - self._gone.get(keeper, -math.inf) >= GONE_SECONDS
        return is_lost and now - self._tried.get(model_id, -math.inf) >= AGAIN_SECONDS

    async def _unpin(self, model_id: str, name: str) -> None:
        """Have a node not keep what another one keeps. Only one node decides that, so that one is left."""
        logger.info("another node keeps %s: it is not pinned on %s any more", model_id, name)
        await self._node.fleet.ask(name, "unpin_model", UnpinModelRequest(model_id=model_id), UnpinModelReply)

    async def _hand_over(self, model_id: str, keeper: str) -> None:
        """Have another node keep what this one did, where it is loaded or fits: nothing leaves for it."""
        self._tried[model_id] = self._node.clock()
        fleet = self._node.fleet
        wanted = Wanted(model_id=model_id, excluded=frozenset({keeper}))
        placed = place(wanted, fleet.views(), here=self._node.name)
        if placed is None or placed.reason not in ("loaded", "fits") or placed.node in fleet.draining:
            return
        logger.info("%s is pinned on %s, as %s does not keep it", model_id, placed.node, keeper)
        await fleet.ask(placed.node, "pin_model", PinModelRequest(model_id=model_id), PinModelReply)
