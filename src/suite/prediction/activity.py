"""How active a model was: decayed counts of its uses, as features that a regression learns from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import exp, log, log1p
from typing import Final, TypeAlias

_MINUTES, _HOURS, _DAYS = (-log(2.0) / half_life for half_life in (300.0, 3_600.0, 86_400.0))
_FEW, _MANY = (-log(2.0) / half_life for half_life in (8.0, 128.0))
"""The decay of the counts, by half-lives in seconds and in requests."""
_Counts: TypeAlias = tuple[float, float, float, float, float]
FEATURES: Final = 1 + 2 + 5
"""One that is constant, the time and the requests since the last use, and a count for each half-life."""


class Clock:
    """The time and the number of requests so far. A time that goes back counts as no time gone by."""

    __slots__ = ("now", "requests")

    def __init__(self) -> None:
        self.now = 0.0
        self.requests = 0

    def advance(self, at: float) -> None:
        """One more request."""
        self.requests += 1
        self.now = max(self.now, at) if self.requests > 1 else at


class Activity:
    """The uses of one model, decayed by several half-lives in seconds and in requests of the whole node."""

    __slots__ = ("counts", "last_at", "last_request")

    def __init__(self) -> None:
        self.last_at = 0.0
        self.last_request = 0
        self.counts: _Counts = (0.0, 0.0, 0.0, 0.0, 0.0)

    def use(self, clock: Clock) -> None:
        """Count a use by the request that the clock was advanced for."""
        # Written out, here and below: this runs several times a use, and for each model that might leave.
        minutes, hours, days, few, many = self.counts
        seconds = clock.now - self.last_at if clock.now > self.last_at else 0.0
        requests = clock.requests - self.last_request
        self.counts = (
            minutes * exp(_MINUTES * seconds) + 1.0,
            hours * exp(_HOURS * seconds) + 1.0,
            days * exp(_DAYS * seconds) + 1.0,
            few * exp(_FEW * requests) + 1.0,
            many * exp(_MANY * requests) + 1.0,
        )
        self.last_at = clock.now
        self.last_request = clock.requests

    def features(self, clock: Clock, now: float) -> list[float]:
        """What is known of it now: `FEATURES` numbers, all but the first logarithms."""
        minutes, hours, days, few, many = self.counts
        seconds = now - self.last_at if now > self.last_at else 0.0
        requests = clock.requests - self.last_request
        return [
            1.0,
            log1p(seconds),
            log1p(requests),
            log1p(minutes * exp(_MINUTES * seconds)),
            log1p(hours * exp(_HOURS * seconds)),
            log1p(days * exp(_DAYS * seconds)),
            log1p(few * exp(_FEW * requests)),
            log1p(many * exp(_MANY * requests)),
        ]


def scores(activities: Iterable[Activity], weights: Sequence[float], clock: Clock, now: float) -> list[float]:
    """Of each, the sum of its features, each times its weight: in one go, as decisions consist of this."""
    one, since, between, of_minutes, of_hours, of_days, of_few, of_many = weights
    all_requests, told = clock.requests, []
    for activity in activities:
        minutes, hours, days, few, many = activity.counts
        seconds = now - activity.last_at if now > activity.last_at else 0.0
        requests = all_requests - activity.last_request
        told.append(
            one
            + since * log1p(seconds)
            + between * log1p(requests)
            + of_minutes * log1p(minutes * exp(_MINUTES * seconds))
            + of_hours * log1p(hours * exp(_HOURS * seconds))
            + of_days * log1p(days * exp(_DAYS * seconds))
            + of_few * log1p(few * exp(_FEW * requests))
            + of_many * log1p(many * exp(_MANY * requests))
        )
    return told
