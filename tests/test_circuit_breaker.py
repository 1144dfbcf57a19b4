"""What is around something that fails: it refuses at once, tries again by itself, and tells what happened."""

from __future__ import annotations

import threading
from asyncio import CancelledError

import pytest

from suite.circuit_breaker import MOST_EVENTS, MOST_REASON, CircuitBreaker
from suite.domain.breaker import Policy
from suite.errors import StoreFull, Unavailable
from suite.messages.events import BreakerClosed, BreakerOpened

POLICY = Policy(failures=2, first_pause_seconds=10.0, longest_pause_seconds=60.0)


class Around:
    """A breaker, and the time by which it goes."""

    def __init__(self) -> None:
        self.now = 0.0
        self.breaker = CircuitBreaker(
            "object_store", "SUITE_FILES", POLICY, node="box1", clock=lambda: self.now
        )
        self.uses = 0

    def use(self, error: BaseException | None = None) -> None:
        with self.breaker.guarding(Unavailable):
            self.uses += 1
            if error is not None:
                raise error

    def fail(self) -> None:
        with pytest.raises(Unavailable, match="down"):
            self.use(Unavailable("it is down"))


def test_while_it_is_open_nothing_is_tried_and_the_refusal_says_why() -> None:
    around = Around()
    around.fail()
    around.fail()
    with pytest.raises(Unavailable) as refused:
        around.use()
    assert around.uses == 2
    message = refused.value.message
    assert "the object store SUITE_FILES" in message
    assert "2 times in a row" in message
    assert "it is down" in message
    assert "in 10 s" in message
    around.now = 10.0
    around.use()
    assert around.uses == 3
    assert [event.fact for event in around.breaker.take_events()] == ["opened", "half_opened", "closed"]
    assert around.breaker.take_events() == []


@pytest.mark.parametrize("other", [StoreFull("no room"), KeyError("bug"), CancelledError()])
def test_what_is_no_failure_of_it_neither_opens_nor_closes_it(other: BaseException) -> None:
    around = Around()
    around.fail()
    for _ in range(3):
        with pytest.raises(type(other)):
            around.use(other)
    assert around.breaker.is_closed
    around.fail()
    around.now = 10.0
    with pytest.raises(type(other)):
        around.use(other)
    assert around.breaker.state.position == "half_open"
    around.use()
    assert around.breaker.is_closed


def test_a_refusal_shows_that_it_works() -> None:
    around = Around()
    around.fail()
    around.fail()
    around.now = 10.0
    with pytest.raises(StoreFull), around.breaker.guarding(Unavailable, answers=(StoreFull,)):
        raise StoreFull("no room")
    assert around.breaker.is_closed


def test_after_its_pause_it_is_half_open_though_nobody_uses_it() -> None:
    around = Around()
    around.fail()
    around.fail()
    around.now = 9.0
    assert (around.breaker.position, around.breaker.seconds_in_position) == ("open", 9.0)
    around.now = 12.0
    assert (around.breaker.position, around.breaker.seconds_in_position) == ("half_open", 2.0)
    assert around.breaker.take_events(for_log=True)[-1].fact == "opened"


def test_of_many_threads_one_makes_the_trial() -> None:
    around = Around()
    around.fail()
    around.fail()
    around.now = 10.0
    allowed: list[bool] = []
    threads = [threading.Thread(target=lambda: allowed.append(around.breaker.try_use())) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(allowed) == [False] * 15 + [True]


def test_of_many_threads_one_begins_an_outage_and_one_ends_it() -> None:
    breaker = Around().breaker
    told: list[tuple[bool, bool]] = []
    threads = [
        threading.Thread(target=lambda: told.append((breaker.failed("it is down"), breaker.failed("down"))))
        for _ in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(map(sum, told)) == 1
    assert [breaker.succeeded() for _ in range(3)] == [True, False, False]


def test_a_trial_that_fails_begins_no_other_outage() -> None:
    around = Around()
    assert [around.breaker.failed("it is down") for _ in range(2)] == [False, True]
    around.now = 10.0
    assert around.breaker.try_use()
    assert not around.breaker.failed("it is down")


def test_a_reason_has_no_credential_and_an_end() -> None:
    around = Around()
    around.breaker.failed("")
    around.breaker.failed("nats://suite:Swordfish@box2 is away " + "x" * 10_000)
    (event,) = around.breaker.take_events()
    assert isinstance(event, BreakerOpened)
    assert "Swordfish" not in event.reason
    assert len(event.reason) <= MOST_REASON


def test_events_that_nobody_takes_are_the_newest() -> None:
    around = Around()
    for _ in range(MOST_EVENTS):
        around.breaker.failed("down")
        around.breaker.failed("down")
        around.breaker.succeeded()
    events = around.breaker.take_events()
    assert len(events) == MOST_EVENTS
    assert isinstance(events[-1], BreakerClosed)


def test_it_follows_what_happens_in_another_process() -> None:
    there, here = Around(), Around()
    there.fail()
    there.fail()
    for event in there.breaker.take_events():
        here.breaker.follow(event)
    assert here.breaker.state == there.breaker.state
    assert [event.fact for event in here.breaker.take_events()] == ["opened"]


def test_who_follows_hears_of_trials_that_the_log_does_not_have() -> None:
    there, here = Around(), Around()
    there.fail()
    for _ in range(20):
        there.now += 60.0
        there.fail()
        for event in there.breaker.take_events():
            here.now = there.now
            here.breaker.follow(event)
        assert here.breaker.state == there.breaker.state
    assert len(here.breaker.take_events(for_log=True)) < 10
