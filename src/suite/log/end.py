"""How far the log goes, as its leader says: asked once for as many as want to know at the same time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio


class End:
    """The newest sequence that is known of."""

    def __init__(self, ask: Callable[[], Awaitable[int]]) -> None:
        self._ask = ask
        self._asking = anyio.Lock()
        self._begun = 0
        self._answered = 0
        self.known = 0
        """The log goes at least so far."""

    def note(self, seq: int) -> None:
        """The log goes at least so far."""
        self.known = max(self.known, seq)

    async def reaches(self, seq: int) -> bool:
        """Whether the log has come to this sequence by now. Raises what asking does.

        The leader is asked only beyond what is known. Those that come while it is asked wait for the next
        answer and share it: the one on its way may not know of what they have seen stored.
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
