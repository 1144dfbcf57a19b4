"""Belady's rule: the model that is used again the latest leaves. It knows the future, so it is a bound.

With models of equal size and equal load time nobody who has to load what is asked for has fewer cold starts.
(A lower figure is in the literature for caches that may serve a request without keeping what they loaded, and
without making room for it; a model that is used has to be in memory.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from suite.prediction.eviction.policy import Candidate, Fact, Used
from suite.prediction.replay.history import Request


class Belady:
    """Knows when each model is used next."""

    name = "belady"

    def __init__(self, requests: Sequence[Request]) -> None:
        self._times = [request.at for request in requests]
        self._uses: dict[str, list[int]] = {}
        """By model, the numbers of its future uses, the next one last."""
        for number in reversed(range(len(requests))):
            self._uses.setdefault(requests[number].model_id, []).append(number)

    def fold(self, fact: Fact) -> None:
        """A use that was in the future is over."""
        if isinstance(fact, Used):
            future = self._uses[fact.model_id]
            if future and self._times[future[-1]] <= fact.at:
                future.pop()

    def worth(self, candidate: Candidate, *, now: float) -> float:
        """The sooner its next use, the more."""
        future = self._uses.get(candidate.model_id, [])
        while future and self._times[future[-1]] < now:  # refused
            future.pop()
        return -float(future[-1]) if future else -math.inf

    def worths(self, candidates: Sequence[Candidate], *, now: float) -> list[float]:
        """The same of each."""
        return [self.worth(each, now=now) for each in candidates]
