"""What an alias stands for: one promotion at a time, the same share for the same request, a way back."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from suite.domain import aliases
from suite.domain.aliases import Alias, Promotion, Target, evolve
from suite.errors import InvalidRequest, NothingToTakeBack, PromotionRunning
from suite.messages.events import AliasEvent, AliasRemoved, AliasSet, PromotionStarted
from suite.messages.promotion import Gates

OLD, NEW, OTHER = Target("old", 1), Target("new", 2), Target("other", 1)


def started(target: Target = NEW, id: str = "p", **terms: Any) -> PromotionStarted:
    return PromotionStarted(
        alias="chat",
        promotion_id=id,
        model_id=target.model_id,
        version=target.version,
        old_model_id=OLD.model_id,
        old_version=OLD.version,
        **terms,
    )


def assigned(target: Target = OLD) -> AliasSet:
    return AliasSet(alias="chat", model_id=target.model_id, version=target.version)


def after(*events: AliasEvent | None) -> Alias:
    alias = Alias(name="chat")
    for event in events:
        assert event is not None
        alias = evolve(alias, event)
    return alias


def running(alias: Alias) -> Promotion:
    assert alias.promotion is not None
    return alias.promotion


def canary(share: float) -> Alias:
    begun = after(assigned(), started(canary_share=share))
    return after(assigned(), started(canary_share=share), aliases.begin_canary(begun, running(begun), "box1"))


def promoted() -> Alias:
    begun = after(assigned(), started())
    fact = aliases.promote(begun, running(begun), "box1")
    assert fact is not None
    return evolve(begun, fact)


def chosen(alias: Alias, request_id: str) -> Target | None:
    return alias.chosen(partial(str, request_id))


def test_the_old_version_serves_until_the_new_one_is_promoted() -> None:
    begun = after(assigned(), started())
    assert begun.target == OLD
    assert chosen(begun, "r") == OLD
    assert promoted().target == NEW


def test_a_configured_alias_may_be_promoted() -> None:
    assert after(started()).target == OLD


def test_of_two_promotions_at_once_the_second_is_refused() -> None:
    begun = after(assigned(), started())
    with pytest.raises(PromotionRunning, match="new@2 is being promoted to chat"):
        aliases.start(begun, started(OTHER, "q"))


def test_a_promotion_of_the_same_version_changes_the_terms_of_the_first() -> None:
    again = evolve(canary(0.5), aliases.start(canary(0.5), started(id="q")))
    assert again.promotion is not None
    assert (again.promotion.id, again.promotion.canary_share, again.promotion.is_canary) == ("p", 0.0, False)


def test_what_is_decided_about_a_promotion_that_has_ended_is_nothing() -> None:
    done, before = promoted(), running(after(assigned(), started()))
    assert aliases.promote(done, before, "box1") is None
    assert aliases.begin_canary(done, before, "box1") is None
    assert aliases.stop(done, before, "gates") is None
    assert aliases.take_back(after(assigned()), before, "retraction") is None


def test_what_is_decided_by_terms_that_were_changed_meanwhile_is_nothing() -> None:
    begun = after(assigned(), started())
    changed = evolve(begun, aliases.start(begun, started(id="q", gates=Gates(evaluations=9))))
    assert running(changed).id == running(begun).id
    assert aliases.promote(changed, running(begun), "box1") is None
    assert aliases.begin_canary(changed, running(begun), "box1") is None
    assert aliases.stop(changed, running(begun), "gates") is None
    assert aliases.promote(changed, running(changed), "box1") is not None


def test_a_promotion_takes_the_place_of_what_serves_by_now() -> None:
    fact = aliases.start(after(assigned(OTHER)), started())
    assert (fact.old_model_id, fact.old_version) == OTHER
    with pytest.raises(InvalidRequest, match="chat stands for new@2 already"):
        aliases.start(after(assigned(NEW)), started())


def test_what_was_promoted_goes_back_once() -> None:
    back = aliases.back(promoted(), "ada")
    now = evolve(promoted(), back)
    assert (now.target, now.promoted) == (OLD, None)
    with pytest.raises(NothingToTakeBack):
        aliases.back(now, "ada")


def test_what_was_promoted_goes_back_also_while_another_version_is_promoted() -> None:
    """The other one then takes the place of what serves again, unless it is that."""

    def taken_back(other: Target) -> Alias:
        begun = evolve(promoted(), aliases.start(promoted(), started(other, "q")))
        assert begun.promoted is not None
        fact = aliases.take_back(begun, begun.promoted, "crash_loop")
        assert fact is not None
        return evolve(begun, fact)

    now = taken_back(OTHER)
    assert (now.target, running(now).target, running(now).old, now.promoted) == (OLD, OTHER, OLD, None)
    assert taken_back(OLD) == Alias(name="chat", target=OLD)


def test_setting_an_alias_ends_its_promotion() -> None:
    now = after(assigned(), started(), assigned(OTHER))
    assert (now.target, now.promotion) == (OTHER, None)
    assert aliases.assign(now, assigned(OTHER)) is None
    assert aliases.assign(after(assigned(), started()), assigned()) == assigned()


def test_a_request_without_an_id_is_in_no_share() -> None:
    assert chosen(canary(0.99), "") == OLD


@settings(max_examples=20, deadline=None)
@given(st.floats(0.05, 0.95), st.integers(0, 1000))
def test_a_share_of_the_requests_is_about_that_part_of_them(share: float, first: int) -> None:
    alias = canary(share)
    ids = [f"request {number}" for number in range(first, first + 2000)]
    taken = [id for id in ids if chosen(alias, id) == NEW]
    assert abs(len(taken) / len(ids) - share) < 0.06
    assert all(chosen(alias, id) == NEW for id in taken), "the same request has the same version"


@given(st.floats(0.0, 0.5), st.floats(0.0, 0.49), st.text(min_size=1))
def test_a_share_that_grows_keeps_the_requests_that_it_has(
    small: float, more: float, request_id: str
) -> None:
    if chosen(canary(small), request_id) == NEW:
        assert chosen(canary(small + more), request_id) == NEW


class Life(RuleBasedStateMachine):
    """Whatever is asked of an alias, in whatever order."""

    def __init__(self) -> None:
        super().__init__()
        self.alias = Alias(name="chat")
        self.ids = 0

    def take(self, event: AliasEvent | None) -> None:
        if event is not None:
            self.alias = evolve(self.alias, event)

    @rule(version=st.sampled_from([OLD, NEW, OTHER]))
    def assign(self, version: Target) -> None:
        self.take(aliases.assign(self.alias, assigned(version)))
        assert (self.alias.target, self.alias.promotion) == (version, None)

    @rule()
    def remove(self) -> None:
        self.take(aliases.remove(self.alias, AliasRemoved(alias="chat")))
        assert self.alias.target is None

    @rule(version=st.sampled_from([NEW, OTHER]), share=st.sampled_from([0.0, 0.5]))
    def start(self, version: Target, share: float) -> None:
        before, other = self.alias.target, self.alias.promotion
        self.ids += 1
        try:
            self.take(aliases.start(self.alias, started(version, str(self.ids), canary_share=share)))
        except PromotionRunning:
            assert other is not None
            assert other.target != version
        except InvalidRequest:
            assert before == version
        else:
            assert self.alias.target == (before or OLD)

    @precondition(lambda self: self.alias.promotion is not None)
    @rule()
    def begin_canary(self) -> None:
        self.take(aliases.begin_canary(self.alias, running(self.alias), "box1"))

    @precondition(lambda self: self.alias.promotion is not None)
    @rule()
    def promote(self) -> None:
        before = running(self.alias)
        self.take(aliases.promote(self.alias, before, "box1"))
        assert (self.alias.target, self.alias.promotion) == (before.target, None)

    @rule()
    def back(self) -> None:
        begun, done, target = self.alias.promotion, self.alias.promoted, self.alias.target
        try:
            self.take(aliases.back(self.alias, ""))
        except NothingToTakeBack:
            assert begun is None
            assert done is None
        else:
            assert self.alias.target == (target if begun is not None else done and done.old)

    @invariant()
    def a_promotion_has_something_to_fall_back_to(self) -> None:
        assert self.alias.promotion is None or self.alias.target is not None
        assert self.alias.promoted is None or self.alias.promoted.target == self.alias.target


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=30, stateful_step_count=20, deadline=None)
