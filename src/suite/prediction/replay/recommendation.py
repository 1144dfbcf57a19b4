"""Which policy, budget and keep-alive would have served a history best, and how sure that is.

The days of a history are drawn again and again with replacement (a bootstrap), and all outcomes are compared
on the same days each time. What is recommended uses the least memory over time among those that waited no
longer than the one that waited least, as far as these days can tell.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Final

import msgspec

from suite.prediction.eviction.recency import LeastRecentlyUsed
from suite.prediction.replay.belady import Belady
from suite.prediction.replay.outcome import Day, Outcome

DRAWS: Final = 1_000
CONFIDENCE: Final = 0.9
_SAME: Final = 0.02
"""Two that differ by less than this share of the waiting are the same to a user."""


class Interval(msgspec.Struct, frozen=True, kw_only=True):
    """A figure, and where it lies with a confidence of 90 %."""

    estimate: float
    low: float
    high: float


class Recommendation(msgspec.Struct, frozen=True, kw_only=True):
    """What would have served best."""

    policy: str
    memory_gb: float | None
    instead_of: str
    """What it is compared with: LRU with the same budget, or the shortest TTL where there is none."""
    saved_percent: Interval
    """How much less was waited for loads than with that, in percent of it."""
    saved_seconds: Interval
    days: int
    """How many days of history it rests on."""
    certain: bool
    """Whether the interval leaves out that nothing is saved."""


def recommend(outcomes: Sequence[Outcome], *, seed: int = 0) -> Recommendation:
    """Compare the outcomes of one history. The same outcomes and seed give the same answer."""
    able = [each for each in outcomes if each.policy != Belady.name and not each.remark]
    best = min(able, key=lambda each: each.waited_seconds)
    draws = _draws(len(best.days), seed)
    equal = [each for each in able if _is_as_good(each, best, draws)]
    chosen = min(equal, key=lambda each: (each.gb_hours, each.waited_seconds))
    other = _compared(chosen, able)
    return _saving(chosen, other, draws)


def _draws(days: int, seed: int) -> list[list[int]]:
    random = Random(seed)
    return [random.choices(range(days), k=days) for _ in range(DRAWS)]


def _waited(days: Sequence[Day], draw: Sequence[int]) -> float:
    return sum(days[index].waited_seconds for index in draw)


def _is_as_good(one: Outcome, best: Outcome, draws: Sequence[Sequence[int]]) -> bool:
    margin = 1.0 + _SAME
    worse = sum(_waited(one.days, draw) > margin * _waited(best.days, draw) for draw in draws)
    return worse <= CONFIDENCE * len(draws)


def _compared(chosen: Outcome, able: Sequence[Outcome]) -> Outcome:
    same = [each for each in able if each.memory_gb == chosen.memory_gb]
    lru = [each for each in same if each.policy == LeastRecentlyUsed.name]
    return lru[0] if lru else max(same, key=lambda each: each.waited_seconds)


def _saving(chosen: Outcome, other: Outcome, draws: Sequence[Sequence[int]]) -> Recommendation:
    seconds, percents = [], []
    for draw in draws:
        before, after = _waited(other.days, draw), _waited(chosen.days, draw)
        seconds.append(before - after)
        percents.append(100 * (before - after) / before if before else 0.0)
    saved = other.waited_seconds - chosen.waited_seconds
    percent = 100 * saved / other.waited_seconds if other.waited_seconds else 0.0
    interval = _interval(saved, seconds)
    return Recommendation(
        policy=chosen.policy,
        memory_gb=chosen.memory_gb,
        instead_of=other.policy,
        saved_percent=_interval(percent, percents),
        saved_seconds=interval,
        days=len(chosen.days),
        certain=interval.low > 0 and len(chosen.days) > 1,
    )


def _interval(estimate: float, drawn: list[float]) -> Interval:
    drawn.sort()
    tail = (1 - CONFIDENCE) / 2
    return Interval(
        estimate=estimate,
        low=drawn[int(tail * len(drawn))],
        high=drawn[min(int((1 - tail) * len(drawn)), len(drawn) - 1)],
    )
