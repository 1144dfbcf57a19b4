"""Sees to it that a generation id which clients chose is that of one generation in the whole fleet (ADR 58).

A node that is about to serve one takes its id in a bucket that all nodes share, and lets it go at the end.
Ids that nodes make are unique anyway, and a node alone knows all its generations: both cost nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Final

import anyio
import msgspec

from suite.bus.claims import Claims, Taken
from suite.errors import GenerationExists, NoService, RequestTimeout, SuiteError, Unavailable
from suite.identity import Clock
from suite.messages.presence import NodeState

logger = logging.getLogger("suite.fleet")

CLAIM_SECONDS: Final = 24 * 3600.0
"""When an id that nobody lets go is free again: no generation runs for longer."""
PATIENCE_SECONDS: Final = 0.3
"""How long another node may take to let an id go whose generation has ended already."""
PAUSE_SECONDS: Final = 0.05
LET_GO_SECONDS: Final = 60.0
"""For so long an id is let go again and again while that fails: NATS may be away, or without a leader."""
LET_GO_PAUSE_SECONDS: Final = 2.0

_encode = msgspec.json.Encoder().encode


class Holder(msgspec.Struct, frozen=True, kw_only=True):
    """Who has a generation."""

    node: str
    epoch: int
    """Of which life of the node."""
    reply: str
    """Where its answer goes: the same for a request that is sent on to another node."""


_holder = msgspec.json.Decoder(Holder).decode


class GenerationIds:
    """The ids of generations, as all nodes know them."""

    def __init__(
        self, claims: Claims, node: str, epoch: int, others: Mapping[str, NodeState], *, clock: Clock
    ) -> None:
        """`others`: what the other nodes that are there tell of themselves."""
        self._claims = claims
        self._node = node
        self._epoch = epoch
        self._others = others
        self._clock = clock

    async def take(self, generation_id: str, reply: str) -> Taken | None:
        """Take an id for a generation of this node. Raises GenerationExists.

        None if there is no other node, or while nobody can be asked: then the id counts once on each node.
        """
        if not self._others:
            return None
        try:
            return await self._take(generation_id, Holder(node=self._node, epoch=self._epoch, reply=reply))
        except (NoService, RequestTimeout, Unavailable) as error:
            logger.debug("whether generation %s runs elsewhere is not known: %s", generation_id, error)
            return None

    async def let_go(self, taken: Taken) -> None:
        """Let others have an id. If that fails for `LET_GO_SECONDS`, it stays until its claim expires."""
        until = self._clock() + LET_GO_SECONDS
        while True:
            try:
                await self._claims.release(taken)
            except SuiteError as error:
                logger.debug("the id of a generation is not let go: %s", error)
            else:
                return
            if self._clock() >= until:
                return
            await anyio.sleep(LET_GO_PAUSE_SECONDS)

    async def _take(self, generation_id: str, own: Holder) -> Taken:
        value, until = _encode(own), self._clock() + PATIENCE_SECONDS
        answer = await self._claims.take(generation_id, value)
        while not isinstance(answer, Taken):
            if answer and self._may_be_replaced(_holder(answer), own):
                answer = await self._claims.take_over(generation_id, value, answer)
            elif self._clock() > until:
                raise GenerationExists
            else:
                await anyio.sleep(PAUSE_SECONDS)
                answer = await self._claims.take(generation_id, value)
        return answer

    def _may_be_replaced(self, holder: Holder, own: Holder) -> bool:
        """Whether the one who has an id has the same request, or is not there any more.

        This node itself has no such generation, or it would not ask.
        """
        if holder.reply == own.reply or holder.node == own.node:
            return True
        state = self._others.get(holder.node)
        return state is None or state.epoch != holder.epoch
