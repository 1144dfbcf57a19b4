"""A queue of events that a node could not append, to be written when the log accepts events again."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

import anyio

from suite.errors import InvalidRequest, SuiteError, TooLarge
from suite.messages.events import Event

logger = logging.getLogger("suite.node")

RETRY_SECONDS: Final = 1.0
LIMIT: Final = 1024
"""The most events in the queue, far more than there are instances. Events beyond that are dropped; the next
start of the node closes the instances that this leaves open (`recovery`)."""


class Pending(NamedTuple):
    """An event that waits: a fact, or the compensation for a decision whose outcome is unknown."""

    event: Event
    event_id: str
    correlation_id: str | None
    makes_up_for: str | None
    """The id of the decision that this compensates: written only if that is the aggregate's last event."""
    written: Callable[[int], None]
    """Called with the sequence of the event when it is in the log."""


class Backlog:
    """Writes the waiting events one at a time, in the order in which they happened."""

    def __init__(self, write: Callable[[Pending], Awaitable[int | None]]) -> None:
        self._write = write
        self._waiting: deque[Pending] = deque()
        self._filled = anyio.Event()
        self._emptied = anyio.Event()

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits to be written."""
        return not self._waiting

    def put(self, pending: Pending) -> None:
        """Add an event. If the queue is full, the event is dropped and an error is logged."""
        if len(self._waiting) == LIMIT:
            logger.error("%s cannot wait for the log any more: it is left out", pending.event.type)
            return
        self._waiting.append(pending)
        self._filled.set()

    async def wait_empty(self, seconds: float) -> bool:
        """Wait up to ``seconds`` until everything is written. Returns whether it is."""
        with anyio.move_on_after(seconds):
            while self._waiting:
                await self._emptied.wait()
        return self.is_empty

    async def run(self) -> None:
        """Write what waits, and retry each event until the log has it. Runs until cancelled.

        It also retries when this node is fenced, until `Journal.until_fenced` ends the node.
        """
        while True:
            await self._filled.wait()
            while self._waiting:
                pending = self._waiting[0]
                try:
                    seq = await self._write(pending)
                except (TooLarge, InvalidRequest) as error:  # it will never be taken
                    logger.error("%s is left out of the log: %s", pending.event.type, error.message)
                    seq = None
                except SuiteError as error:
                    logger.warning("%s is not in the log yet: %s", pending.event.type, error.message)
                    await anyio.sleep(RETRY_SECONDS)
                    continue
                self._waiting.popleft()
                if seq is not None:
                    pending.written(seq)
            self._filled = anyio.Event()
            self._emptied.set()
            self._emptied = anyio.Event()
