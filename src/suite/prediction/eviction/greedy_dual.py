"""Greedy-Dual with remembered frequency (FaasCache, ASPLOS'21).

A model's value is the clock at its last use plus its uses so far, times its reload cost, per byte. The clock
rises to the value of whatever leaves, so that models that are not used any more are overtaken in time. The
number of uses outlives an eviction.
"""

from __future__ import annotations

from collections.abc import Sequence

from suite.prediction.eviction.policy import Candidate, Evicted, Fact, Used
from suite.prediction.recent import Recent


class GreedyDual:
    """Keeps what was often used and is dear to load, and forgets it in step with the evictions."""

    name = "greedy_dual"

    def __init__(self) -> None:
        self._clock = 0.0
        self._uses = Recent[int]()
        self._clock_at_use = Recent[float]()

    def fold(self, fact: Fact) -> None:
        """Count a use; let the clock rise with an eviction."""
        match fact:
            case Used():
                self._uses.use(fact.model_id, self._uses.get(fact.model_id, 0) + 1)
                self._clock_at_use.use(fact.model_id, self._clock)
            case Evicted():
                self._clock = max(self._clock, self.worth(fact.candidate, now=fact.at))
            case _:
                pass

    def worth(self, candidate: Candidate, *, now: float) -> float:
        """Its value, in seconds per byte."""
        return self.worths([candidate], now=now)[0]

    def worths(self, candidates: Sequence[Candidate], *, now: float) -> list[float]:
        """The same of each."""
        del now  # evictions move its clock, not time
        uses, clock_at_use = self._uses.get, self._clock_at_use.get
        return [
            clock_at_use(each.model_id, 0.0) + uses(each.model_id, 0) * each.density for each in candidates
        ]
