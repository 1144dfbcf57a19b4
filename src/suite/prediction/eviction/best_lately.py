"""The default: follows whichever policy would have cost the least lately, on this very history.

No policy is the best everywhere: what is learned needs a history, Greedy-Dual is strong where much memory
meets steady use, and plain recency where use drifts. So each has a shadow cache of the size of the real
memory, and the one whose loads would have taken the fewest seconds lately decides. At first that is the first
of them: LRU, until another has done better.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from suite.domain.footprint import Footprint
from suite.prediction.eviction.frequency import DecayedFrequency
from suite.prediction.eviction.greedy_dual import GreedyDual
from suite.prediction.eviction.policy import Candidate, EvictionPolicy, Fact, Loaded, Used
from suite.prediction.eviction.recency import LeastRecentlyUsed
from suite.prediction.eviction.relaxed_belady import RelaxedBelady
from suite.prediction.eviction.shadow import ShadowCache

MARGIN: Final = 0.02
"""By which share another policy must be better to be followed instead: equals are not followed in turns."""


class BestLately:
    """Orders as the policy does that would have cost the least lately."""

    name = "best_lately"

    def __init__(self, limit_bytes: Footprint, policies: Sequence[EvictionPolicy] | None = None) -> None:
        experts = policies or (LeastRecentlyUsed(), DecayedFrequency(), GreedyDual(), RelaxedBelady())
        self._shadows = [ShadowCache(policy, limit_bytes) for policy in experts]
        self._limit_bytes = limit_bytes
        self._followed = self._shadows[0]
        self._candidates: dict[str, Candidate] = {}
        """By model: what it cost when it was last loaded."""

    @property
    def followed(self) -> str:
        """The name of the policy that decides now."""
        return self._followed.policy.name

    def fold(self, fact: Fact) -> None:
        """Let every shadow learn of a use; remember what loads cost."""
        match fact:
            case Used():
                candidate = self._candidates.get(fact.model_id)
                cold = [shadow.use(fact, candidate) for shadow in self._shadows]
                if any(cold):  # otherwise all costs have only decayed, by the same share
                    self._follow()
            case Loaded():
                self._candidates[fact.candidate.model_id] = fact.candidate.counted_in(self._limit_bytes)
            case _:
                pass

    def worth(self, candidate: Candidate, *, now: float) -> float:
        """What the policy says that is followed now."""
        return self._followed.policy.worth(candidate, now=now)

    def worths(self, candidates: Sequence[Candidate], *, now: float) -> list[float]:
        """The same of each."""
        return self._followed.policy.worths(candidates, now=now)

    def _follow(self) -> None:
        best = min(self._shadows, key=lambda shadow: shadow.cost_seconds)
        if best.cost_seconds < self._followed.cost_seconds * (1.0 - MARGIN):
            self._followed = best
