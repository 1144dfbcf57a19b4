"""A node's membership in the fleet: its name, its epoch, its lease, and the detection of lost nodes.

The sequence of a node's ``started`` event is its epoch. A node renews a lease in a KV bucket while it lives.
When the lease of another node expires and that node does not answer a ping either, its loss is appended, once
however many nodes notice it.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import anyio
import msgspec

from suite.bus.connection import Connection
from suite.bus.kv import Leases
from suite.domain.footprint import Footprint
from suite.errors import (
    AccessDenied,
    Conflict,
    LogNotWritable,
    NodeNameTaken,
    NoService,
    RequestTimeout,
    ServerUnsuitable,
    SuiteError,
    Unavailable,
    UnknownOutcome,
)
from suite.errors import NodeLost as NodeLostError
from suite.log import Attempts, Expectation, Log
from suite.messages.envelope import Recorded
from suite.messages.events import NodeLifeEvent, NodeLost, NodeStarted, NodeStopped
from suite.messages.subjects import Subjects
from suite.node.journal import Journal
from suite.tasks import background
from suite.ticks import tick
from suite.version import __version__

logger = logging.getLogger("suite.membership")

LEASE_SECONDS = 5.0
"""A node, or what only one node does at a time, counts as lost when its lease is so old."""
RENEW_SECONDS = 1.0
PING_SECONDS = 2.0
GRACE_SECONDS = 2.0


class Holder(msgspec.Struct, frozen=True, kw_only=True):
    """The value of a node's lease."""

    epoch: int
    host: str
    pid: int


