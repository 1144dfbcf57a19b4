"""The chance that a model is used within a time, learned from its uses, and how well it was calibrated.

At each use one model's activity is put aside. When the time is over it is known whether the model was used; a
logistic regression learns from that, and a reliability curve shows what became of chances of that size. What
the curve shows corrects the next chances.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import islice
from typing import Final

import msgspec

from suite.messages.envelope import Recorded
from suite.messages.events import Generated, UsageRecorded
from suite.prediction import habits
from suite.prediction.activity import FEATURES, Activity, Clock
from suite.prediction.habits import Conversations, LastUsers, TimeOfDay
from suite.prediction.logistic import OnlineLogistic, chance
from suite.prediction.recent import Recent
from suite.prediction.steady_time import SteadyTime
from suite.prediction.uses import conversation_of

HORIZON_SECONDS: Final = 1_800.0
BINS: Final = 10
LEARNING_RATE: Final = 0.02
SAMPLE_SECONDS: Final = 60.0
"""Between two uses, a chance is put aside about this often."""
MOST_SAMPLES: Final = 10
"""But no more of them than this, however long nothing was used."""
MOST_TOLD: Final = 4_000
"""How many chances wait for their settlement at most, in about 2 MB."""
_DENSE: Final = MOST_TOLD // 2
"""From so many on, at most one is put aside in each part of the horizon, so that they are of all of it."""
_PRIOR: Final = 50.0
"""How many settled chances a bin needs before its own record counts as much as the regression."""
_GOLDEN: Final = 0.6180339887498949
"""Multiples of it, modulo 1, are spread evenly: samples without randomness."""


class Bin(msgspec.Struct, frozen=True, kw_only=True):
    """The chances of about the same size that were settled."""

    count: int
    predicted: float
    """The mean of the chances."""
    observed: float
    """The share of them that came true."""


class Calibration:
    """What became of the chances that were told."""

    def __init__(self) -> None:
        self._counts = [0] * BINS
        self._predicted = [0.0] * BINS
        self._hits = [0] * BINS
        self._squares = 0.0

    def settle(self, told: float, came_true: bool) -> None:
        """Record one."""
        bin_ = _bin(told)
        self._counts[bin_] += 1
        self._predicted[bin_] += told
        self._hits[bin_] += came_true
        self._squares += (told - came_true) ** 2

    def corrected(self, told: float) -> float:
        """The chance, moved by as much as chances of its size were off so far."""
        bin_ = _bin(told)
        off = (self._hits[bin_] - self._predicted[bin_]) / (self._counts[bin_] + _PRIOR)
        return min(max(told + off, 0.0), 1.0)

    @property
    def count(self) -> int:
        """How many were settled."""
        return sum(self._counts)

    @property
    def brier(self) -> float | None:
        """The mean squared error of all that was told; None before the first was settled."""
        return self._squares / self.count if self.count else None

    @property
    def brier_of_base_rate(self) -> float | None:
        """What it would be for one who always tells the share that came true in the end."""
        if not self.count:
            return None
        rate = sum(self._hits) / self.count
        return rate * (1 - rate)

    def curve(self) -> Sequence[Bin]:
        """The reliability curve, without empty bins."""
        return tuple(
            Bin(count=count, predicted=predicted / count, observed=hits / count)
            for count, predicted, hits in zip(self._counts, self._predicted, self._hits, strict=True)
            if count
        )


def _bin(told: float) -> int:
    return int(told * BINS) if told < 1.0 else BINS - 1


class _Model:
    """What is known of the uses of one model."""

    __slots__ = ("activity", "hours", "users")

    def __init__(self) -> None:
        self.activity = Activity()
        self.users = LastUsers()
        self.hours = TimeOfDay()


class _Told(msgspec.Struct, kw_only=True):
    """A chance that waits for its settlement."""

    activity: Activity
    features: array[float]
    """As an array: thousands wait, and a list would take three times the memory."""
    raw: float
    """What the regression said."""
    chance: float
    """What was told, after the correction."""
    request: int
    """The number of the last use before it."""
    until: float


class UseChance:
    """A fold of uses: each model's chance of being used within the horizon."""

    def __init__(self, horizon_seconds: float = HORIZON_SECONDS) -> None:
        self.horizon_seconds = horizon_seconds
        self.calibration = Calibration()
        """Of what was told."""
        self._raw_calibration = Calibration()
        """Of what the regression said, by which it is corrected."""
        self._clock = Clock()
        self._regression = OnlineLogistic(2 * FEATURES + habits.FEATURES, rate=LEARNING_RATE)
        self._all = Activity()
        """The uses of all models together."""
        self._models = Recent[_Model]()
        self._conversations = Conversations()
        self._told: deque[_Told] = deque()
        self._samples = 0

    def used(self, model_id: str, at: float, *, conversation: str = "") -> None:
        """Learn of a use; settle what is due, and put chances aside that were true since the use before.

        ``conversation``: or whatever else is known of who used it; empty: unknown.
        """
        self._put_aside(at)
        self._clock.advance(at)
        self._settle()
        model = self._models.get(model_id) or _Model()
        self._models.use(model_id, model)
        model.activity.use(self._clock)
        self._all.use(self._clock)
        model.hours.use(self._clock.now)
        if conversation:
            self._conversations.use(conversation, model.users, self._clock.now)

    def chance(self, model_id: str, *, now: float) -> float:
        """The chance of a use from now on within the horizon; 0 for a model that was never used."""
        model = self._models.get(model_id)
        if model is None:
            return 0.0
        return self._raw_calibration.corrected(self._raw(self._features(model, now)))

    def chances(self, model_ids: Iterable[str] | None = None, *, now: float) -> dict[str, float]:
        """Of those of these models that were ever used; None: of all that were."""
        used = self._models if model_ids is None else [each for each in model_ids if each in self._models]
        return {model_id: self.chance(model_id, now=now) for model_id in used}

    def _features(self, model: _Model, now: float) -> list[float]:
        return [
            *model.activity.features(self._clock, now),
            *self._all.features(self._clock, now),
            *habits.features(model.users, model.hours, now),
        ]

    def _raw(self, features: list[float]) -> float:
        return chance(self._regression.score(features))

    def _put_aside(self, now: float) -> None:
        """Sample moments evenly in time, since chances are asked for at any time."""
        if not self._models or len(self._told) >= MOST_TOLD or self._is_too_soon(now):
            return
        gap = max(now - self._clock.now, 0.0)
        count = min(1 + int(gap / SAMPLE_SECONDS), MOST_SAMPLES)
        for number in range(count):
            self._sample(self._clock.now + gap * number / count)

    def _is_too_soon(self, now: float) -> bool:
        if len(self._told) < _DENSE:
            return False
        last = self._told[-1].until - self.horizon_seconds
        return now < last + self.horizon_seconds / _DENSE

    def _sample(self, at: float) -> None:
        self._samples += 1
        share = (self._samples * _GOLDEN) % 1.0
        models = len(self._models)
        # In turns, any model, and one that was used lately: of those the chances differ most.
        rank = int(models * share) if self._samples % 2 else int(models**share) - 1
        model = next(islice(reversed(self._models.values()), rank, None))
        features = self._features(model, at)
        raw = self._raw(features)
        told = _Told(
            activity=model.activity,
            features=array("d", features),
            raw=raw,
            chance=self._raw_calibration.corrected(raw),
            request=self._clock.requests,
            until=at + self.horizon_seconds,
        )
        self._told.append(told)

    def _settle(self) -> None:
        # Whatever was due before this use has only seen uses within its horizon.
        while self._told and self._told[0].until < self._clock.now:
            told = self._told.popleft()
            came_true = told.activity.last_request > told.request
            self._regression.learn(told.features, came_true)
            self._raw_calibration.settle(told.raw, came_true)
            self.calibration.settle(told.chance, came_true)


