"""Limits how long a node takes to stop (ADR 24).

There are two phases, each with one deadline. First the node waits up to `drain_seconds` (configured) for
running requests and generations, as long as NATS can deliver their replies. Everything after that has
`END_SECONDS` in total. The node does not wait for a server that does not answer: it gives up the connection,
which ends every wait for it at once. Instances whose end is not in the log by then are closed at the next
start.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

import anyio
from anyio.abc import TaskGroup

from suite.bus.connection import Connection
from suite.errors import RequestTimeout, Unavailable
from suite.identity import Clock
from suite.log import Log
from suite.node.journal import Journal
from suite.node.progress import RunningWork, tell_stop
from suite.tasks import background

logger = logging.getLogger("suite.node")

END_SECONDS: Final = 2.8
"""For everything after the drain: ending the models' processes, and writing that to the log."""
PROCESS_SECONDS: Final = 2.5
"""How much of `END_SECONDS` a model's process gets before it is killed."""
ANSWER_SECONDS: Final = 1.2
"""How long NATS may fail to answer before the connection is given up."""
APPEND_SECONDS: Final = 1.5
"""How long an append is tried once the node is stopping."""
_PROBE_SECONDS: Final = 0.25


class Ending:
    """The deadlines of one shutdown."""

    def __init__(
        self, connection: Connection, log: Log, journal: Journal, *, drain_seconds: float, clock: Clock
    ) -> None:
        self._connection = connection
        self._log = log
        self._journal = journal
        self._drain_seconds = drain_seconds
        self._clock = clock
        self._draining = anyio.CancelScope()
        self._rest = anyio.CancelScope()

    @asynccontextmanager
    async def draining(self, tasks: TaskGroup, look: Callable[[], RunningWork]) -> AsyncIterator[None]:
        """A scope for waiting for running work after the node was told to stop.

        `look` says what it waits for, and the node's own log tells it. The block is cancelled after
        `drain_seconds`, or when NATS does not answer.
        """
        self._log.hurry(APPEND_SECONDS)
        tasks.start_soon(self._watch)
        self._draining.deadline = anyio.current_time() + self._drain_seconds
        async with background() as telling:
            telling.start_soon(partial(tell_stop, look, seconds=self._drain_seconds, clock=self._clock))
            with self._draining:
                yield
        if running := look():
            logger.warning("stopping: %s cut short", running)

    def all_the_rest(self) -> anyio.CancelScope:
        """A scope with the deadline for everything after the drain."""
        self._rest.deadline = anyio.current_time() + END_SECONDS
        return anyio.CancelScope(deadline=self._rest.deadline)

    async def _watch(self) -> None:
        """Give up the connection when NATS does not answer, or when the last deadline has passed."""
        with self._rest:
            while await self._answers():  # noqa: ASYNC110 - each round asks NATS
                await anyio.sleep(_PROBE_SECONDS)
            logger.warning("NATS does not answer: this node ends without it")
        self._draining.cancel()
        self._journal.close()
        await self._connection.give_up()

    async def _answers(self) -> bool:
        try:
            await self._connection.wait_connected(ANSWER_SECONDS)
        except Unavailable:
            return False
        try:
            await self._connection.flush(ANSWER_SECONDS)
        except RequestTimeout:
            return False
        except Unavailable:
            pass  # the connection was just lost: the next round waits for it to come back
        return True
