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
    """The text of one choice that was generated since the previous delta."""

    choice: int
    text: str
    logprobs: tuple[TokenLogprobs, ...]
    reasoning: str = ""


class News(NamedTuple):
    """What was generated since the previous news, by choice, and whether that was all."""

    deltas: tuple[TextDelta, ...]
    is_last: bool


class Feed:
    """Takes the text of all choices of one request. Its buffer is bounded by that text."""

    def __init__(self, *, stream: bool, choices: int = 1) -> None:
        """With `stream` False the text is needed only at the end, so the event loop is not woken before."""
        self.failure: SuiteError | None = None
        """Why the generation failed, if it did; the first error counts."""
        self._stream = stream
        self._loop = asyncio.get_running_loop()
        self._pieces: deque[tuple[int, str, str, TokenLogprobs | None]] = deque()
        self._news = asyncio.Event()
        self._open = choices
        """How many choices have not ended. Only the event loop knows."""
        self._over = False
        self._resting = not stream
        """Whether it is too soon for the next chunk. Only the event loop knows."""
        self._listening = stream
        """Whether the engine's thread is to wake the event loop with the next text."""

    def listener(self, choice: int) -> ChoiceListener:
        """What the engine tells the text of one choice."""
        return ChoiceListener(self, choice)

    # --- the engine's thread --------------------------------------------------------------------------------

    def add(self, choice: int, text: str, reasoning: str, logprobs: TokenLogprobs | None) -> None:
        """Add the next text and reasoning of a choice, and the log probabilities.

        The event loop is woken only while it waits for text: each time it wakes and sends a message, the
        decoding threads lose a core for a moment.
        """
        self._pieces.append((choice, text, reasoning, logprobs))
        if self._listening:
            self._listening = False
            self._call(self._wake)

    def end_choice(self, error: SuiteError | None) -> None:
        """Note that no more text comes of a choice, and the error if it failed."""
        self._call(self._end_choice, error)

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

    def _end_choice(self, error: SuiteError | None) -> None:
        self._open -= 1
        if error is not None or not self._open:
            self.end(error)

    async def next(self) -> News:
        """Wait for text, at least `CHUNK_SECONDS` after the previous call; return all that is new."""
        await self._news.wait()
        self._news.clear()
        over = self._over  # checked before taking the text: when it is set, all text is here
        deltas = self._taken()
        if over:
            self._news.set()
        elif self._stream:
            self._rest()
        return News(deltas, over)

    def _taken(self) -> tuple[TextDelta, ...]:
        """Take what has come, in the order of the choices."""
        came: dict[int, tuple[list[str], list[str], list[TokenLogprobs]]] = {}
        while self._pieces:
            choice, piece, thought, likely = self._pieces.popleft()
            text, reasoning, logprobs = came.setdefault(choice, ([], [], []))
            text.append(piece)
            reasoning.append(thought)
            if likely is not None:
                logprobs.append(likely)
        return tuple(
            TextDelta(choice, "".join(text), tuple(logprobs), "".join(reasoning))
            for choice, (text, reasoning, logprobs) in sorted(came.items())
        )

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


class ChoiceListener:
    """The listener of one choice. It is called in the engine's thread."""

    def __init__(self, feed: Feed, choice: int) -> None:
        self._feed = feed
        self._choice = choice

    def on_text(self, text: str, logprobs: TokenLogprobs | None = None, *, reasoning: str = "") -> None:
        """Add the next text, the next reasoning, and the log probabilities of their token."""
        self._feed.add(self._choice, text, reasoning, logprobs)

    def on_end(self, error: SuiteError | None) -> None:
        """Note that no more text comes, and the error if it failed."""
        self._feed.end_choice(error)
