"""Text on its way from the engine's thread to the event loop, without either waiting for the other."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable

import anyio

from suite.errors import SuiteError

logger = logging.getLogger("suite.actor")


class Feed:
    """The listener of one generation. It holds no more than the generation's own text."""

    def __init__(self, *, stream: bool) -> None:
        """`stream` False: nobody wants the text before the end, so the loop is not woken for it."""
        self.failure: SuiteError | None = None
        """Why the generation failed, if it did; the first that is told stands."""
        self._stream = stream
        self._loop = asyncio.get_running_loop()
        self._pieces: deque[str] = deque()
        self._told = False
        self._news = asyncio.Event()
        self._over = asyncio.Event()

    # --- the engine's thread --------------------------------------------------------------------------------

    def piece(self, text: str) -> None:
        """Take the next text."""
        self._pieces.append(text)
        if self._stream and not self._told:
            self._told = True
            self._call(self._news.set)

    def ended(self, error: SuiteError | None) -> None:
        """Take note that nothing more comes."""
        self._call(self.end, error)

    def _call(self, callback: Callable[..., None], *args: object) -> None:
        try:
            self._loop.call_soon_threadsafe(callback, *args)
        except RuntimeError:
            logger.debug("the loop has ended before a generation did")

    # --- the event loop -------------------------------------------------------------------------------------

    def end(self, error: SuiteError | None) -> None:
        """End it now, whatever the engine still says."""
        self.failure = self.failure or error
        self._over.set()
        self._news.set()

    async def next(self, pause: float) -> tuple[str, bool]:
        """The text since the last time, and whether it was the last.

        Waits for news, then for `pause` seconds more, so that pieces that come close together go together.
        """
        await self._news.wait()
        if pause > 0 and not self._over.is_set():
            with anyio.move_on_after(pause):
                await self._over.wait()
        self._news.clear()
        self._told = False
        over = self._over.is_set()  # looked at before the text: when it is set, all of it is here
        pieces = []
        while self._pieces:
            pieces.append(self._pieces.popleft())
        return "".join(pieces), over
