"""Facts about aliases, and about the promotions of versions to them."""

from __future__ import annotations

from typing import Literal, TypeAlias

from suite.messages.events.base import Event, event
from suite.messages.promotion import Finding, Gates, TakeBackReason


class AliasEvent(Event, frozen=True, kw_only=True):
    """A fact about one alias: a name that stands for a version of a model (ADR 70, 71)."""

    alias: str

    @property
    def ids(self) -> tuple[str, ...]:  # noqa: D102 - as the base says
        return (self.alias,)


@event("alias", "set")
class AliasSet(AliasEvent, frozen=True, kw_only=True, omit_defaults=True):
    """The alias stands for this model from now on. A promotion of it that was under way has ended."""

    model_id: str
    version: int = 0
    """The version, by number. 0: whichever the model is at."""
    requested_by: str = ""
    """How the requester calls itself; empty if it does not."""


@event("alias", "removed")
class AliasRemoved(AliasEvent, frozen=True, kw_only=True, omit_defaults=True):
    """The alias stands for nothing any more, or for what is configured."""

    requested_by: str = ""
    """How the requester calls itself; empty if it does not."""


class PromotionEvent(AliasEvent, frozen=True, kw_only=True):
    """A fact about the promotion of a version: the alias is to stand for it."""

    promotion_id: str
    model_id: str
    """The model to be promoted."""
    version: int
    """Its version, by number."""


@event("alias", "promotion_started")
class PromotionStarted(PromotionEvent, frozen=True, kw_only=True, omit_defaults=True):
    """A version is to be promoted. Until it is ready, and the gates are met, the old one serves alone.

    If a promotion of the same version was under way, it goes on on these terms.
    """

    old_model_id: str
    """The model that serves now."""
    old_version: int = 0
    """Its version; 0: whichever the model is at."""
    canary_share: float = 0.0
    """Which part of the requests it gets once it is ready, 0 to 1."""
    gates: Gates | None = None
    """What evaluations must show. None: nothing."""
    take_back: tuple[TakeBackReason, ...] = ()
    """What takes it back by itself after it was promoted."""
    requested_by: str = ""
    """How the requester calls itself; empty if it does not."""


@event("alias", "canary_started")
class CanaryStarted(PromotionEvent, frozen=True, kw_only=True, omit_defaults=True):
    """The version is loaded, and gets its share of the requests from now on."""

    canary_share: float
    node: str = ""
    """Where it is loaded."""


@event("alias", "promoted")
class Promoted(PromotionEvent, frozen=True, kw_only=True, omit_defaults=True):
    """The version is ready, and the alias stands for it from now on."""

    old_model_id: str
    old_version: int = 0
    node: str = ""
    """Where it is loaded."""
    findings: tuple[Finding, ...] = ()
    """What the evaluations say about each gate."""


PromotionEnd: TypeAlias = Literal[
    "requested", "gates", "crash_loop", "load_failed", "gone", "not_enough_memory", "waited_too_long"
]
"""Why a promotion ended before its version was promoted. `gates`: evaluations show that one will not be met;
`gone`: the version is on no node any more; `not_enough_memory`: no node that has it can have it beside what
stays there, which is what serves until it is ready, what is pinned, and what other promotions keep;
`waited_too_long`: what it waited for has not come in time."""


@event("alias", "promotion_stopped")
class PromotionStopped(PromotionEvent, frozen=True, kw_only=True, omit_defaults=True):
    """The version is not promoted: the old one serves all requests."""

    reason: PromotionEnd
    detail: str = ""
    """More about the reason, for people."""
    findings: tuple[Finding, ...] = ()
    """What the evaluations say about each gate."""
    requested_by: str = ""
    """How the requester calls itself; empty if it does not, or if nobody asked for it."""


TakenBackReason: TypeAlias = Literal["requested", "retraction", "crash_loop"]


@event("alias", "taken_back")
class TakenBack(PromotionEvent, frozen=True, kw_only=True, omit_defaults=True):
    """A version that was promoted serves no more: the alias stands again for the one before it."""

    old_model_id: str
    """What the alias stands for again."""
    old_version: int = 0
    reason: TakenBackReason
    detail: str = ""
    """More about the reason, for people, such as the id of the evaluation."""
    findings: tuple[Finding, ...] = ()
    """What the evaluations that are left say about each gate."""
    requested_by: str = ""
    """How the requester calls itself; empty if it does not, or if nobody asked for it."""
