"""Habits around a model, as features: which conversations used it last, and when in the day it is used."""

from __future__ import annotations

from collections import OrderedDict
from math import exp, log, log1p
from typing import Final

_SHORT, _LONG = (-log(2.0) / half_life for half_life in (300.0, 3_600.0))
"""How long a conversation counts that says nothing more: the decay, by half-lives in seconds."""
MOST_CONVERSATIONS: Final = 10_000
_DAY_SECONDS: Final = 86_400
_PART_SECONDS: Final = 1_800
_PARTS: Final = _DAY_SECONDS // _PART_SECONDS
_DAYS: Final = 3.0
"""Half-life of what was used on a day."""
FEATURES: Final = 2 + 1


class LastUsers:
    """How many conversations used a model last, decayed by the time since then.

    A conversation mostly stays with its model: within one the next model is the last one in 7 of 10 cases.
    """

    __slots__ = ("_at", "_counts")

    def __init__(self) -> None:
        self._at = 0.0
        self._counts = (0.0, 0.0)

    def come(self, at: float) -> None:
        """One more conversation has used the model last."""
        short, long = self.counts(at)
        self._counts = (short + 1.0, long + 1.0)
        self._at = at

    def go(self, at: float, came: float) -> None:
        """A conversation that had used it last at `came` has used a model again: this one or another."""
        short, long = self.counts(at)
        since = at - came
        self._counts = (max(short - exp(_SHORT * since), 0.0), max(long - exp(_LONG * since), 0.0))
        self._at = at

    def counts(self, at: float) -> tuple[float, float]:
        """One for each half-life."""
        short, long = self._counts
        seconds = at - self._at if at > self._at else 0.0
        return short * exp(_SHORT * seconds), long * exp(_LONG * seconds)


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
        if not self._parts:
            return 0.0
        day, part = _day_and_part(at)
        share = 1.0 - at % _PART_SECONDS / _PART_SECONDS
        later = _day_and_part(at + _PART_SECONDS)
        return share * self._before(day, part) + (1.0 - share) * self._before(*later)

    def _before(self, day: int, part: int) -> float:
        if part not in self._parts:
            return 0.0
        last, before, on_it = self._parts[part]
        return before if last >= day else (before + on_it) * 0.5 ** ((day - last) / _DAYS)

    def _on(self, day: int, part: int) -> float:
        last, _, on_it = self._parts.get(part, (day, 0.0, 0.0))
        return on_it if last >= day else 0.0


def _day_and_part(at: float) -> tuple[int, int]:
    return divmod(int(at // _PART_SECONDS), _PARTS)


def features(users: LastUsers, hours: TimeOfDay, at: float) -> list[float]:
    """`FEATURES` numbers, all logarithms."""
    short, long = users.counts(at)
    return [log1p(short), log1p(long), log1p(hours.count(at))]
