"""Decides whether evaluations let a version be promoted: gates, with the uncertainty counted (ADR 71)::

    found = findings(gates, new, old)     # what the evaluations of both versions say about each gate
    verdict(found)                        # "met", "open" until there is enough evidence, or "missed"

A gate is met when the confidence bound of the mean is on its right side, and missed when the other bound is
on its wrong side. In between it is open: more evaluations will tell. The bounds are those of Student's t for
one mean, and of Welch's t for the difference of two (Welch 1947), one-sided.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from statistics import fmean, variance
from typing import Final, Literal, NamedTuple, TypeAlias

import msgspec

from suite.domain.aliases import Promotion
from suite.domain.students_t import quantile
from suite.errors import GatesContradict
from suite.messages.promotion import Estimate, Finding, Gates, MetricName, ScoreGate, Verdict

Step: TypeAlias = Literal["stop", "load", "canary", "promote", "wait"]
"""What is done next about a promotion."""

MOST_VALUE: Final = 1e15
"""What is beyond, in whichever direction, is no measurement: not even its square could be told."""


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """What one evaluation has measured; None: it has not."""

    trust: float | None = None
    accuracy: float | None = None
    latency_ms: float | None = None

    def value(self, metric: MetricName) -> float | None:
        """What it has measured of this."""
        match metric:
            case "trust":
                return self.trust
            case "accuracy":
                return self.accuracy
            case "latency":
                return self.latency_ms


class Bound(NamedTuple):
    """One gate: a bound of one metric."""

    name: str
    metric: MetricName
    needed: float
    more_is_better: bool
    is_relative: bool
    """Whether it bounds the difference to the version that serves now."""


def bounds(gates: Gates) -> Iterator[Bound]:
    """The gates that are set, but for the number of evaluations."""
    scores: dict[MetricName, ScoreGate | None] = {"trust": gates.trust, "accuracy": gates.accuracy}
    for score, gate in scores.items():
        if gate is not None and gate.at_least is not None:
            yield Bound(f"{score}.at_least", score, gate.at_least, True, False)
        if gate is not None and gate.not_worse_by is not None:
            yield Bound(f"{score}.not_worse_by", score, gate.not_worse_by, True, True)
    if gates.latency is not None:
        if gates.latency.at_most_ms is not None:
            yield Bound("latency.at_most_ms", "latency", gates.latency.at_most_ms, False, False)
        if gates.latency.not_worse_by_ms is not None:
            yield Bound("latency.not_worse_by_ms", "latency", gates.latency.not_worse_by_ms, False, True)


def check(gates: Gates) -> None:
    """Raise GatesContradict for gates that do not go together, or that say nothing."""
    asked = tuple(bounds(gates))
    for name, gate in (("trust", gates.trust), ("accuracy", gates.accuracy), ("latency", gates.latency)):
        if gate is not None and not any(each.metric == name for each in asked):
            raise GatesContradict(
                f"gate {name}: it has no bound, so it says nothing; set one, or leave it out"
            )
    if not asked and not gates.evaluations:
        raise GatesContradict("the gates ask for nothing: set a bound, or promote without gates")
    if asked and gates.confidence > 0.5 and gates.evaluations < 2:
        raise GatesContradict(
            f"evaluations = {gates.evaluations} and confidence = {gates.confidence} contradict: one "
            "evaluation does not tell how much they differ; ask for 2 at least, or set confidence = 0.5"
        )


def findings(gates: Gates, new: Sequence[Sample], old: Sequence[Sample]) -> tuple[Finding, ...]:
    """What the evaluations of the new version, and of the one that serves now, say about each gate."""
    enough = len(new) >= gates.evaluations
    found = [
        Finding(gate="evaluations", verdict="met" if enough else "open", needed=float(gates.evaluations))
    ]
    for bound in bounds(gates):
        finding = _finding(bound, gates.confidence, _values(new, bound), _values(old, bound))
        # Before there are as many evaluations as were asked for, none is too bad.
        found.append(finding if enough else msgspec.structs.replace(finding, verdict="open"))
    return tuple(found)


def verdict(found: Sequence[Finding]) -> Verdict:
    """What follows from all gates together."""
    verdicts = {each.verdict for each in found}
    if "missed" in verdicts:
        return "missed"
    return "open" if "open" in verdicts else "met"


def next_step(promotion: Promotion, found: Verdict, *, is_ready: bool) -> Step:
    """What is done next about a promotion. `is_ready`: whether its version is loaded.

    With a share of the requests it comes to the canary first. Without gates it then stays there, until
    somebody promotes it without one.
    """
    if found == "missed":
        return "stop"
    wants_share = promotion.canary_share > 0 and not promotion.is_canary
    stays = promotion.canary_share > 0 and promotion.gates is None
    if not wants_share and (found == "open" or stays):
        return "wait"
    if not is_ready:
        return "load"
    return "canary" if wants_share else "promote"


def estimate(values: Sequence[float], confidence: float) -> Estimate | None:
    """The mean of these values with its one-sided bounds; None without a value."""
    if not values:
        return None
    mean = fmean(values)
    margin = _margin(values, confidence)
    if margin is None:
        return Estimate(evaluations=len(values), mean=mean)
    return Estimate(evaluations=len(values), mean=mean, low=mean - margin, high=mean + margin)


# --- one gate ---------------------------------------------------------------------------------------------


def _values(samples: Sequence[Sample], bound: Bound) -> list[float]:
    values = (each.value(bound.metric) for each in samples)
    return [each for each in values if each is not None and abs(each) <= MOST_VALUE]


def _finding(bound: Bound, confidence: float, new: Sequence[float], old: Sequence[float]) -> Finding:
    sign = 1.0 if bound.more_is_better else -1.0
    if bound.is_relative:
        interval, needed = _difference(new, old, confidence), -bound.needed
    else:
        interval, needed = _interval(new, confidence), sign * bound.needed
    return Finding(
        gate=bound.name,
        verdict="open" if interval is None else _judged(interval, sign, needed),
        needed=bound.needed,
        new=estimate(new, confidence),
        old=estimate(old, confidence) if bound.is_relative else None,
    )


class _Interval(NamedTuple):
    low: float
    high: float


def _judged(interval: _Interval, sign: float, needed: float) -> Verdict:
    low, high = sorted((sign * interval.low, sign * interval.high))
    if low >= needed or math.isclose(low, needed, abs_tol=1e-12):
        return "met"
    return "missed" if high < needed else "open"


def _interval(values: Sequence[float], confidence: float) -> _Interval | None:
    found = estimate(values, confidence)
    if found is None or found.low is None or found.high is None:
        return None
    return _Interval(found.low, found.high)


def _margin(values: Sequence[float], confidence: float) -> float | None:
    """By how much the mean may be off; None if that is not known."""
    if confidence == 0.5:
        return 0.0
    if len(values) < 2:
        return None
    return quantile(confidence, len(values) - 1.0) * math.sqrt(variance(values) / len(values))


def _difference(new: Sequence[float], old: Sequence[float], confidence: float) -> _Interval | None:
    """The bounds of the mean of the new values minus that of the old ones; None if they are not known."""
    if not new or not old:
        return None
    difference = fmean(new) - fmean(old)
    if confidence == 0.5:
        return _Interval(difference, difference)
    if len(new) < 2 or len(old) < 2:
        return None
    a, b = variance(new) / len(new), variance(old) / len(old)
    if a + b == 0:
        return _Interval(difference, difference)
    part = a / (a + b)  # of parts, as the squares of small variances would be 0
    freedom = 1 / (part**2 / (len(new) - 1) + (1 - part) ** 2 / (len(old) - 1))
    margin = quantile(confidence, freedom) * math.sqrt(a + b)
    return _Interval(difference - margin, difference + margin)
