"""However many requests wait or are refused, the log gets a few events, and no request is left out."""

from __future__ import annotations

import pytest

from suite.domain.footprint import Footprint
from suite.domain.turns import Place, Request
from suite.errors import NotEnoughMemory, TooLarge
from suite.messages.decisions import Decision, Purpose
from suite.messages.events import AdmissionEvent, RequestsRefused, WaitEnded, WaitStarted
from suite.node.admission_log import AdmissionLog
from suite.node.outcomes import QUIET_SECONDS, REFUSALS_SECONDS, End, Outcomes

DECISION = Decision(need_bytes=2, free_bytes=1, limit_bytes=3)


class Line:
    """Requests for one model, in virtual time."""

    def __init__(self) -> None:
        self.outcomes = Outcomes("box1")
        self.now = 0.0
        self.events: list[AdmissionEvent] = []
        self.weighed = 0
        self._count = 0

    def ask(self, model_id: str = "m") -> Request:
        self._count += 1
        request = Request(
            request_id=f"r{self._count}",
            model_id=model_id,
            need_bytes=Footprint(2),
            since=self.now,
            deadline=1e9,
        )
        self.outcomes.queued(request)
        return request

    def end(self, request: Request, end: End) -> None:
        self.outcomes.ended(request, end, self.now)

    def refuse(self, purpose: Purpose = "request") -> None:
        error = NotEnoughMemory("no room")
        self.outcomes.refused("m", error, self.now, purpose=purpose, weigh=self._weigh)

    def pass_time(self, seconds: float) -> None:
        until = self.now + seconds
        while self.now < until:
            self.now = min(until, self.now + 1.0)
            self.take()

    def take(self, *, is_last: bool = False) -> None:
        self.events += self.outcomes.take(
            self.now, lambda _: (Place(place=1, waits_for=("a",)), DECISION), is_last=is_last
        )

    def _weigh(self) -> Decision:
        self.weighed += 1
        return DECISION


@pytest.fixture
def line() -> Line:
    return Line()


def test_a_thousand_requests_are_one_wait(line: Line) -> None:
    requests = [line.ask() for _ in range(1000)]
    line.pass_time(30.0)
    for request in requests[:900]:
        line.end(request, "withdrawn")
    for request in requests[900:]:
        line.end(request, "served")
    line.take()
    assert line.events == [
        WaitStarted(node="box1", model_id="m", place=1, waits_for=("a",), decision=DECISION),
        WaitEnded(node="box1", model_id="m", served=100, withdrawn=900, longest_seconds=30.0),
    ]


def test_a_short_wait_has_no_event_of_its_own(line: Line) -> None:
    for _ in range(1000):
        request = line.ask()
        line.now += 0.5
        line.end(request, "served")
        line.take()
    assert line.events == []


def test_clients_that_ask_again_after_each_refusal_are_one_wait(line: Line) -> None:
    for _ in range(100):
        request = line.ask()
        line.pass_time(3.0)
        line.end(request, "refused")
        line.pass_time(1.0)
    assert [type(event) for event in line.events] == [WaitStarted]
    line.pass_time(QUIET_SECONDS)
    assert line.events[1:] == [WaitEnded(node="box1", model_id="m", refused=100, longest_seconds=3.0)]


def test_each_load_ends_the_wait_before_it(line: Line) -> None:
    for _ in range(3):
        request = line.ask()
        line.pass_time(2.0)
        line.end(request, "served")
    line.take()
    assert [event.fact for event in line.events] == ["wait_started", "wait_ended"] * 3


def test_the_first_refusal_is_told_at_once_and_those_after_it_once_a_minute(line: Line) -> None:
    for _ in range(600):
        line.refuse()
        line.take()
        line.now += 0.25
    line.pass_time(REFUSALS_SECONDS)
    told = [event for event in line.events if isinstance(event, RequestsRefused)]
    assert [event.requests for event in told] == [1, 240, 240, 119]
    assert all(event.decision == DECISION and event.message == "no room" for event in told)
    assert line.weighed == len(told)
    line.pass_time(REFUSALS_SECONDS)
    line.refuse()
    line.take()
    assert line.events[-1] == told[0], "after a quiet minute the next is told at once"


def test_what_a_node_wanted_to_load_is_not_counted_with_requests(line: Line) -> None:
    for _ in range(2):
        line.refuse()
        line.refuse("preload")
    line.refuse("pin")
    line.take()
    told = [event for event in line.events if isinstance(event, RequestsRefused)]
    assert [(event.purpose, event.requests, event.is_of_clients) for event in told] == [
        ("request", 2, True),
        ("preload", 2, False),
        ("pin", 1, False),
    ]


def test_nothing_is_lost_at_the_end(line: Line) -> None:
    line.ask()
    line.pass_time(2.0)
    for _ in range(3):
        line.refuse()
        line.take()
    line.take(is_last=True)
    assert [event.fact for event in line.events] == ["wait_started", "refused", "wait_ended", "refused"]


def test_many_waits_are_weighed_one_after_the_other(line: Line) -> None:
    waiting = [f"m{number}" for number in range(20)]
    for model_id in waiting:
        line.ask(model_id)
    line.now = 2.0
    for number in range(1, 21):
        line.take()
        assert [event.model_id for event in line.events] == waiting[:number]
    line.take()
    assert len(line.events) == 20


class Refusing:
    """A journal that takes no event about one model."""

    def __init__(self, model_id: str) -> None:
        self.taken: list[str] = []
        self._model_id = model_id

    async def note(self, event: AdmissionEvent, _: str) -> None:
        if event.model_id == self._model_id:
            raise TooLarge("an event has 2 MB: the server takes 1 MB")
        self.taken.append(event.model_id)


class Due:
    """An admission of which the outcomes are given."""

    def __init__(self, *model_ids: str) -> None:
        self._events = [
            RequestsRefused(node="box1", model_id=model_id, code="overloaded", message="")
            for model_id in model_ids
        ]

    def outcomes_due(self, *, is_last: bool) -> list[AdmissionEvent]:
        assert is_last
        return [self._events.pop(0)] if self._events else []


async def test_an_event_that_the_log_will_never_take_does_not_keep_the_others_back() -> None:
    journal = Refusing("b")
    await AdmissionLog(Due("a", "b", "c"), journal, lambda: "").close()  # type: ignore[arg-type]
    assert journal.taken == ["a", "c"]
