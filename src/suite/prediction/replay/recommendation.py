"""Which policy, budget and keep-alive would have served a history best, and how sure that is.

Best is who waits least. Of those that differ from it by less than users notice, the one that uses the least
memory over time is recommended; and the default policy, if it is as good as another.

How sure that is, a bootstrap tells: the periods of the history (its days, or hours) are drawn again and again
with replacement, and all outcomes are compared on the same periods each time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from operator import mul
from random import Random
from typing import Final

import msgspec

from suite.prediction.eviction.policies import DEFAULT
from suite.prediction.eviction.recency import LeastRecentlyUsed
from suite.prediction.replay.belady import Belady
from suite.prediction.replay.history import ENOUGH_PERIODS
from suite.prediction.replay.outcome import Outcome
from suite.prediction.replay.page import budget, period_name

DRAWS: Final = 1_000
MOST_PERIODS: Final = 400
"""Of a longer history, several periods are drawn as one."""
CONFIDENCE: Final = 0.9
SAME: Final = 0.02
"""Two that differ by less than this share, of waiting or of memory over time, are the same to a user."""


class Interval(msgspec.Struct, frozen=True, kw_only=True):
    """A figure, and where it lies in 90 of 100 histories that are drawn again."""

    estimate: float
    low: float
    high: float


class Recommendation(msgspec.Struct, frozen=True, kw_only=True):
    """What would have served best."""

    policy: str
    memory_gb: float | None
    keep_alive: str
    """How long a model stays after a use; empty: as long as nobody needs its memory."""
    with_bets: bool
    name: str
    """All of it but the budget, as in the table."""
    waited_seconds: float
    instead_of: str
    """What it is compared with: LRU with the same budget, or the TTL that waits most where there is none."""
    saved_percent: Interval
    """How much less was waited than with that, in percent of it."""
    saved_seconds: Interval
    gb_hours_saved: float
    """How much less memory over time it used than that."""
    again_percent: float
    """In how many of 100 histories that are drawn again it is recommended again."""
    periods: int
    """How many periods with requests the history has."""
    period_seconds: float
    is_long_enough: bool
    """Whether there are enough of them to say how sure this is."""
    certain: bool
    """Whether it is sure that anything is saved."""


class _Waits:
    """What each outcome waited in histories that are drawn again: all from the same periods."""

    def __init__(self, outcomes: Sequence[Outcome], seed: int) -> None:
        all_ = {period.number for outcome in outcomes for period in outcome.periods}
        self.merged = _merged(all_)
        """So many periods are drawn as one."""
        numbers = sorted({number // self.merged for number in all_})
        random = Random(seed)
        self.periods = len(numbers)
        draws = [Counter(random.choices(numbers, k=len(numbers))) for _ in range(DRAWS)]
        self._weights = [[draw[number] for number in numbers] for draw in draws]
        self._numbers = numbers

    def of(self, outcome: Outcome) -> list[float]:
        """The seconds that an outcome waited in each draw."""
        by_number = dict.fromkeys(self._numbers, 0.0)
        for period in outcome.periods:
            by_number[period.number // self.merged] += period.waited_seconds
        waits = list(by_number.values())
        return [sum(map(mul, weights, waits)) for weights in self._weights]


def _merged(numbers: Collection[int]) -> int:
    """How many periods of a long history to take as one, so that the draws stay small."""
    merged = 1
    while len({number // merged for number in numbers}) > MOST_PERIODS:
        merged *= 2
    return merged


def choose(outcomes: Sequence[Outcome]) -> Outcome:
    """The one that would have served best, of those that a service can have."""
    return _best({index: each.waited_seconds for index, each in _able(outcomes).items()}, outcomes)


def recommend(outcomes: Sequence[Outcome], *, seed: int = 0) -> Recommendation:
    """Compare the outcomes of one history. The same outcomes and seed give the same answer."""
    able = _able(outcomes)
    chosen = choose(outcomes)
    other = _compared(chosen, list(able.values()))
    waits = _Waits(outcomes, seed)
    drawn = {index: waits.of(each) for index, each in able.items()}
    again = sum(
        _best({index: of[draw] for index, of in drawn.items()}, outcomes) is chosen for draw in range(DRAWS)
    )
    before, after = waits.of(other), waits.of(chosen)
    saved = other.waited_seconds - chosen.waited_seconds
    seconds = _interval(saved, [b - a for b, a in zip(before, after, strict=True)])
    is_long_enough = waits.periods >= ENOUGH_PERIODS
    return Recommendation(
        policy=chosen.policy,
        memory_gb=chosen.memory_gb,
        keep_alive=chosen.keep_alive,
        with_bets=chosen.with_bets,
        name=chosen.name,
        waited_seconds=chosen.waited_seconds,
        instead_of=other.name,
        saved_percent=_interval(
            _percent(saved, other.waited_seconds),
            [_percent(b - a, b) for b, a in zip(before, after, strict=True)],
        ),
        saved_seconds=seconds,
        gb_hours_saved=other.gb_hours - chosen.gb_hours,
        again_percent=100 * again / DRAWS,
        periods=waits.periods,
        period_seconds=chosen.period_seconds * waits.merged,
        is_long_enough=is_long_enough,
        certain=is_long_enough and seconds.low > 0,
    )


def sentences(advice: Recommendation, outcomes: Sequence[Outcome]) -> list[str]:
    """A recommendation in plain words."""
    hours = f"{advice.waited_seconds / 3600:,.1f}"
    return [
        f"recommended: {_setting(advice)}",
        f"with that, requests would have waited {hours} hours for memory and loads: {_saving(advice)}",
        _certainty(advice),
        *_other_budgets(advice, outcomes),
    ]


def _setting(advice: Recommendation) -> str:
    kind, _, seconds = advice.keep_alive.partition("_")
    stay = {
        "": "models stay until others need their memory",
        "ttl": f"models leave when they were not used for {seconds} s",
    }.get(kind, f"models stay as long as was learned, for the memory of {seconds} s after each use")
    bets = (
        ", and are loaded before they are asked for where that is likely to pay" if advice.with_bets else ""
    )
    return f"{advice.policy} with {budget(advice.memory_gb)}; {stay}{bets}"


def _saving(advice: Recommendation) -> str:
    if advice.name == advice.instead_of:
        return "nothing that was compared saved more"
    if not _saves(advice):
        return f"as good as {advice.instead_of} in as much memory; nothing saved"
    percent = advice.saved_percent
    sure = f", 90 % sure: {percent.low:.1f} to {percent.high:.1f} %" if advice.is_long_enough else ""
    return (
        f"{percent.estimate:.1f} % less than with {advice.instead_of} in as much memory "
        f"({advice.saved_seconds.estimate / 3600:,.1f} hours{sure})"
    )


def _saves(advice: Recommendation) -> bool:
    return advice.name != advice.instead_of and advice.saved_seconds.estimate > 0


def _certainty(advice: Recommendation) -> str:
    period = period_name(advice.period_seconds)
    if not advice.is_long_enough:
        needed = f"{ENOUGH_PERIODS} periods of {period} with requests"
        return f"how sure that is cannot be told: it takes {needed}, and there are {advice.periods}"
    again = f"{advice.again_percent:.0f} of 100 histories drawn from the {advice.periods} periods of {period}"
    is_proved = advice.certain or not _saves(advice)
    return f"{again} recommend the same{'' if is_proved else '; it is not sure that this saves anything'}"


def _other_budgets(advice: Recommendation, outcomes: Sequence[Outcome]) -> list[str]:
    """What the best would have waited with each other budget, in a line."""
    able = list(_able(outcomes).values())
    others = dict.fromkeys(each.memory_gb for each in able if each.memory_gb != advice.memory_gb)
    best = [
        min((each for each in able if each.memory_gb == other), key=lambda each: each.waited_seconds)
        for other in others
    ]
    told = "; ".join(
        f"{budget(each.memory_gb)}: {each.waited_seconds / 3600:,.1f} hours with {each.name}" for each in best
    )
    return [f"other budgets: {told}"] if told else []


def _able(outcomes: Sequence[Outcome]) -> Mapping[int, Outcome]:
    """By place: those that know no future, and whose policy did not fail."""
    return {
        index: each for index, each in enumerate(outcomes) if each.policy != Belady.name and not each.remark
    }


def _best(waited: Mapping[int, float], outcomes: Sequence[Outcome]) -> Outcome:
    """Of those that wait least those with the least memory over time; of these the default if it is there."""
    shortest = min(waited.values()) * (1.0 + SAME)
    quick = [index for index, seconds in waited.items() if seconds <= shortest]
    least = min(outcomes[index].gb_hours for index in quick) * (1.0 + SAME)
    small = [index for index in quick if outcomes[index].gb_hours <= least]
    return outcomes[min(small, key=lambda index: (outcomes[index].policy != DEFAULT, waited[index]))]


def _compared(chosen: Outcome, able: Sequence[Outcome]) -> Outcome:
    same = [each for each in able if each.memory_gb == chosen.memory_gb]
    plain = [each for each in same if each.name == LeastRecentlyUsed.name]
    return plain[0] if plain else max(same, key=lambda each: each.waited_seconds)


def _percent(part: float, whole: float) -> float:
    return 100 * part / whole if whole else 0.0


def _interval(estimate: float, drawn: list[float]) -> Interval:
    drawn.sort()
    tail = (1 - CONFIDENCE) / 2
    return Interval(
        estimate=estimate,
        low=drawn[int(tail * len(drawn))],
        high=drawn[min(int((1 - tail) * len(drawn)), len(drawn) - 1)],
    )
