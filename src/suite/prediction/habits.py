"""Habits around a model, as features: which conversations used it last, and when in the day it is used."""

from __future__ import annotations

from collections import OrderedDict
from math import exp, log, log1p
from typing import Final

_HALF_LIVES_SECONDS: Final = (300.0, 3_600.0)
"""How long a conversation counts that says nothing more."""
_RATES: Final = tuple(log(2.0) / each for each in _HALF_LIVES_SECONDS)
MOST_CONVERSATIONS: Final = 10_000
_DAY_SECONDS: Final = 86_400
_PART_SECONDS: Final = 1_800
"""The day has 48 parts."""
_DAYS: Final = 3.0
"""Half-life of what was used on a day."""
FEATURES: Final = len(_HALF_LIVES_SECONDS) + 1


class LastUsers:
    """How many conversations used a model last, decayed by the time since then.

    A conversation mostly stays with its model: within one the next model is the last one in 7 of 10 cases.
    """

    __slots__ = ("_at", "_counts")

    def __init__(self) -> None:
        self._at = 0.0
        self._counts = [0.0] * len(_RATES)

    def come(self, at: float) -> None:
        """One more conversation has used the model last."""
        self._counts = [each + 1.0 for each in self.counts(at)]
        self._at = at

    def go(self, at: float, came: float) -> None:
        """A conversation that had used it last at `came` has used a model again: this one or another."""
        gone = [exp(-rate * (at - came)) for rate in _RATES]
        self._counts = [max(count - each, 0.0) for count, each in zip(self.counts(at), gone, strict=True)]
        self._at = at

    def counts(self, at: float) -> list[float]:
        """One for each half-life."""
        seconds = max(at - self._at, 0.0)
        return [count * exp(-rate * seconds) for count, rate in zip(self._counts, _RATES, strict=True)]


class Conversations:
    """Which model each conversation used last; the least recent are forgotten."""

    def __init__(self) -> None:
        self._last: OrderedDict[str, tuple[LastUsers, float]] = OrderedDict()

    def use(self, conversation: str, users: LastUsers, at: float) -> None:
        """A conversation has used the model of these users."""
        before = self._last.pop(conversation, None)
        if before is not None:
            left, came = before
            left.go(at, came)
        users.come(at)
        self._last[conversation] = (users, at)
        if len(self._last) > MOST_CONVERSATIONS:
            self._last.popitem(last=False)


class TimeOfDay:
    """How often a model was used at each time of the day, on the days before."""

    __slots__ = ("_parts",)

    def __init__(self) -> None:
        self._parts: dict[int, tuple[int, float, float]] = {}
        """By part of the day: the last day with a use, the uses before that day, the uses on it."""

    def use(self, at: float) -> None:
        """Count a use."""
        day, part = _day_and_part(at)
        self._parts[part] = (day, self._before(day, part), self._on(day, part) + 1.0)

    def count(self, at: float) -> float:
        """The uses within half an hour from this time of the day on, on the days before, decayed by day."""
        day, part = _day_and_part(at)
        share = 1.0 - at % _PART_SECONDS / _PART_SECONDS
        later = _day_and_part(at + _PART_SECONDS)
        return share * self._before(day, part) + (1.0 - share) * self._before(*later)

    def _before(self, day: int, part: int) -> float:
        last, before, on_it = self._parts.get(part, (day, 0.0, 0.0))
        return before if last >= day else (before + on_it) * 0.5 ** ((day - last) / _DAYS)

    def _on(self, day: int, part: int) -> float:
        last, _, on_it = self._parts.get(part, (day, 0.0, 0.0))
        return on_it if last >= day else 0.0


def _day_and_part(at: float) -> tuple[int, int]:
    day, seconds = divmod(at, _DAY_SECONDS)
    return int(day), int(seconds // _PART_SECONDS)


def features(users: LastUsers, hours: TimeOfDay, at: float) -> list[float]:
    """`FEATURES` numbers, all logarithms."""
    return [*map(log1p, users.counts(at)), log1p(hours.count(at))]
