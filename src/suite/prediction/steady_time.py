"""A time that never goes back, from clocks that may."""

from __future__ import annotations

from datetime import datetime
from typing import Final

STEP_SECONDS: Final = 60.0
"""The processes that write the log have clocks of their own, and an event may be a little late in it. What is
further back than this means that a clock was put right."""


class SteadyTime:
    """Seconds that go on with the times of the events in a log, in their order.

    An event that is a little earlier than the one before counts as of the same moment. After a clock that
    was ahead was put right, time goes on from where it was, instead of standing still until it is reached.
    """

    def __init__(self) -> None:
        self._ahead = 0.0
        """By how much this time is ahead of the clocks."""
        self._latest = float("-inf")

    def advance(self, time: datetime) -> float:
        """The seconds of the next event."""
        at = self.at(time)
        self._ahead = self._ahead_at(time)
        self._latest = at
        return at

    def at(self, time: datetime) -> float:
        """The seconds of a moment after the last event; nothing is learned from it."""
        return max(self._latest, time.timestamp() + self._ahead_at(time))

    def _ahead_at(self, time: datetime) -> float:
        behind = self._latest - (time.timestamp() + self._ahead)
        return self._ahead + behind if STEP_SECONDS < behind < float("inf") else self._ahead
