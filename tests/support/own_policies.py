"""Policies of somebody's own that do what they should not."""

from __future__ import annotations

import itertools
import os

from suite.prediction.eviction.policy import Candidate
from suite.prediction.eviction.recency import LeastRecentlyUsed


class Unstoppable(LeastRecentlyUsed):
    """Loops where nothing in its process can interrupt it."""

    def worth(self, candidate: Candidate, *, now: float) -> float:
        """It never answers."""
        del candidate, now
        return sum(itertools.repeat(1.0))


class Quits(LeastRecentlyUsed):
    """Ends the whole process."""

    def worth(self, candidate: Candidate, *, now: float) -> float:
        """It never answers."""
        del candidate, now
        os._exit(0)
