"""A node among nodes: its name, its epoch, its lease, and the loss of others.

A node's ``started`` event is its epoch. While it lives it renews a lease in a KV bucket; when the lease of
another runs out and that node does not answer either, its loss is appended, once however many notice.
"""

from __future__ import annotations

import logging
import os
import socket

import anyio
import msgspec

from suite import __version__
from suite.bus.connection import Connection
from suite.bus.kv import Leases
from suite.errors import Conflict, NodeNameTaken, NoService, RequestTimeout, SuiteError, Unavailable
from suite.errors import NodeLost as NodeLostError
from suite.log import Expectation, Log
from suite.messages.events import NodeLost, NodeStarted, NodeStopped
from suite.messages.subjects import Subjects

logger = logging.getLogger("suite.membership")

LEASE_SECONDS = 5.0
RENEW_SECONDS = 1.0
PING_SECONDS = 2.0


class Lease(msgspec.Struct, frozen=True, kw_only=True):
    """What stands under a node's name while it lives."""

    epoch: int
    host: str
    pid: int


class Membership:
    """This node's part in the fleet."""

    def __init__(self, connection: Connection, log: Log, subjects: Subjects, node: str) -> None:
        self._connection = connection
        self._log = log
        self._subjects = subjects
        self._node = node
        self.epoch = 0

    async def enter(self, *, take_over: bool, memory_limit_bytes: int) -> int:
        """Take the node's name and append its start; the epoch.

        Raises NodeNameTaken while another process of that name answers, unless told to take over.
        """
        if not take_over and await self._answers(self._node):
            raise NodeNameTaken(
                f"another process serves as node {self._node!r}: choose another --node, or pass --take-over"
            )
        started = NodeStarted(
            node=self._node,
            version=__version__,
            host=socket.gethostname(),
            pid=os.getpid(),
            memory_limit_bytes=memory_limit_bytes,
        )
        aggregate = self._subjects.aggregate("node", self._node)
        while True:
            last = await self._log.last(aggregate)
            try:
                self.epoch = await self._log.append(
                    started, expect=Expectation(subject=aggregate, last_seq=last.seq if last else 0)
                )
            except Conflict:
                continue
            return self.epoch

    async def leave(self) -> None:
        """Append the node's stop, unless another process has the name by now."""
        started = self._subjects.event("node", (self._node,), NodeStarted.fact)
        try:
            await self._log.append(
                NodeStopped(node=self._node, epoch=self.epoch),
                expect=Expectation(subject=started, last_seq=self.epoch),
            )
        except SuiteError as error:
            logger.warning("the stop of %s is not in the log: %s", self._node, error.message)

    async def answer_pings(self) -> None:
        """Let others see that this process lives."""

        async def answer(message: object) -> None:
            reply = getattr(message, "reply", "")
            if reply:
                await self._connection.publish(reply, b"{}")

        await self._connection.subscribe(self._subjects.node(self._node, "ping"), answer)

    async def renew(self, leases: Leases) -> None:
        """Renew the lease for as long as this runs.

        Raises NodeLost when another node has declared this one lost: its instances no longer count, so it
        must start anew.
        """
        lease = Lease(epoch=self.epoch, host=socket.gethostname(), pid=os.getpid())
        interrupted = False
        while True:
            try:
                if interrupted:
                    await self._check_not_lost()
                await leases.put(self._node, msgspec.json.encode(lease))
                interrupted = False
            except (Unavailable, RequestTimeout, NoService):
                interrupted = True
            await anyio.sleep(RENEW_SECONDS)

    async def watch(self, leases: Leases) -> None:
        """Append the loss of each node whose lease runs out while it does not answer."""
        epochs: dict[str, int] = {}
        async for name, value in leases.watch():
            if name == self._node:
                continue
            if value is not None:
                epochs[name] = msgspec.json.decode(value, type=Lease).epoch
            elif name in epochs:
                await self._bury(name, epochs.pop(name))

    async def _check_not_lost(self) -> None:
        last = await self._log.last(self._subjects.event("node", (self._node,), NodeLost.fact))
        if last is not None and last.seq > self.epoch:
            raise NodeLostError(
                "another node declared this one lost while it could not be reached: start it again"
            )

    async def _bury(self, name: str, epoch: int) -> None:
        if await self._answers(name):
            return
        aggregate = self._subjects.aggregate("node", name)
        try:
            await self._log.append(
                NodeLost(node=name, epoch=epoch, observer=self._node),
                expect=Expectation(subject=aggregate, last_seq=epoch),
            )
            logger.warning("node %s is lost", name)
        except Conflict:
            pass  # it stopped in order, started again, or another node was first

    async def _answers(self, name: str) -> bool:
        try:
            await self._connection.request(self._subjects.node(name, "ping"), timeout=PING_SECONDS)
        except (NoService, RequestTimeout):
            return False
        return True
