"""Keeps pinned models loaded: what a node kept that drains or is lost another one keeps (ADR 62)."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Final

from suite.domain.placement import Wanted, place
from suite.errors import SuiteError
from suite.messages.actions.residency import PinModelReply, PinModelRequest
from suite.node.fleet.leadership import Leadership
from suite.node.node import Node
from suite.ticks import tick

logger = logging.getLogger("suite.fleet")

LOOK_SECONDS: Final = 1.0
AGAIN_SECONDS: Final = 10.0
"""After so long it is tried again to have another node keep a model."""


class PinMoves:
    """What a node knows of the pins of all nodes, and does about them."""

    def __init__(self, node: Node, leadership: Leadership) -> None:
        self._node = node
        self._leadership = leadership
        self._keepers: dict[str, str] = {}
        """The node that keeps each model, or did so when it was heard of last."""
        self._tried: dict[str, float] = {}

    async def run(self) -> None:
        """Look every second, until cancelled."""
        while True:
            await tick(LOOK_SECONDS)
            try:
                await self._look()
            except SuiteError as error:
                logger.warning("pinned models stay where they are for now: %s", error.message)

    async def _look(self) -> None:
        keeping = self._keeping()
        for model_id in self._node.pins.movable:
            if self._is_spare(model_id, keeping.get(model_id, ())):
                logger.info("another node keeps %s: it is not pinned here any more", model_id)
                await self._node.pins.unpin(model_id)
        self._follow(keeping)
        if self._leadership.is_held:
            for model_id, keeper in tuple(self._keepers.items()):
                if not keeping.get(model_id) and self._is_due(model_id):
                    await self._hand_over(model_id, keeper)

    def _keeping(self) -> dict[str, list[str]]:
        """The nodes that keep each model and take new work; none where the only one drains."""
        found: dict[str, list[str]] = {}
        fleet = self._node.fleet
        told = {name: (state.pins, state.is_draining) for name, state in fleet.others.items()}
        told[self._node.name] = self._node.pins.movable, fleet.own.is_draining
        for name, (pins, is_draining) in told.items():
            for model_id in pins:
                found.setdefault(model_id, []).extend([] if is_draining else [name])
        return found

    def _follow(self, keeping: dict[str, list[str]]) -> None:
        """Note who keeps what; forget what was unpinned by a node that is still there."""
        there = {self._node.name, *self._node.fleet.others}
        for model_id, keeper in tuple(self._keepers.items()):
            if model_id not in keeping and keeper in there:
                del self._keepers[model_id]
        for model_id, names in keeping.items():
            if names:
                self._keepers[model_id] = min(names)

    def _is_spare(self, model_id: str, names: Sequence[str]) -> bool:
        """Whether another one of the nodes that keep it is enough: the first by name that has it loaded."""

        def order(name: str) -> tuple[bool, str]:
            return not self._is_ready(name, model_id), name

        if self._node.name in names:
            return min(names, key=order) != self._node.name
        return any(self._is_ready(name, model_id) for name in names)  # this one drains

    def _is_ready(self, name: str, model_id: str) -> bool:
        view = self._node.fleet.views().get(name)
        hosted = view.hosted.get(model_id) if view is not None else None
        return hosted is not None and hosted.is_ready

    def _is_due(self, model_id: str) -> bool:
        return self._node.clock() - self._tried.get(model_id, -math.inf) >= AGAIN_SECONDS

    async def _hand_over(self, model_id: str, keeper: str) -> None:
        """Have another node keep what this one did."""
        self._tried[model_id] = self._node.clock()
        fleet = self._node.fleet
        wanted = Wanted(model_id=model_id, excluded=frozenset({keeper}))
        placed = place(wanted, fleet.views(), here=self._node.name)
        if placed is None:
            return
        logger.info("%s is pinned on %s, as %s does not keep it", model_id, placed.node, keeper)
        await fleet.ask(placed.node, "pin_model", PinModelRequest(model_id=model_id), PinModelReply)
