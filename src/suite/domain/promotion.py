"""Decides whether a version may be promoted: gates, with the uncertainty of evaluations counted (ADR 71)::

    found = findings(gates, new, old, canary)     # what evaluations and the canary say about each gate
    verdict(found)                                # "met", "open" until there is enough, or "missed"
    next_step(promotion, outlook)                 # what is done next, or why it ends

A gate is met when the confidence bound of the mean is on its right side, and missed when the other bound is
on its wrong side. In between it is open: more evaluations will tell. The bounds are those of Student's t for
one mean, and of Welch's t for the difference of two (Welch 1947), one-sided.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from statistics import fmean, variance
from typing import Final, Literal, NamedTuple, TypeAlias

import msgspec

from suite.domain.aliases import Promotion
from suite.domain.students_t import quantile
from suite.errors import GatesContradict
from suite.messages.events import PromotionEnd
from suite.messages.promotion import Estimate, Finding, Gates, MetricName, ScoreGate, Verdict

Step: TypeAlias = Literal["load", "canary", "promote", "wait"]
"""What is done next about a promotion."""

MOST_WAIT_SECONDS: Final = 30 * 86_400.0
"""So long a promotion waits, whatever for, since it was asked for last, or since its canary began."""
LOAD_WAIT_SECONDS: Final = 3600.0
"""So long the load may take to begin that is due: meanwhile the old version serves, and nobody minds."""
SHARE_WAIT_SECONDS: Final = 60.0
"""So long a canary may be without memory that others keep for good: the requests of its share fail."""

EVALUATIONS: Final = 10
"""So many evaluations there must be before bounds are judged, if the gates do not say how many."""
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


class Canary(NamedTuple):
    """How long a version has had its share of the requests, and what came of that."""

    requests: int = 0
    """How many it has answered since."""
    seconds: float = 0.0


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


def needed_evaluations(gates: Gates) -> int:
    """How many evaluations of a version there must be."""
    if gates.evaluations is not None:
        return gates.evaluations
    return 0 if _asks_for_canary(gates) and not any(bounds(gates)) else EVALUATIONS


def check(gates: Gates, canary_share: float) -> None:
    """Raise GatesContradict for gates that do not go together, or that ask for nothing."""
    asked = tuple(bounds(gates))
    for name, gate in (("trust", gates.trust), ("accuracy", gates.accuracy), ("latency", gates.latency)):
        if gate is not None and not any(each.metric == name for each in asked):
            bounds_of = "at_most_ms or not_worse_by_ms" if name == "latency" else "at_least or not_worse_by"
            raise GatesContradict(
                f"gates.{name} has no bound, so it asks for nothing: set {bounds_of}, or leave it out"
            )
    _check_bounds(gates, asked)
    for name in ("canary_requests", "canary_seconds"):
        if (wanted := getattr(gates, name)) is not None and not canary_share:
            raise GatesContradict(
                f"{name} = {wanted:g} contradicts canary_share = 0: without a share of the requests none "
                "come before it is promoted; set canary_share (`--canary`), or leave the gate out"
            )


def _check_bounds(gates: Gates, asked: Collection[Bound]) -> None:
    """Raise GatesContradict if evaluations are asked for that nothing is judged by, or too few for that."""
    evaluations = needed_evaluations(gates)
    if not asked and (gates.evaluations or not _asks_for_canary(gates)):
        what = f"{gates.evaluations} evaluations, whatever they say" if gates.evaluations else "nothing"
        raise GatesContradict(
            f"the gates ask for {what}: set a bound of gates.accuracy, gates.trust or gates.latency, ask for "
            "canary_requests or canary_seconds alone, or promote without gates"
        )
    if asked and gates.confidence > 0.5 and evaluations < 2:
        raise GatesContradict(
            f"evaluations = {evaluations} and confidence = {gates.confidence} contradict: one "
            "evaluation does not tell how much they differ; ask for 2 at least, or set confidence = 0.5"
        )


def _asks_for_canary(gates: Gates) -> bool:
    return gates.canary_requests is not None or gates.canary_seconds is not None


def findings(
    gates: Gates, new: Sequence[Sample], old: Sequence[Sample], canary: Canary | None
) -> tuple[Finding, ...]:
    """What is known of each gate: by the evaluations of the new version, and of the one that serves now.

    `canary`: what came of its share of the requests so far; None after the promotion, when that is past.
    """
    found = list(_canary_findings(gates, canary)) if canary is not None else []
    needed = needed_evaluations(gates)
    if not needed and not any(bounds(gates)):
        return tuple(found)
    enough = len(new) >= needed
    found.append(_counted("evaluations", needed, len(new)))
    for bound in bounds(gates):
        finding = _finding(bound, gates.confidence, _values(new, bound), _values(old, bound))
        # Before there are as many evaluations as were asked for, none is too bad.
        found.append(finding if enough else msgspec.structs.replace(finding, verdict="open"))
    return tuple(found)


def _canary_findings(gates: Gates, canary: Canary) -> Iterator[Finding]:
    if gates.canary_requests is not None:
        yield _counted("canary_requests", gates.canary_requests, canary.requests)
    if gates.canary_seconds is not None:
        yield _counted("canary_seconds", gates.canary_seconds, canary.seconds)


def _counted(gate: str, needed: float, found: float) -> Finding:
    """A gate that asks for so much of something. It is never missed: more may come."""
    return Finding(
        gate=gate, verdict="met" if found >= needed else "open", needed=float(needed), found=float(found)
    )


def verdict(found: Sequence[Finding]) -> Verdict:
    """What follows from all gates together."""
    verdicts = {each.verdict for each in found}
    if "missed" in verdicts:
        return "missed"
    return "open" if "open" in verdicts else "met"


class End(NamedTuple):
    """A promotion ends before its version serves."""

    reason: PromotionEnd


class Outlook(msgspec.Struct, frozen=True, kw_only=True):
    """What is known about a promotion in the moment in which it is decided what is done next."""

    verdict: Verdict = "open"
    """Of its gates."""
    is_there: bool = True
    """Whether a node that has the version is there."""
    is_ready: bool = False
    """Whether the version is loaded on one."""
    has_failed: bool = False
    """Whether it has failed again and again since it was asked for."""
    fits: bool = True
    """Whether it could ever be loaded beside what serves and what is pinned."""
    is_kept_out: bool = False
    """Whether it is not in memory, and has no room there beside what other promotions keep."""
    waited_seconds: float = 0.0
    """Since it was asked for last, or its canary began."""
    blocked_seconds: float = 0.0
    """For how long its load is due on a node that is there and has not begun, or it is kept out."""


def next_step(promotion: Promotion, outlook: Outlook) -> Step | End:
    """What is done next about a promotion, or why it ends.

    With a share of the requests it comes to the canary first, for as long as the gates say. Without gates it
    stays there, until somebody promotes it without one. Whatever it waits for, it ends some time: when that
    cannot come any more, or has not come for too long.
    """
    if (reason := _why_over(outlook)) is not None:
        return End(reason)
    step = _step(promotion, outlook)
    if step in ("canary", "promote"):
        return step
    if (reason := _why_not_loaded(promotion, step, outlook)) is not None:
        return End(reason)
    return End("waited_too_long") if outlook.waited_seconds >= most_wait_seconds(promotion) else step


def most_wait_seconds(promotion: Promotion) -> float:
    """How long it may wait in the state that it is in; how long a canary was asked to be is not waiting."""
    gates = promotion.gates
    asked = gates.canary_seconds if gates is not None and promotion.is_canary else None
    return MOST_WAIT_SECONDS + (asked or 0.0)


def _why_over(outlook: Outlook) -> PromotionEnd | None:
    if outlook.has_failed:
        return "crash_loop"
    return "gates" if outlook.verdict == "missed" else None


def _step(promotion: Promotion, outlook: Outlook) -> Step:
    wants_share = promotion.canary_share > 0 and not promotion.is_canary
    stays = promotion.canary_share > 0 and promotion.gates is None
    if not wants_share and (outlook.verdict == "open" or stays):
        return "wait"
    if promotion.is_canary and not outlook.is_there:
        return "wait"  # what serves answers its share
    if not outlook.is_ready:
        return "load"
    return "canary" if wants_share else "promote"


def _why_not_loaded(promotion: Promotion, step: Step, outlook: Outlook) -> PromotionEnd | None:
    """Why a version that is to be in memory will not be, as its load is due or it has its share."""
    has_share = promotion.is_canary and outlook.is_there
    if step != "load" and not has_share:
        return None
    if not outlook.fits:
        return "not_enough_memory"
    if outlook.is_kept_out:
        most = SHARE_WAIT_SECONDS if has_share else LOAD_WAIT_SECONDS
        return "not_enough_memory" if outlook.blocked_seconds >= most else None
    is_overdue = step == "load" and outlook.blocked_seconds >= LOAD_WAIT_SECONDS
    return "waited_too_long" if is_overdue else None


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
