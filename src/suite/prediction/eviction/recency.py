"""LRU: the model that was not used for the longest time leaves first."""

from __future__ import annotations

from collections.abc import Sequence

from suite.prediction.eviction.policy import Candidate, Fact, Used
from suite.prediction.recent import Recent


class LeastRecentlyUsed:
    """Knows no sizes and no costs; the comparator of every claim."""

    name = "lru"

    def __init__(self) -> None:
        self._order = Recent[int]()
        self._uses = 0

    def fold(self, fact: Fact) -> None:
        """Remember who was used last."""
        if isinstance(fact, Used):
            self._uses += 1
            self._order.use(fact.model_id, self._uses)

    def worth(self, candidate: Candidate, *, now: float) -> float:
        """The number of its last use; 0 for a model that was never used."""
        return self.worths([candidate], now=now)[0]

    def worths(self, candidates: Sequence[Candidate], *, now: float) -> list[float]:
        """The same of each."""
        del now
        last = self._order.get
        return [last(each.model_id, 0) for each in candidates]