class ChanceFold:
    """The chances of uses on any node: a request finds the node that has its model (ADR 62)."""

    name: Final = "the chances of use"
    aggregates: Final = ("usage",)

    def __init__(self, node: str, use_chance: UseChance) -> None:
        """`node` is the one whose clock is read."""
        self._use_chance = use_chance
        self._time = SteadyTime(node)

    @property
    def horizon_seconds(self) -> float:
        """The time within which a use counts."""
        return self._use_chance.horizon_seconds

    @property
    def calibration(self) -> Calibration:
        """Of chances that were told at moments spread over time, of models with and without bets."""
        return self._use_chance.calibration

    def fold(self, event: Recorded) -> None:
        """Learn of one more event."""
        if isinstance(event.data, Generated | UsageRecorded):
            self._use_chance.used(
                event.data.model_id,
                self._time.advance(event),
                conversation=conversation_of(event.data),
            )

    def chance(self, model_id: str, *, now: datetime) -> float:
        """The chance of a use from now on within the horizon; 0 for a model that was never used."""
        return self._use_chance.chance(model_id, now=self._time.at(now))

    def chances(self, model_ids: Iterable[str], *, now: datetime) -> dict[str, float]:
        """Of those of these models that were ever used."""
        return self._use_chance.chances(model_ids, now=self._time.at(now))
