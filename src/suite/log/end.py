"""Finds out how far the log goes. Concurrent callers share one request to the stream's leader."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio


class End:
    """The newest sequence of the log, as far as this process knows."""

    def __init__(self, ask: Callable[[], Awaitable[int]]) -> None:
        self._ask = ask
        self._asking = anyio.Lock()
        self._begun = 0
        self._answered = 0
        self.known = 0
        """The highest sequence known to exist. The log may have grown since."""

    def note(self, seq: int) -> None:
        """Record that the log has reached this sequence."""
        self.known = max(self.known, seq)

    async def reaches(self, seq: int) -> bool:
        """Whether the log has reached this sequence. Raises the errors of the request to the leader.

        The leader is asked only if the sequence is above the known one. Callers that arrive while a request
        is under way share the next one: the answer to the current one may predate what they saw stored.
        """
        if seq <= self.known:
            return True
        begun = self._begun
        async with self._asking:
            if self._answered <= begun:
                self._begun += 1
                number = self._begun
                self.note(await self._ask())
                self._answered = number
        return seq <= self.known