class Membership:
    """This node's membership in the fleet."""

    def __init__(self, connection: Connection, log: Log, subjects: Subjects, node: str) -> None:
        self._connection = connection
        self._log = log
        self._subjects = subjects
        self._node = node
        self.epoch = 0
        self._seen = 0
        """The sequence up to which the node's own aggregate was checked."""

    async def enter(self, *, take_over: bool, limits: Footprint) -> int:
        """Take the node's name, append its start, and answer pings from then on. Returns the epoch.

        Raises NodeNameTaken while another process of that name answers, unless ``take_over``; Conflict when
        others keep writing to the node's aggregate; LogNotWritable.
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
            memory_limit_bytes=limits.ram,
            gpus=dict(limits.gpus),
        )
        aggregate = self._subjects.aggregate("node", self._node)
        attempts = Attempts(f"the start of node {self._node}")
        while True:
            expect = Expectation(subject=aggregate, last_seq=await self._log.last_seq(aggregate))
            try:
                self.epoch = self._seen = await self._log.append(started, expect=expect)
            except Conflict as conflict:
                await attempts.again(conflict)
            except UnknownOutcome:
                if (problem := self._log.writability.problem) is not None:
                    raise LogNotWritable(problem) from None
                raise
            else:
                # Before the node has a lease: it may take a while to read what its last run left.
                await self.answer_pings()
                return self.epoch

    @asynccontextmanager
    async def present(self, leases: Leases, journal: Journal) -> AsyncIterator[None]:
        """During the block: renew the lease, and watch for the loss of other nodes.

        The check of the name has ended when the block is left, so that it never sees the node's own stop.
        """
        async with background() as tasks:
            tasks.start_soon(self.renew, leases, journal)
            tasks.start_soon(self.watch, leases)
            yield

    async def leave(self, leases: Leases) -> None:
        """Append the node's stop, unless another process has the name by now, and delete the lease."""
        started = self._subjects.event("node", (self._node,), NodeStarted.fact)
        try:
            await self._log.append(
                NodeStopped(node=self._node, epoch=self.epoch),
                expect=Expectation(subject=started, last_seq=self.epoch),
                essential=True,
            )
        except SuiteError as error:
            logger.warning("the stop of %s is not in the log: %s", self._node, error.message)
        with suppress(SuiteError):
            await leases.delete(self._node)

    async def answer_pings(self) -> None:
        """Answer pings, so that others see that this process lives."""

        async def answer(message: object) -> None:
            reply = getattr(message, "reply", "")
            if reply:
                with suppress(SuiteError):  # the requester chose the reply subject, and will ping again
                    await self._connection.publish(reply, b"{}")

        await self._connection.subscribe(self._subjects.node(self._node, "ping"), answer)

    async def renew(self, leases: Leases, journal: Journal) -> None:
        """Renew the lease until cancelled, and check that this process still owns the name.

        Raises NodeLost when another node has declared this one lost: its instances no longer count, so it
        must be restarted. When another process has taken the name over, the journal is fenced. A NATS that
        denies access is asked again; if it goes on, others declare this node lost.
        """
        holder = msgspec.json.encode(Holder(epoch=self.epoch, host=socket.gethostname(), pid=os.getpid()))
        while True:
            try:
                await self._check_name(journal)
                await leases.put(self._node, holder)
            # The connection recovers and logs that by itself; so do read models. Access may be denied while
            # somebody changes the users of this NATS.
            except (Unavailable, AccessDenied, RequestTimeout, NoService, ServerUnsuitable):
                pass
            await tick(RENEW_SECONDS)

    async def watch(self, leases: Leases) -> None:
        """Append the loss of each node that neither holds a lease nor answers a ping."""
        present: set[str] = set()
        doubt = anyio.Event()
        doubt.set()  # nodes may have been lost before this node began to watch

        async def follow() -> None:
            async for name, value in leases.watch():
                if value is None:
                    present.discard(name)
                    doubt.set()
                else:
                    present.add(name)

        async with background() as tasks:
            tasks.start_soon(follow)
            while True:
                await doubt.wait()
                await anyio.sleep(GRACE_SECONDS)  # after a restart of NATS every lease has to come back first
                try:
                    if not await self._bury_missing(present):
                        doubt = anyio.Event()
                except SuiteError as error:
                    logger.warning("nodes that are missing cannot be judged now: %s", error.message)

    async def _check_name(self, journal: Journal) -> None:
        aggregate = self._subjects.aggregate("node", self._node)
        last_seq = await self._log.last_seq(aggregate)
        if last_seq == self._seen:
            return
        async for recorded in self._log.read(aggregate, after=self._seen):
            if isinstance(recorded.data, NodeLost) and recorded.data.epoch == self.epoch:
                raise NodeLostError(
                    "another node declared this one lost while it could not be reached: start it again"
                )
        await journal.check()
        self._seen = last_seq

    async def _bury_missing(self, present: set[str]) -> bool:
        """Append the loss of nodes that are missing. Returns whether some could not be judged yet.

        Those answer although they hold no lease, or somebody just appended to their aggregate.
        """
        undecided = False
        for name, newest in (await self._newest(self._subjects.aggregate("node"))).items():
            if name == self._node or name in present or not isinstance(newest.data, NodeStarted):
                continue
            undecided |= await self._answers(name) or not await self._bury(name, epoch=newest.seq)
        return undecided

    async def _newest(self, subject_filter: str) -> dict[str, Recorded]:
        """The newest event of each node that begins or ends a life.

        Reads all events rather than the last ones, because a foreign message or a copy could hide an event.
        """
        newest: dict[str, Recorded] = {}
        known: set[str] = set()
        async for recorded in self._log.read(subject_filter):
            fact = recorded.data
            if isinstance(fact, NodeLifeEvent) and recorded.id not in known:
                known.add(recorded.id)
                newest[fact.node] = recorded
        return newest

    async def _bury(self, name: str, *, epoch: int) -> bool:
        """Append the loss of a node's epoch. Returns whether that epoch certainly has an end in the log."""
        aggregate = self._subjects.aggregate("node", name)
        last_seq = await self._log.last_seq(aggregate)
        newest = (await self._newest(aggregate)).get(name)
        if newest is None or newest.seq != epoch:
            return True  # it stopped in order, started again, or another node was first
        try:
            await self._log.append(
                NodeLost(node=name, epoch=epoch, observer=self._node),
                expect=Expectation(subject=aggregate, last_seq=last_seq),
            )
        except Conflict:
            return False
        logger.warning("node %s is lost", name)
        return True

    async def _answers(self, name: str) -> bool:
        try:
            await self._connection.request(self._subjects.node(name, "ping"), timeout=PING_SECONDS)
        except (NoService, RequestTimeout):
            return False
        return True
