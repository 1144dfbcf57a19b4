"""Passes generated text from the engine's thread to the event loop, without either waiting for the other."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from suite.errors import SuiteError
from suite.messages.logprobs import TokenLogprobs

logger = logging.getLogger("suite.actor")

CHUNK_SECONDS = 0.05
"""The shortest time between two chunks: twenty a second read as smoothly as one a token (ADR 9)."""


class TextDelta(NamedTuple):
    """The text generated since the previous delta."""

    text: str
    logprobs: tuple[TokenLogprobs, ...]
    is_last: bool


class Feed:
    """The listener of one generation. Its buffer is bounded by the generation's own text."""

    def __init__(self, *, stream: bool) -> None:
        """With `stream` False the text is needed only at the end, so the event loop is not woken before."""
        self.failure: SuiteError | None = None
        """Why the generation failed, if it did; the first error counts."""
        self._stream = stream
        self._loop = asyncio.get_running_loop()
        self._pieces: deque[tuple[str, TokenLogprobs | None]] = deque()
        self._news = asyncio.Event()
        self._over = False
        self._resting = not stream
        """Whether it is too soon for the next chunk. Only the event loop knows."""
        self._listening = stream
        """Whether the engine's thread is to wake the event loop with the next text."""

    # --- the engine's thread --------------------------------------------------------------------------------

    def on_text(self, text: str, logprobs: TokenLogprobs | None = None) -> None:
        """Add the next text and its log probabilities.

        The event loop is woken only while it waits for text: each time it wakes and sends a message, the
        decoding threads lose a core for a moment.
        """
        self._pieces.append((text, logprobs))
        if self._listening:
            self._listening = False
            self._call(self._wake)

    def on_end(self, error: SuiteError | None) -> None:
        """Note that no more text comes, and the error if it failed."""
        self._call(self.end, error)

    def _call(self, callback: Callable[..., None], *args: object) -> None:
        try:
            self._loop.call_soon_threadsafe(callback, *args)
        except RuntimeError:
            logger.debug("the loop has ended before a generation did")

    # --- the event loop -------------------------------------------------------------------------------------

    def end(self, error: SuiteError | None) -> None:
        """End the feed now, even if the engine would still send text."""
        self.failure = self.failure or error
        self._over = True
        self._news.set()

    async def next(self) -> TextDelta:
        """Wait for text, at least `CHUNK_SECONDS` after the previous call; return all that is new."""
        await self._news.wait()
        self._news.clear()
        over = self._over  # checked before taking the text: when it is set, all text is here
        text, logprobs = [], []
        while self._pieces:
            piece, likely = self._pieces.popleft()
            text.append(piece)
            if likely is not None:
                logprobs.append(likely)
        if over:
            self._news.set()
        elif self._stream:
            self._rest()
        return TextDelta("".join(text), tuple(logprobs), over)

    def _rest(self) -> None:
        self._resting, self._listening = True, False
        self._loop.call_later(CHUNK_SECONDS, self._listen)

    def _listen(self) -> None:
        """The next text goes at once: what has come meanwhile, or what comes first."""
        self._resting = False
        self._listening = True  # set before the check, or text could arrive in between and wake nobody
        if self._pieces:
            self._news.set()

    def _wake(self) -> None:
        if not self._resting:  # if it does, this is about text that has gone already
            self._news.set()
