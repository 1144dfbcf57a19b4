"""How long a model stays after a use if nobody needs its memory."""

from __future__ import annotations

from math import exp, log
from typing import Final, Protocol

from suite.messages.envelope import Recorded
from suite.prediction.activity import FEATURES, Activity, Clock
from suite.prediction.logistic import OnlineLogistic, chance
from suite.prediction.recent import Recent
from suite.prediction.steady_time import SteadyTime
from suite.prediction.uses import use_of


class KeepAlive(Protocol):
    """Says how long a model stays, from the uses so far."""

    @property
    def name(self) -> str:
        """Its name in replies."""

    def used(self, model_id: str, at: float) -> None:
        """Learn of a use."""

    def seconds(self, model_id: str) -> float:
        """How long the model stays from its last use on, if it is not used again."""


class TimeToLive:
    """The same time for all, whatever happens: the comparator of every claim."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.name = f"ttl_{seconds:g}"

    def used(self, model_id: str, at: float) -> None:
        """It learns nothing."""

    def seconds(self, model_id: str) -> float:
        """Always the same."""
        del model_id
        return self._seconds


class KeepAliveFold:
    """A keep-alive that learns from one node's events."""

    name: Final = "the keep-alive"
    aggregates: Final = ("usage",)

    def __init__(self, node: str, keep_alive: LearnedKeepAlive) -> None:
        self._node = node
        self._keep_alive = keep_alive
        self._time = SteadyTime(node)

    def fold(self, event: Recorded) -> None:
        """Learn of one more event."""
        model_id = use_of(event.data, self._node)
        if model_id is not None:
            self._keep_alive.used(model_id, self._time.advance(event))

    def seconds(self, model_id: str) -> float:
        """How long the model stays from its last use on."""
        return self._keep_alive.seconds(model_id)


_EDGES: Final = tuple(30.0 * 2.0**step for step in range(12))
"""Seconds after a use at which it is decided whether the model stays on: 30 s to 17 hours."""
_STARTS: Final = (0.0, *_EDGES[:-1])
_WIDTHS: Final = tuple(end - start for start, end in zip(_STARTS, _EDGES, strict=True))
_AGES: Final = tuple(log((start + end) / 60) for start, end in zip(_STARTS, _EDGES, strict=True))
"""The logarithm of the middle of each interval, in units of 30 s."""
_LEARNING_RATE: Final = 0.01
_FIRST_STEP: Final = 0.2
"""How fast the price follows at first what is spent; later more slowly, so that it is the same at quiet times
and busy ones."""
_LAST_STEP: Final = 0.004
_SLOWER_AFTER: Final = 300
"""Uses after which the step is half of the first."""
_SHARE: Final = 0.975
"""Which share of the memory of the TTL it aims at, so that it ends below it."""


class _Stay:
    """A model since its last use."""

    __slots__ = ("activity", "at", "features", "seconds")

    def __init__(self, activity: Activity) -> None:
        self.activity = activity
        self.at = 0.0
        self.features: list[float] = []
        self.seconds = 0.0


class LearnedKeepAlive:
    """Keeps longer what is likely to come back, and spends the memory over time that a TTL would spend.

    It learns the chance of a use in each interval after a use, if there was none before (a discrete hazard),
    from the model's activity. A model leaves as soon as its chance per second is below a price. The price
    rises while more model-seconds are spent than by the TTL, and falls while fewer are.
    """

    def __init__(self, ttl_seconds: float) -> None:
        self.name = f"learned_{ttl_seconds:g}"
        self._ttl_seconds = ttl_seconds
        self._clock = Clock()
        self._stays = Recent[_Stay]()
        self._hazard = OnlineLogistic(2 * FEATURES + 1, rate=_LEARNING_RATE)
        self._log_price = -log(ttl_seconds)

    def used(self, model_id: str, at: float) -> None:
        """Learn from the time since the last use, and decide how long the model stays now."""
        self._clock.advance(at)
        now = self._clock.now
        stay = self._stays.get(model_id)
        if stay is None:
            stay = _Stay(Activity())
        else:
            self._learn(stay, now - stay.at)
            self._spend(-self._unspent(stay, now - stay.at))
        self._stays.use(model_id, stay)
        gap = stay.activity.features(self._clock, now)[1:3]
        stay.activity.use(self._clock)
        features = stay.activity.features(self._clock, now)
        features[1:3] = gap
        stay.features, stay.at = features, now
        stay.seconds = self._decide(features)
        self._spend(stay.seconds - _SHARE * self._ttl_seconds)

    def seconds(self, model_id: str) -> float:
        """Until the first interval in which staying is dearer than it is likely to save.

        A model that was never used stays as long as by the TTL.
        """
        stay = self._stays.get(model_id)
        return self._ttl_seconds if stay is None else stay.seconds

    def _decide(self, features: list[float]) -> float:
        price = exp(self._log_price)
        for interval, width in enumerate(_WIDTHS):
            if chance(self._hazard.score(_at_age(features, interval))) < price * width:
                return _EDGES[max(interval - 1, 0)]
        return _EDGES[-1]

    def _learn(self, stay: _Stay, gap: float) -> None:
        for interval, edge in enumerate(_EDGES):
            self._hazard.learn(_at_age(stay.features, interval), gap < edge)
            if gap < edge:
                return

    def _spend(self, seconds: float) -> None:
        """Adjust the price to so much more memory over time than the TTL's; less than 0: to less.

        A stay counts as a whole when it begins, as it may be the last one of its model; what of it was not
        spent is given back when the model is used before its end.
        """
        step = max(_FIRST_STEP / (1 + self._clock.requests / _SLOWER_AFTER), _LAST_STEP)
        self._log_price += step * seconds / self._ttl_seconds

    def _unspent(self, stay: _Stay, gap: float) -> float:
        """What of a stay was counted and not spent, less what the TTL did not spend."""
        ours = max(stay.seconds - gap, 0.0)
        return ours - _SHARE * max(self._ttl_seconds - gap, 0.0)


def _at_age(features: list[float], interval: int) -> list[float]:
    """The features of an interval after a use: they may count more or less the longer it is ago."""
    age = _AGES[interval]
    return [*features, *[age * feature for feature in features], age * age]
