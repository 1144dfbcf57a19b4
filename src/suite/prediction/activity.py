"""How active a model was: decayed counts of its uses, as features that a regression learns from."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, repeat
from math import exp, log, log1p
from operator import mul
from typing import Final

_HALF_LIVES_SECONDS: Final = (300.0, 3_600.0, 86_400.0)
_HALF_LIVES_REQUESTS: Final = (8.0, 128.0)
_RATES: Final = tuple(-log(2.0) / each for each in _HALF_LIVES_SECONDS)
_REQUEST_RATES: Final = tuple(-log(2.0) / each for each in _HALF_LIVES_REQUESTS)
_COUNTS: Final = len(_RATES) + len(_REQUEST_RATES)
FEATURES: Final = 1 + 2 + _COUNTS
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

    __slots__ = ("_counts", "last_at", "last_request")

    def __init__(self) -> None:
        self.last_at = 0.0
        self.last_request = 0
        self._counts = [0.0] * _COUNTS

    def use(self, clock: Clock) -> None:
        """Count a use by the request that the clock was advanced for."""
        self._counts = [count + 1.0 for count in self._decayed(clock.now, clock.requests)]
        self.last_at = clock.now
        self.last_request = clock.requests

    def features(self, clock: Clock, now: float) -> list[float]:
        """What is known of it now: `FEATURES` numbers, all but the first logarithms."""
        seconds = max(now - self.last_at, 0.0)
        requests = clock.requests - self.last_request
        return [1.0, log1p(seconds), log1p(requests), *map(log1p, self._decayed(now, clock.requests))]

    def _decayed(self, now: float, request: int) -> Iterator[float]:
        seconds = repeat(max(now - self.last_at, 0.0))
        requests = repeat(request - self.last_request)
        # In C from end to end: this runs several times for each use, and for each model that might leave.
        exponents = chain(map(mul, _RATES, seconds), map(mul, _REQUEST_RATES, requests))
        return map(mul, self._counts, map(exp, exponents))
