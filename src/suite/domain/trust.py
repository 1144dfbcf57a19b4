"""Computes the trust in a model from its evaluations, its crashes and its latencies (ADR 11).

It depends on facts only, not on samples, which expire::

    trust(Evidence(evaluations=(Evaluated(trust_score=0.9),), loads=3, crashes=0))
"""

from __future__ import annotations

from typing import Final

import msgspec

RECENT: Final = 50
"""The number of latest evaluations that count."""

HALVED_AFTER: Final = 10
"""The half-life of an evaluation's weight, in evaluations."""

NEUTRAL: Final = 0.5
"""The prior: every model has one imaginary evaluation with this score and the weight of the newest one."""

SLOW_MS: Final = 5_000.0
"""The latency at which the responsiveness is one half."""

_WEIGHTS: Final = tuple(0.5 ** (age / HALVED_AFTER) for age in range(RECENT))


class Evaluated(msgspec.Struct, frozen=True, kw_only=True):
    """The scores of one evaluation."""

    trust_score: float
    """0 to 1."""
    avg_latency_ms: float = 0.0
    """0: not measured."""


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """All that is known about a model."""

    evaluations: tuple[Evaluated, ...] = ()
    """Evaluations that are not retracted, latest first; only the first `RECENT` count."""
    loads: int = 0
    crashes: int = 0


def trust(evidence: Evidence) -> float | None:
    """The trust, 0 to 1: quality times reliability times responsiveness. None if nothing is known."""
    if not evidence.evaluations and not evidence.loads and not evidence.crashes:
        return None
    return quality(evidence) * reliability(evidence) * responsiveness(evidence)


def quality(evidence: Evidence) -> float:
    """The weighted mean of the trust scores and `NEUTRAL`; newer scores weigh more."""
    total, weights = NEUTRAL, 1.0
    for weight, evaluated in zip(_WEIGHTS, evidence.evaluations, strict=False):
        total += weight * evaluated.trust_score
        weights += weight
    return total / weights


def reliability(evidence: Evidence) -> float:
    """The share of its instances that did not crash, counting one imaginary instance that did not."""
    instances = max(evidence.loads, evidence.crashes)
    return (instances - evidence.crashes + 1) / (instances + 1)


def responsiveness(evidence: Evidence) -> float:
    """The weighted mean of 1 / (1 + latency / `SLOW_MS`) over the evaluations with a latency; 1 without any.

    It is not computed from the mean latency, so that one absurd measurement does not outweigh all others.
    """
    total = weights = 0.0
    for weight, evaluated in zip(_WEIGHTS, evidence.evaluations, strict=False):
        if evaluated.avg_latency_ms > 0:
            total += weight / (1 + evaluated.avg_latency_ms / SLOW_MS)
            weights += weight
    return total / weights if weights else 1.0
