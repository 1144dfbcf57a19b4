"""Aliases: which version each stands for, and how that changes (ADR 70, 71).

Each alias is one aggregate. What changes it is decided on its newest state, so of two that change it at once
one wins, and the other is decided anew::

    start(alias, fact)       # a version is to be promoted
    take_back(alias, ...)    # the promotion ends, or what was promoted goes back
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from typing import Final, NamedTuple, TypedDict

import msgspec

from suite.errors import InvalidRequest, NothingToTakeBack, PromotionRunning
from suite.messages.events import (
    AliasRemoved,
    AliasSet,
    CanaryStarted,
    Event,
    Promoted,
    PromotionEnd,
    PromotionStarted,
    PromotionStopped,
    TakenBack,
    TakenBackReason,
)
from suite.messages.promotion import Finding, Gates, TakeBackReason

_HASH_BYTES: Final = 8
_SHARES: Final = 256**_HASH_BYTES
"""How many different values the hash of a request has."""


class Target(NamedTuple):
    """What a name stands for."""

    model_id: str
    version: int = 0
    """0: whichever the model is at."""

    def __str__(self) -> str:
        """As people write it."""
        return f"{self.model_id}@{self.version}" if self.version else self.model_id


class Promotion(msgspec.Struct, frozen=True, kw_only=True):
    """A version that is being promoted, or was."""

    id: str
    target: Target
    old: Target
    canary_share: float = 0.0
    is_canary: bool = False
    """Whether it gets its share of the requests."""
    gates: Gates | None = None
    take_back: tuple[TakeBackReason, ...] = ()


class Alias(msgspec.Struct, frozen=True, kw_only=True):
    """The state of one alias."""

    name: str = ""
    target: Target | None = None
    """None: the log says nothing of it, or it was removed."""
    promotion: Promotion | None = None
    """The promotion that is under way."""
    promoted: Promotion | None = None
    """The promotion by which it stands for its target; None: it was set, or taken back."""

    def chosen(self, request_id: Callable[[], str]) -> Target | None:
        """What it stands for in a request: the same for the same id, wherever it is asked.

        The id is asked for only while a version has a share. Without one the request is not in it.
        """
        running = self.promotion
        if running is not None and running.is_canary and (id := request_id()) and _is_in(running, id):
            return running.target
        return self.target


def evolve(alias: Alias, event: Event) -> Alias:
    """The state after one event of this alias."""
    match event:
        case AliasSet():
            return Alias(name=event.alias, target=Target(event.model_id, event.version))
        case AliasRemoved():
            return Alias(name=event.alias)
        case PromotionStarted():
            return _started(alias, event)
        case CanaryStarted() if _is_running(alias, event.promotion_id):
            assert alias.promotion is not None
            canary = msgspec.structs.replace(alias.promotion, is_canary=True, canary_share=event.canary_share)
            return msgspec.structs.replace(alias, promotion=canary)
        case Promoted() if _is_running(alias, event.promotion_id):
            assert alias.promotion is not None
            return Alias(name=event.alias, target=alias.promotion.target, promoted=alias.promotion)
        case PromotionStopped() if _is_running(alias, event.promotion_id):
            return msgspec.structs.replace(alias, promotion=None)
        case TakenBack():
            return _taken_back(alias, event)
        case _:
            return alias


# --- decisions --------------------------------------------------------------------------------------------
#
# What is decided about a promotion is decided about its terms: with others it is nothing, and looked at anew.


def assign(alias: Alias, fact: AliasSet) -> AliasSet | None:
    """The fact to append when somebody sets an alias; None if it stands for that already, and only that."""
    is_same = alias.target == (fact.model_id, fact.version) and alias.promotion is None
    return None if is_same else fact


def remove(alias: Alias, fact: AliasRemoved) -> AliasRemoved | None:
    """The fact to append when somebody removes an alias; None if there is none."""
    return None if alias.target is None and alias.promotion is None else fact


def start(alias: Alias, fact: PromotionStarted) -> PromotionStarted:
    """The fact to append when a version is to be promoted, in place of the one that serves by now.

    Raises PromotionRunning, and InvalidRequest for the version that serves.
    """
    target, running = Target(fact.model_id, fact.version), alias.promotion
    old = alias.target or Target(fact.old_model_id, fact.old_version)
    if old == target:
        raise InvalidRequest(f"{alias.name} stands for {target} already: promote another one")
    fact = msgspec.structs.replace(fact, old_model_id=old.model_id, old_version=old.version)
    if running is None:
        return fact
    if running.target != target:
        raise PromotionRunning(
            f"{running.target} is being promoted to {alias.name} since before: wait for its end, or end it "
            f"with `suite promote {alias.name} --back`"
        )
    return msgspec.structs.replace(fact, promotion_id=running.id)


def begin_canary(alias: Alias, running: Promotion, node: str) -> CanaryStarted | None:
    """The fact to append when the version is ready for its share; None if it has it, or is not wanted."""
    if alias.promotion != running or running.is_canary:
        return None
    return CanaryStarted(
        **_new(alias, running),
        canary_share=running.canary_share,
        node=node,
    )


def promote(
    alias: Alias, running: Promotion, node: str, findings: tuple[Finding, ...] = ()
) -> Promoted | None:
    """The fact to append when the version is ready, and its gates are met; None if that is not wanted."""
    if alias.promotion != running:
        return None
    return Promoted(
        **_new(alias, running),
        **_old(running),
        node=node,
        findings=findings,
    )


def stop(
    alias: Alias,
    running: Promotion,
    reason: PromotionEnd,
    *,
    detail: str = "",
    findings: tuple[Finding, ...] = (),
    requested_by: str = "",
) -> PromotionStopped | None:
    """The fact to append when a promotion ends before its version serves; None if it has ended already."""
    if alias.promotion != running:
        return None
    return PromotionStopped(
        **_new(alias, running),
        reason=reason,
        detail=detail,
        findings=findings,
        requested_by=requested_by,
    )


def take_back(
    alias: Alias,
    done: Promotion,
    reason: TakenBackReason,
    *,
    detail: str = "",
    findings: tuple[Finding, ...] = (),
    requested_by: str = "",
) -> TakenBack | None:
    """The fact to append when a promoted version goes back; None if it does not serve any more."""
    if alias.promoted != done:
        return None
    return TakenBack(
        **_new(alias, done),
        **_old(done),
        reason=reason,
        detail=detail,
        findings=findings,
        requested_by=requested_by,
    )


def back(alias: Alias, requested_by: str) -> PromotionStopped | TakenBack:
    """The fact to append when somebody wants the old version alone. Raises NothingToTakeBack."""
    fact: PromotionStopped | TakenBack | None = None
    if alias.promotion is not None:
        fact = stop(alias, alias.promotion, "requested", requested_by=requested_by)
    elif alias.promoted is not None:
        fact = take_back(alias, alias.promoted, "requested", requested_by=requested_by)
    if fact is None:
        raise NothingToTakeBack(
            f"nothing was promoted to {alias.name} since it was set: `suite alias {alias.name} VERSION` has "
            "it stand for another version"
        )
    return fact


class _New(TypedDict):
    """The fields that all facts about a promotion have."""

    alias: str
    promotion_id: str
    model_id: str
    version: int


class _Old(TypedDict):
    """Those of facts with which the alias stands for another version."""

    old_model_id: str
    old_version: int


def _new(alias: Alias, promotion: Promotion) -> _New:
    model_id, version = promotion.target
    return {"alias": alias.name, "promotion_id": promotion.id, "model_id": model_id, "version": version}


def _old(promotion: Promotion) -> _Old:
    return {"old_model_id": promotion.old.model_id, "old_version": promotion.old.version}


def _started(alias: Alias, event: PromotionStarted) -> Alias:
    before = alias.promotion
    is_same = before is not None and before.id == event.promotion_id
    promotion = Promotion(
        id=event.promotion_id,
        target=Target(event.model_id, event.version),
        old=Target(event.old_model_id, event.old_version),
        canary_share=event.canary_share,
        is_canary=is_same and before is not None and before.is_canary and event.canary_share > 0,
        gates=event.gates,
        take_back=event.take_back,
    )
    return msgspec.structs.replace(
        alias, name=event.alias, target=alias.target or promotion.old, promotion=promotion
    )


def _taken_back(alias: Alias, event: TakenBack) -> Alias:
    """A promotion that is under way goes on, in place of what the alias stands for again."""
    target, running = Target(event.old_model_id, event.old_version), alias.promotion
    if running is not None:
        running = msgspec.structs.replace(running, old=target) if running.target != target else None
    return Alias(name=event.alias, target=target, promotion=running)


def _is_running(alias: Alias, promotion_id: str) -> bool:
    return alias.promotion is not None and alias.promotion.id == promotion_id


def _is_in(promotion: Promotion, request_id: str) -> bool:
    """Whether a request belongs to the share: by a hash, so that a share that grows keeps who has it."""
    digest = blake2b(f"{promotion.id} {request_id}".encode(), digest_size=_HASH_BYTES).digest()
    return int.from_bytes(digest, "big") < promotion.canary_share * _SHARES
