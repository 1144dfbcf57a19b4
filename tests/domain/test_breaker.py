"""A breaker opens after failures in a row, lets one trial through after each pause, and closes on success."""

from __future__ import annotations

from itertools import pairwise
from typing import Final

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from suite.domain.breaker import (
    Breaker,
    Failed,
    Guarded,
    Policy,
    Seen,
    Succeeded,
    Tried,
    Withdrawn,
    decide,
    evolve,
    failed_with,
    is_for_log,
    may_try,
)
from suite.messages.events import (
    BreakerClosed,
    BreakerEvent,
    BreakerHalfOpened,
    BreakerOpened,
    NodeStopped,
)

STORE: Final = Guarded("box1", "object_store", "SUITE_FILES")
POLICY: Final = Policy(failures=3, first_pause_seconds=2.0, longest_pause_seconds=60.0)


class Circuit:
    """A breaker with its clock and its log, without anything behind it."""

    def __init__(self, policy: Policy = POLICY) -> None:
        self.policy = policy
        self.state = Breaker()
        self.now = 100.0
        self.events: list[tuple[float, BreakerEvent]] = []
        self.log: list[tuple[float, BreakerEvent]] = []

    def see(self, *all_seen: Seen) -> None:
        for seen in all_seen:
            follows = decide(self.state, seen, self.policy, STORE, self.now)
            self.state = evolve(self.state, seen, self.now)
            if follows is not None:
                self.events.append((self.now, follows))
                if is_for_log(self.state, follows, self.policy):
                    self.log.append((self.now, follows))
                self.state = evolve(self.state, follows, self.now)

    def fail(self, times: int = 1) -> None:
        for _ in range(times):
            self.see(Tried(), Failed(reason="it does not answer"))

    @property
    def is_usable(self) -> bool:
        return may_try(self.state, self.now)

    @property
    def facts(self) -> list[str]:
        return [event.fact for _, event in self.log]


def test_few_failures_and_those_with_a_success_between_open_nothing() -> None:
    circuit = Circuit()
    for _ in range(5):
        circuit.fail(2)
        circuit.see(Tried(), Succeeded())
    circuit.fail(2)
    assert circuit.is_usable
    assert circuit.facts == []


def test_one_failure_is_none_in_a_row() -> None:
    assert failed_with(1, "it is down") == "failed once, with: it is down"
    assert failed_with(3, "it is down") == "failed 3 times in a row, the last time with: it is down"


def test_it_opens_is_tried_once_and_closes() -> None:
    circuit = Circuit()
    circuit.fail(3)
    assert not circuit.is_usable
    circuit.now += 1.9
    assert not circuit.is_usable
    circuit.now += 0.1
    assert circuit.is_usable
    circuit.see(Tried())
    assert circuit.state.position == "half_open"
    assert not circuit.is_usable
    circuit.now += 0.5
    circuit.see(Succeeded())
    assert circuit.is_usable
    assert [event for _, event in circuit.log] == [
        BreakerOpened(**STORE._asdict(), failures=3, pause_seconds=2.0, reason="it does not answer"),
        BreakerHalfOpened(**STORE._asdict()),
        BreakerClosed(**STORE._asdict(), failures=3, open_seconds=2.5),
    ]


def test_each_failed_trial_makes_the_pause_twice_as_long() -> None:
    circuit = Circuit()
    circuit.fail(3)
    pauses = []
    for _ in range(8):
        pauses.append(circuit.state.pause_seconds)
        circuit.now += circuit.state.pause_seconds
        circuit.fail()
    assert pauses == [2, 4, 8, 16, 32, 60, 60, 60]
    trials = [event.after_trial for _, event in circuit.events if isinstance(event, BreakerOpened)]
    assert trials == [False] + [True] * 8


def test_an_outage_of_days_is_few_events_and_its_end_is_one() -> None:
    circuit = Circuit()
    circuit.fail(3)
    for _ in range(10_000):
        circuit.now += circuit.state.pause_seconds
        circuit.fail()
    assert circuit.facts == ["opened", *["half_opened", "opened"] * 5]
    pauses = [event.pause_seconds for _, event in circuit.log if isinstance(event, BreakerOpened)]
    assert pauses == [2, 4, 8, 16, 32, 60]
    circuit.now += 60
    circuit.see(Tried(), Succeeded())
    assert circuit.facts[-2:] == ["opened", "closed"]
    closed = circuit.log[-1][1]
    assert isinstance(closed, BreakerClosed)
    assert closed.failures == 10_003
    assert closed.open_seconds == circuit.now - circuit.log[0][0]


