"""NATS as a cluster: waits until it works, keeps the wanted replicas, and knows what could be lost."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import anyio

from suite.bus.connection import Connection
from suite.bus.jetstream import NO_JETSTREAM_LEADER, JetStream, NoAnswer, NotSent, Refused, StreamInfo
from suite.bus.replicas import Replication, raise_replicas
from suite.errors import SuiteError
from suite.identity import NewId
from suite.messages.subjects import Subjects
from suite.ticks import tick

logger = logging.getLogger("suite.node")

LOOK_SECONDS: Final = 5.0
"""How long it may take until a lost server is noticed, beside the 5 s for which its leader waits for it."""
SOON_SECONDS: Final = 2.0
"""The same while something is missing, which may come back."""
ASK_SECONDS: Final = 2.0
SAY_SECONDS: Final = 5.0
_PAUSE_SECONDS: Final = 0.2
_BUCKET: Final = "KV_{}_"
"""What the names of the suite's buckets begin with. What is in its object stores only passes through: they
stay on one server each (ADR 61)."""


@asynccontextmanager
async def joined_cluster(connection: Connection, join: tuple[str, ...]) -> AsyncIterator[None]:
    """A block that begins when the cluster works: see `wait_for_cluster`."""
    await wait_for_cluster(connection, join)
    yield


async def wait_for_cluster(connection: Connection, join: tuple[str, ...]) -> None:
    """Wait until the servers of a cluster have a leader for JetStream, however long it takes, and say so.

    ``join`` is where the servers of other nodes are to be; empty for a NATS that is not the node's own. A
    server that is alone has nothing to wait for.
    """
    if not connection.is_clustered:
        return
    others = f"start the other nodes ({', '.join(join)})" if join else "see to its servers"
    said_at = anyio.current_time()
    while (reason := await _why_not_ready(connection)) is not None:
        if anyio.current_time() - said_at >= SAY_SECONDS:
            logger.warning(
                "waiting for the cluster of NATS, more than half of whose servers must be there: %s (%s)",
                others,
                reason,
            )
            said_at = anyio.current_time()
        await anyio.sleep(_PAUSE_SECONDS)


async def _why_not_ready(connection: Connection) -> str | None:
    """Why JetStream has no leader; None if it has one, or if that is not what is wrong with it."""
    probe = JetStream(connection, "SUITE", new_id=lambda: "")
    try:
        await probe.info(timeout=ASK_SECONDS)
    except Refused as refused:
        return str(refused) if refused.code == NO_JETSTREAM_LEADER else None
    except NotSent as error:
        return None if connection.is_connected else str(error)
    except NoAnswer:
        return "JetStream does not answer"
    return None


class ClusterWatch:
    """Looks at the log and the buckets of one suite, and gives them the replicas that they should have."""

    def __init__(self, connection: Connection, subjects: Subjects, *, replicas: int, new_id: NewId) -> None:
        self._connection = connection
        self._subjects = subjects
        self._wanted = replicas
        self._new_id = new_id
        self._told: str | None = None
        self.problem: str | None = None
        """What the loss of a server would do now, or has done; None if all is as wanted."""
        self.log: Replication | None = None
        """What is known of the log's servers; None before the first look."""

    async def run(self) -> None:
        """Look every `LOOK_SECONDS`, until cancelled; only once at a server that is alone."""
        while True:
            await self.look()
            if self.problem != self._told:
                if self.problem is None:
                    logger.info("all replicas that are wanted are there")
                else:
                    logger.warning("%s", self.problem)
                self._told = self.problem
            await tick(LOOK_SECONDS if self.problem is None else SOON_SECONDS)
            while self.log is not None and not self._connection.is_clustered:  # a message saved each time
                await tick(LOOK_SECONDS)

    async def look(self) -> None:
        """Look now, and give what has too few replicas more, where there are servers for them."""
        try:
            names = await self._names()
            found = [await self._replication(name) for name in names]
        except (NotSent, NoAnswer, Refused, SuiteError) as error:
            if self._connection.is_connected:
                self.problem = f"JetStream has no leader, or does not answer ({error}): see to its servers"
                self.log = None
            return
        self.log = next((each for each in found if each.stream == self._subjects.stream), None)
        self.problem = next((each.problem for each in found if each.problem is not None), None)

    async def _names(self) -> list[str]:
        """The log first, then its buckets."""
        log = self._subjects.stream
        if not self._connection.is_clustered:
            return [log]
        bucket = _BUCKET.format(log)
        return [
            log,
            *(name for name in await self._of(log).names(timeout=ASK_SECONDS) if name.startswith(bucket)),
        ]

    async def _replication(self, name: str) -> Replication:
        stream = self._of(name)
        info = await stream.info(timeout=ASK_SECONDS)
        if self._connection.is_clustered:
            await self._raise(stream, info)
        return Replication.of(info, wanted=self._wanted)

    async def _raise(self, stream: JetStream, info: StreamInfo) -> None:
        """Give a stream more replicas. It has no leader for a moment then, so the next look sees them."""
        try:
            raised = await raise_replicas(stream, info, replicas=self._wanted)
        except Refused as refused:
            # Health says how many it has.
            logger.debug("%s gets no more replicas: %s", stream.stream, refused)
        else:
            if raised is not info:
                logger.info("%s gets %s replicas", stream.stream, raised.config.get("num_replicas"))

    def _of(self, stream: str) -> JetStream:
        return JetStream(self._connection, stream, new_id=self._new_id)
