"""Tells in the node's own log what its start or its stop waits for, so that no wait is silent."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Final

import anyio
import msgspec

from suite.identity import Clock

logger = logging.getLogger("suite.node")

SAY_SECONDS: Final = 5.0
"""How long a wait may be silent."""
_LOOK_SECONDS: Final = 0.1


class StartProgress:
    """The step that a start has come to."""

    def __init__(self) -> None:
        self._step = ""
        self._over = anyio.Event()

    def step(self, doing: str) -> None:
        """Begin the next step; an empty text is one that tells by itself what it waits for."""
        self._step = doing

    def end(self) -> None:
        """The start is over."""
        self._over.set()

    async def tell(self) -> None:
        """Tell the step that takes longer than `SAY_SECONDS`, again and again, until the start is over."""
        while not self._over.is_set():
            with anyio.move_on_after(SAY_SECONDS):
                await self._over.wait()
                return
            if self._step:
                logger.info("still starting: %s", self._step)


class RunningWork(msgspec.Struct, frozen=True):
    """How many pieces of work a node still does, or has waiting."""

    generations: int
    requests: int
    """Other requests."""

    def __str__(self) -> str:
        """In words, such as ``2 generations and 1 request``."""
        counts = ((self.generations, "generation"), (self.requests, "request"))
        parts: Sequence[str] = [f"{n} {noun}{'s' if n > 1 else ''}" for n, noun in counts if n]
        return " and ".join(parts)

    def __bool__(self) -> bool:
        return bool(self.generations or self.requests)


async def tell_stop(look: Callable[[], RunningWork], *, seconds: float, clock: Clock) -> None:
    """Tell what a stop waits for, at once, when that changes, and every `SAY_SECONDS`, until cancelled.

    `seconds` is how long it waits at most.
    """
    end = clock() + seconds
    said, said_at = None, end
    while True:
        now = look()
        if now and (now != said or clock() - said_at >= SAY_SECONDS):
            logger.info(
                "stopping: waiting for %s, at most %.0f s; a second Ctrl-C (or SIGTERM) ends them at once",
                now,
                max(0.0, end - clock()),
            )
            said, said_at = now, clock()
        elif not now and said is None:
            logger.info("stopping: nothing is running")
            said = now
        await anyio.sleep(_LOOK_SECONDS)