def test_a_trial_that_shows_nothing_lets_the_next_one_try() -> None:
    circuit = Circuit()
    circuit.fail(3)
    circuit.now += 2
    circuit.see(Tried(), Withdrawn())
    assert circuit.is_usable
    circuit.see(Tried(), Succeeded())
    assert circuit.facts == ["opened", "half_opened", "closed"]


def test_a_trial_that_lasts_keeps_the_others_off_no_longer_than_the_pause_was() -> None:
    circuit = Circuit()
    circuit.fail(3)
    circuit.now += 2
    circuit.see(Tried())
    circuit.now += 1.9
    assert not circuit.is_usable
    circuit.now += 0.1
    assert circuit.is_usable
    circuit.see(Tried())
    assert not circuit.is_usable
    circuit.see(Succeeded())
    assert circuit.facts == ["opened", "half_opened", "closed"]


def test_a_success_of_a_use_that_began_before_closes_it_at_once() -> None:
    circuit = Circuit()
    circuit.fail(3)
    circuit.see(Succeeded())
    assert circuit.is_usable
    assert circuit.facts == ["opened", "closed"]


def test_late_failures_of_uses_that_began_before_prolong_nothing() -> None:
    circuit = Circuit()
    circuit.fail(3)
    before = circuit.state
    circuit.see(Failed(reason="late"), Failed(reason="later"))
    assert circuit.state == before


@given(st.integers(0, 10**6))
def test_a_pause_is_never_longer_than_the_longest(failures: int) -> None:
    pause = POLICY.pause(failures)
    assert (pause == 0) == (failures < POLICY.failures)
    assert pause <= POLICY.longest_pause_seconds
    assert pause <= POLICY.pause(failures + 1)


@pytest.mark.parametrize("position", ["closed", "open", "half_open"])
def test_each_life_of_a_node_begins_with_closed_breakers(position: str) -> None:
    circuit = Circuit()
    circuit.fail(3 if position != "closed" else 1)
    circuit.now += 2
    if position == "half_open":
        circuit.see(Tried())
    assert circuit.state.position == position
    after = evolve(circuit.state, NodeStopped(node="box1", epoch=1), circuit.now)
    assert after == Breaker(since=circuit.now)


class AnyUse(RuleBasedStateMachine):
    """Whatever happens in whatever order: the log tells the position, and a breaker comes back."""

    def __init__(self) -> None:
        super().__init__()
        self.circuit = Circuit()

    @rule(seconds=st.floats(0, 100))
    def wait(self, seconds: float) -> None:
        self.circuit.now += seconds

    @precondition(lambda self: self.circuit.is_usable)
    @rule()
    def use(self) -> None:
        self.circuit.see(Tried())

    @rule(seen=st.sampled_from([Failed(reason="no"), Succeeded(), Withdrawn()]))
    def end(self, seen: Seen) -> None:
        """Of uses that nobody began, too: a late one."""
        self.circuit.see(seen)

    @invariant()
    def the_log_tells_its_state(self) -> None:
        folded = Breaker()
        for at, event in self.circuit.log:
            folded = evolve(folded, event, at)
        state = self.circuit.state
        if state.pause_seconds == POLICY.longest_pause_seconds:
            assert folded.position == "open"
            assert folded.opened_at == state.opened_at
            return
        assert folded.position == state.position
        if state.position != "closed":
            assert (folded.failures, folded.reason) == (state.failures, state.reason)
            assert (folded.since, folded.pause_seconds) == (state.since, state.pause_seconds)

    @invariant()
    def the_facts_follow_each_other(self) -> None:
        allowed = {
            "": {"opened"},
            "opened": {"half_opened", "closed"},
            "half_opened": {"opened", "closed"},
            "closed": {"opened"},
        }
        facts = ["", *self.circuit.facts]
        assert all(after in allowed[before] for before, after in pairwise(facts))

    @invariant()
    def it_is_closed_exactly_while_it_may_fail(self) -> None:
        state = self.circuit.state
        assert (state.position == "closed") == (state.failures < POLICY.failures)

    @invariant()
    def whoever_waits_long_enough_may_try(self) -> None:
        state = self.circuit.state
        assert may_try(state, self.circuit.now + POLICY.longest_pause_seconds)


TestAnyUse = AnyUse.TestCase


def test_events_come_back_from_the_log_as_they_were() -> None:
    circuit = Circuit()
    circuit.fail(3)
    ((_, event),) = circuit.log
    assert msgspec.json.decode(msgspec.json.encode(event), type=BreakerOpened) == event
