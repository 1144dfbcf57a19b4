"""A time that never goes back, from clocks that may."""

from __future__ import annotations

from collections import defaultdict
from datetime import datetime
from functools import lru_cache
from typing import Final

from suite.messages.envelope import Recorded

STEP_SECONDS: Final = 60.0
"""The processes that write the log have clocks of their own, and an event may be a little late in it. What is
further back than this means that a clock was put right, or that another node's clock is ahead."""


class SteadyTime:
    """Seconds that go on with the times of the events in a log, in their order.

    An event that is a little earlier than the one before counts as of the same moment. After a clock that
    was ahead was put right, time goes on from where it was, instead of standing still until it is reached.
    Each node's clock is told apart: otherwise time would run away between two that do not agree.
    """

    def __init__(self, node: str) -> None:
        """`node` is the one whose clock `at` reads."""
        self._own = f"/node/{node}"
        self._ahead: defaultdict[str, float] = defaultdict(float)
        """By how much this time is ahead of the clock of each node, by the source of its events."""
        self._latest = float("-inf")

    def advance(self, event: Recorded) -> float:
        """The seconds of the next event."""
        clock = _clock_of(event.source)
        seconds = event.time.timestamp() + self._ahead[clock]
        behind = self._latest - seconds
        if behind > STEP_SECONDS:
            self._ahead[clock] += behind
        elif behind <= 0.0:
            self._latest = seconds
        return self._latest

    def at(self, time: datetime) -> float:
        """The seconds of a moment after the last event, by the node's own clock. It learns nothing."""
        return max(self._latest, time.timestamp() + self._ahead.get(self._own, 0.0))


@lru_cache(maxsize=1024)
def _clock_of(source: str) -> str:
    """The node of a source: its models' processes, `/node/box1/llama`, have its clock."""
    return "/".join(source.split("/", 3)[:3])
