"""Text on its way from the engine's thread to the event loop, without either waiting for the other."""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import anyio

from suite.errors import SuiteError
from suite.messages.logprobs import TokenLogprobs

logger = logging.getLogger("suite.actor")

CHUNK_SECONDS = 0.05
"""The least time between two chunks: twenty a second read as steadily as one a token, for less (ADR 9)."""


class Piece(NamedTuple):
    """What has come of a generation since the last time."""

    text: str
    logprobs: tuple[TokenLogprobs, ...]
    is_last: bool


class Feed:
    """The listener of one generation. It holds no more than the generation's own text."""

    def __init__(self, *, stream: bool) -> None:
        """`stream` False: nobody wants the text before the end, so the loop is not woken for it."""
        self.failure: SuiteError | None = None
        """Why the generation failed, if it did; the first that is told stands."""
        self._stream = stream
        self._loop = asyncio.get_running_loop()
        self._pieces: deque[tuple[str, TokenLogprobs | None]] = deque()
        self._listening = False
        self._news, self._end = asyncio.Event(), asyncio.Event()
        self._resting_until = -math.inf

    # --- the engine's thread --------------------------------------------------------------------------------

    def piece(self, text: str, logprobs: TokenLogprobs | None = None) -> None:
        """Take the next text, and how likely it was.

        The loop is woken only if it has nothing else to look for: each time it wakes and a message travels,
        the threads that decode lose a core for a moment.
        """
        self._pieces.append((text, logprobs))
        if self._listening:
            self._listening = False
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
        self._end.set()
        self._news.set()

    async def next(self) -> Piece:
        """Wait for text: all there is since the last time, and whether it was the last."""
        await self._something()
        over = self._end.is_set()  # looked at before the text: when it is set, all of it is here
        text, logprobs = [], []
        while self._pieces:
            piece, likely = self._pieces.popleft()
            text.append(piece)
            if likely is not None:
                logprobs.append(likely)
        self._resting_until = self._loop.time() + CHUNK_SECONDS
        return Piece("".join(text), tuple(logprobs), over)

    async def _something(self) -> None:
        """Wait until it is time for the next chunk and there is text for it, or for the end."""
        if not self._stream:
            await self._end.wait()
            return
        with anyio.CancelScope(deadline=self._resting_until):
            await self._end.wait()
        self._news.clear()
        self._listening = True  # before looking, or a piece could come in between and wake nobody
        if not self._pieces and not self._end.is_set():
            await self._news.wait()
        self._listening = False
