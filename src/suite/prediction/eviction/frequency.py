"""Decayed frequency: each use counts half after an hour; a seldom used model leaves first."""

from __future__ import annotations

from collections.abc import Sequence
from math import exp2
from typing import Final

from suite.prediction.eviction.policy import Candidate, Fact, Used
from suite.prediction.recent import Recent

HALF_LIFE_SECONDS: Final = 3600.0


class DecayedFrequency:
    """The decayed number of uses, times the seconds that a load takes, per byte."""

    name = "decayed_frequency"

    def __init__(self, half_life_seconds: float = HALF_LIFE_SECONDS) -> None:
        self._half_life_seconds = half_life_seconds
        self._uses = Recent[tuple[float, float]]()
        """By model: the decayed number of its uses at its last use, and the time of that."""

    def fold(self, fact: Fact) -> None:
        """Count one more use."""
        if isinstance(fact, Used):
            self._uses.use(fact.model_id, (self._count(fact.model_id, fact.at) + 1.0, fact.at))

    def worth(self, candidate: Candidate, *, now: float) -> float:
        """Expected seconds saved per byte, up to a factor that is the same for all models."""
        return self.worths([candidate], now=now)[0]

    def worths(self, candidates: Sequence[Candidate], *, now: float) -> list[float]:
        """The same of each."""
        return [self._count(each.model_id, now) * each.density for each in candidates]

    def _count(self, model_id: str, now: float) -> float:
        count, at = self._uses.get(model_id, (0.0, now))
        return count * exp2((at - now) / self._half_life_seconds) if now > at else count
