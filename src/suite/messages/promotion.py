"""What decides about a promotion: gates, and what was found of each. Events and actions have it (ADR 71)."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import Meta

TakeBackReason: TypeAlias = Literal["retraction", "crash_loop"]
"""What takes a promoted version back by itself. `retraction`: an evaluation of it was retracted, and what is
left would not promote it; `crash_loop`: it failed again and again, and is quarantined."""
MetricName: TypeAlias = Literal["trust", "accuracy", "latency"]
Verdict: TypeAlias = Literal["met", "open", "missed"]
"""`open`: the evaluations that there are do not tell yet."""
_MOST = 1_000_000_000
"""More than this is a slip of the finger, and too much for what counts it."""


class ScoreGate(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """What a score from 0 to 1 must be, of which more is better."""

    at_least: Annotated[float, Meta(ge=0, le=1)] | None = None
    """Whatever the version has that serves now. Null: anything."""
    not_worse_by: Annotated[float, Meta(ge=0, le=1)] | None = None
    """How much less it may be than that of the version that serves now; 0: nothing. Null: anything."""


class LatencyGate(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """What the mean latency of an evaluation must be, of which less is better. In milliseconds."""

    at_most_ms: Annotated[float, Meta(gt=0)] | None = None
    """Whatever the version has that serves now. Null: anything."""
    not_worse_by_ms: Annotated[float, Meta(ge=0)] | None = None
    """How much more it may be than that of the version that serves now; 0: nothing. Null: anything."""


class Gates(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """What must be seen of a version before it is promoted; `promotion.toml` has the same fields.

    Bounds are compared with one-sided confidence bounds of the mean, not with the mean alone.
    """

    evaluations: Annotated[int, Meta(ge=0, le=_MOST)] | None = None
    """How many evaluations of the version there must be at least, for the bounds to be judged. Null: 10."""
    confidence: Annotated[float, Meta(ge=0.5, lt=1)] = 0.95
    """How sure each gate must be. 0.5: the mean alone counts."""
    trust: ScoreGate | None = None
    """Of the trust scores that evaluators gave."""
    accuracy: ScoreGate | None = None
    latency: LatencyGate | None = None
    """Of ``avg_latency_ms``."""
    canary_requests: Annotated[int, Meta(ge=1, le=_MOST)] | None = None
    """How many requests the version must have answered since it got its share of them, at least: also those
    that named it. Null: none need have come."""
    canary_seconds: Annotated[float, Meta(gt=0, le=_MOST)] | None = None
    """For how long it must have had its share, at least. Null: for no time."""


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """A mean over evaluations, and between which bounds it lies with the confidence of the gates."""

    evaluations: int
    mean: float
    low: float | None = None
    """Null: too few evaluations to tell."""
    high: float | None = None


class Finding(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is known about one gate."""

    gate: str
    """As in `promotion.toml`, such as ``accuracy.not_worse_by``."""
    verdict: Verdict
    needed: float
    """The bound of the gate."""
    new: Estimate | None = None
    """Of the version to be promoted. None: there is no such evaluation of it."""
    old: Estimate | None = None
    """Of the version that serves now, for gates that compare with it."""
    found: float | None = None
    """Of gates that ask for a number or a time: how much of it there is. None: of others, and in events of
    versions that did not say it."""
