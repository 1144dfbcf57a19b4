"""Which node of a fleet does what only one is to do at a time (ADR 62)::

    leadership = Leadership("predictor", "box1", peers, open_leases, clock)
    tasks.start_soon(leadership.run)
    ...
    if leadership.is_held: ...

It is whoever holds a lease, renewed while its node lives. When that dies, another has it some seconds later.
A node that stalls may believe for a moment that it still holds it, so what is done under it must do no harm
if two do it. A node without others holds it without a lease, so that it costs nothing.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable
from typing import Final

import anyio

from suite.bus.kv import Leases
from suite.errors import SuiteError
from suite.identity import Clock
from suite.node.fleet.peers import Peers
from suite.node.membership import LEASE_SECONDS
from suite.ticks import tick

logger = logging.getLogger("suite.fleet")

ALONE_SECONDS: Final = 0.5
"""After so long without a sign of others there are none: they tell a new node of themselves at once."""
RENEW_SECONDS: Final = 1.0
MARGIN_SECONDS: Final = 1.0
"""So much before the lease expires, its holder does not count on it any more."""
CANDIDATES: Final = 3
"""So many of the nodes that would do it, the first by name, ask for the lease: that all of many do would be a
load of its own."""


class Leadership:
    """The part of a node that holds a lease, or waits for it."""

    def __init__(
        self,
        name: str,
        node: str,
        peers: Peers,
        open_leases: Callable[[], Awaitable[Leases]],
        clock: Clock,
    ) -> None:
        """`open_leases` is called when there are other nodes."""
        self._name = name
        self._node = node
        self._peers = peers
        self._open_leases = open_leases
        self._leases: Leases | None = None
        self._clock = clock
        self._until = -math.inf
        """Until when the lease is held for certain (clock time)."""
        self._alone_since: float | None = clock()

    @property
    def is_held(self) -> bool:
        """Whether this node is the one."""
        now = self._clock()
        is_alone = self._alone_since is not None and now - self._alone_since >= ALONE_SECONDS
        return is_alone or now < self._until

    async def run(self) -> None:
        """Hold the lease, or wait for it, until cancelled; then leave it to others at once."""
        try:
            while True:
                await self._look()
                await tick(RENEW_SECONDS)
        finally:
            if self._clock() < self._until:
                self._until = -math.inf
                with anyio.move_on_after(RENEW_SECONDS, shield=True):
                    await self._give_up()

    async def _look(self) -> None:
        if not self._peers.states:
            self._alone_since = self._clock() if self._alone_since is None else self._alone_since
            return
        self._alone_since = None
        others = self._peers.states.items()
        others_before = sum(node < self._node and self._name in state.stands_for for node, state in others)
        if others_before >= CANDIDATES and self._clock() >= self._until:
            return
        asked = self._clock()
        try:
            self._leases = self._leases or await self._open_leases()
            is_taken = await self._leases.take(self._name, self._node.encode())
        except SuiteError as error:
            logger.debug("the lease %s cannot be asked for: %s", self._name, error)
        else:
            self._until = asked + LEASE_SECONDS - MARGIN_SECONDS if is_taken else -math.inf

    async def _give_up(self) -> None:
        try:
            if self._leases is not None:
                await self._leases.delete(self._name)
        except SuiteError as error:
            logger.debug("the lease %s is left to expire: %s", self._name, error)
