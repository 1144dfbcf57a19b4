"""Retries a decision that conflicts with another writer: read, decide, append, and on a conflict repeat::

attempts = Attempts("the start of node box1")
while True:
    last_seq = await log.last_seq(aggregate)
    ...
    try:
        return await log.append(event, expect=Expectation(subject=aggregate, last_seq=last_seq))
    except Conflict as conflict:
        await attempts.again(conflict)
"""

from __future__ import annotations

from typing import Final

import anyio

from suite.errors import Conflict

MOST: Final = 12
"""The number of attempts. With their pauses they take some seconds; by then other writers are done."""
FIRST_PAUSE_SECONDS: Final = 0.01
LONGEST_PAUSE_SECONDS: Final = 1.0


class Attempts:
    """Counts the attempts at one decision, and pauses between them."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._made = 0
        self._pause = FIRST_PAUSE_SECONDS

    async def again(self, conflict: Conflict) -> None:
        """Wait before the next attempt, longer each time. Raises Conflict when no attempt is left."""
        self._made += 1
        if self._made >= MOST:
            raise Conflict(
                f"{self._what} is not in the log after {self._made} attempts: each time something else was "
                f"stored in between ({conflict.message}); see who writes there, and try again"
            ) from conflict
        await anyio.sleep(self._pause)
        self._pause = min(2 * self._pause, LONGEST_PAUSE_SECONDS)
