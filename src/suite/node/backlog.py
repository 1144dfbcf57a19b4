"""What a node still has to write down, once the log takes events again."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

import anyio

from suite.errors import SuiteError
from suite.messages.events import Event

logger = logging.getLogger("suite.node")

RETRY_SECONDS: Final = 1.0
LIMIT: Final = 1024
"""Far more than there are instances; what is beyond it is left to the node's next start (`recovery`)."""


class Pending(NamedTuple):
    """A fact that waits, or what makes up for a decision whose fate is not known."""

    event: Event
    event_id: str
    correlation_id: str | None
    makes_up_for: str | None
    """Written only if the decision of this id turns out to be the last of the aggregate."""
    written: Callable[[int], None]
    """Hears its sequence."""


class Backlog:
    """Writes in the order in which things happened, one at a time."""

    def __init__(self, write: Callable[[Pending], Awaitable[int | None]]) -> None:
        self._write = write
        self._waiting: deque[Pending] = deque()
        self._filled = anyio.Event()
        self._emptied = anyio.Event()

    @property
    def is_empty(self) -> bool:
        """Whether all is written."""
        return not self._waiting

    def put(self, pending: Pending) -> None:
        """Have it written later."""
        if len(self._waiting) == LIMIT:
            logger.error("%s cannot wait for the log any more: it is left out", pending.event.type)
            return
        self._waiting.append(pending)
        self._filled.set()

    async def wait_empty(self, seconds: float) -> bool:
        """Whether all is written by then."""
        with anyio.move_on_after(seconds):
            while self._waiting:
                await self._emptied.wait()
        return self.is_empty

    async def run(self) -> None:
        """Write what waits, again and again until the log has it. Raises Fenced."""
        while True:
            await self._filled.wait()
            while self._waiting:
                pending = self._waiting[0]
                try:
                    seq = await self._write(pending)
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
