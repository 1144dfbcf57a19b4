"""Relaxed Belady, learned online (LRB, NSDI'20): the model that is least likely to be used soon leaves first.

Belady's rule evicts what is used again the latest. Relaxed, it is enough to know what is not used again
within the next requests, and that can be learned: at each request one model's activity is put aside; when
the horizon is over it is known whether the model was used, and a logistic regression learns from it.

On the trace that it was made with, horizons between 20 and 200 requests differ by less than 0.5 points of
cold starts at 2 to 12 resident models (ADR 41), so there is one for all sizes of memory.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Final

from suite.prediction.activity import FEATURES, Activity, Clock, scores
from suite.prediction.eviction.policy import Candidate, Fact, Used
from suite.prediction.logistic import OnlineLogistic, chance
from suite.prediction.recent import Recent

HORIZON: Final = 64
"""How many requests ahead it looks."""
_NEVER_USED: Final = Activity()
_GOLDEN: Final = 0.6180339887498949
"""Multiples of it, modulo 1, are spread evenly: samples without randomness."""


class _Sample:
    """The activity of one model that was put aside, to be learned from when the horizon is over."""

    __slots__ = ("activity", "features", "taken_at")

    def __init__(self, activity: Activity, features: list[float], taken_at: int) -> None:
        self.activity = activity
        self.features = features
        self.taken_at = taken_at


class RelaxedBelady:
    """The learned chance of use within the horizon, times the seconds that a load takes, per byte."""

    name = "relaxed_belady"

    def __init__(self, horizon: int = HORIZON) -> None:
        self._horizon = horizon
        self._clock = Clock()
        self._activities = Recent[Activity]()
        self._regression = OnlineLogistic(FEATURES)
        self._samples: deque[_Sample] = deque()

    def fold(self, fact: Fact) -> None:
        """Count a use, put one sample aside, and learn from the one whose horizon is over."""
        if not isinstance(fact, Used):
            return
        self._clock.advance(fact.at)
        self._learn()
        self._put_aside()
        activity = self._activities.get(fact.model_id) or Activity()
        self._activities.use(fact.model_id, activity)
        activity.use(self._clock)

    def worth(self, candidate: Candidate, *, now: float) -> float:
        """Expected seconds saved per byte; a model that was never used has no chance."""
        return self.worths([candidate], now=now)[0]

    def worths(self, candidates: Sequence[Candidate], *, now: float) -> list[float]:
        """The same of each."""
        chances = self._chances([each.model_id for each in candidates], now)
        return [told * each.density for told, each in zip(chances, candidates, strict=True)]

    def chance(self, model_id: str, *, now: float) -> float:
        """The chance that the model is used within the horizon."""
        return self._chances([model_id], now)[0]

    def _chances(self, model_ids: Iterable[str], now: float) -> list[float]:
        known = self._activities.get
        activities = [known(each, _NEVER_USED) for each in model_ids]
        told = scores(activities, self._regression.weights, self._clock, now)
        return [
            0.0 if activity is _NEVER_USED else chance(score)
            for activity, score in zip(activities, told, strict=True)
        ]

    def _put_aside(self) -> None:
        """Sample a model, of those used lately more often: they are the ones that may have to leave."""
        models = len(self._activities)
        if not models:
            return
        share = (self._clock.requests * _GOLDEN) % 1.0
        rank = int(models**share) - 1
        activity = next(islice(reversed(self._activities.values()), rank, None))
        features = activity.features(self._clock, self._clock.now)
        self._samples.append(_Sample(activity, features, self._clock.requests))

    def _learn(self) -> None:
        if not self._samples or self._clock.requests - self._samples[0].taken_at < self._horizon:
            return
        sample = self._samples.popleft()
        self._regression.learn(sample.features, sample.activity.last_request >= sample.taken_at)
