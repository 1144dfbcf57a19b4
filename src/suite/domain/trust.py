"""How far a model is to be trusted: a fold of its evaluations, its crashes and its latency (ADR 11).

Pure, and of facts only: samples expire, what is known of a model does not::

    trust(Evidence(evaluations=(Evaluated(trust_score=0.9),), loads=3, crashes=0))
"""

from __future__ import annotations

from typing import Final

import msgspec

RECENT: Final = 50
"""So many of the latest evaluations count."""

HALVED_AFTER: Final = 10
"""An evaluation weighs half of what the one so many later weighs."""

NEUTRAL: Final = 0.5
"""What one evaluation that nobody made says of every model, weighing as much as the newest one."""

SLOW_MS: Final = 5_000.0
"""A latency that halves the responsiveness."""

_WEIGHTS: Final = tuple(0.5 ** (age / HALVED_AFTER) for age in range(RECENT))


class Evaluated(msgspec.Struct, frozen=True, kw_only=True):
    """What one evaluation says."""

    trust_score: float
    """0 to 1."""
    avg_latency_ms: float = 0.0
    """0: not measured."""


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a model."""

    evaluations: tuple[Evaluated, ...] = ()
    """Those that are not retracted, the latest first; more than `RECENT` do not count."""
    loads: int = 0
    crashes: int = 0


def trust(evidence: Evidence) -> float | None:
    """0 to 1: quality times reliability times responsiveness; None when nothing is known."""
    if not evidence.evaluations and not evidence.loads and not evidence.crashes:
        return None
    return quality(evidence) * reliability(evidence) * responsiveness(evidence)


def quality(evidence: Evidence) -> float:
    """The mean of the trust scores, the newest weighing most, drawn towards `NEUTRAL` when they are few."""
    total, weights = NEUTRAL, 1.0
    for weight, evaluated in zip(_WEIGHTS, evidence.evaluations, strict=False):
        total += weight * evaluated.trust_score
        weights += weight
    return total / weights


def reliability(evidence: Evidence) -> float:
    """The share of its lives that did not end in a crash, counting one that went well and nobody saw."""
    lives = max(evidence.loads, evidence.crashes)
    return (lives - evidence.crashes + 1) / (lives + 1)


def responsiveness(evidence: Evidence) -> float:
    """The mean over the evaluations that measured a latency, 1 for none and half at `SLOW_MS`; 1 if none did.

    The mean is not over latencies: one absurd measurement shall not outweigh all others.
    """
    total = weights = 0.0
    for weight, evaluated in zip(_WEIGHTS, evidence.evaluations, strict=False):
        if evaluated.avg_latency_ms > 0:
            total += weight / (1 + evaluated.avg_latency_ms / SLOW_MS)
            weights += weight
    return total / weights if weights else 1.0
