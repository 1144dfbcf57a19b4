"""How long a node that was told to stop may take.

Two waits, each with one deadline. Running requests and generations are waited for up to `drain_seconds`,
which an operator chose, as long as NATS can bring their answers to somebody. From then on what is left has
`END_SECONDS` together. A server that does not answer is not waited for: the connection is given up, whereupon
every wait for it ends at once. What is not written down then is closed at the next start.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import anyio
from anyio.abc import TaskGroup

from suite.bus.connection import Connection
from suite.errors import RequestTimeout, Unavailable
from suite.log import Log
from suite.node.journal import Journal

logger = logging.getLogger("suite.node")

END_SECONDS: Final = 2.8
"""For all that is left when nothing runs any more: models' processes end, and the log has it."""
PROCESS_SECONDS: Final = 2.5
"""Of these, for a model's process before it is killed."""
ANSWER_SECONDS: Final = 1.2
"""So long NATS may give no answer before it is not waited for any more."""
APPEND_SECONDS: Final = 1.5
"""So long an append is tried once the node stops."""
_PROBE_SECONDS: Final = 0.25


class Ending:
    """The deadlines of one stop."""

    def __init__(self, connection: Connection, log: Log, journal: Journal, *, drain_seconds: float) -> None:
        self._connection = connection
        self._log = log
        self._journal = journal
        self._drain_seconds = drain_seconds
        self._draining = anyio.CancelScope()
        self._rest = anyio.CancelScope()

    @asynccontextmanager
    async def draining(self, tasks: TaskGroup) -> AsyncIterator[None]:
        """The node was told to stop: the block waits for what runs, and ends when its time is over."""
        self._log.hurry(APPEND_SECONDS)
        tasks.start_soon(self._watch)
        self._draining.deadline = anyio.current_time() + self._drain_seconds
        with self._draining:
            yield

    def all_the_rest(self) -> anyio.CancelScope:
        """Nothing runs any more: the scope for all that is left to do."""
        self._rest.deadline = anyio.current_time() + END_SECONDS
        return anyio.CancelScope(deadline=self._rest.deadline)

    async def _watch(self) -> None:
        """Give the connection up when NATS does not answer, or when the time for all is over."""
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
            pass  # lost at this moment: the next round waits for it to be back
        return True
