"""Errors of a kind are few events however many they are, and none is left out of the count."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from suite.messages.events import ErrorReported
from suite.node.error_counts import COUNT_SECONDS, MOST_KINDS, ErrorCounts, Kind

KIND = Kind("load_failed", "error", "tiny")


def taken(counts: ErrorCounts, now: float, *, is_last: bool = False) -> list[ErrorReported]:
    """The events that are due, which the log takes."""
    events = []
    for due in counts.due(now, is_last=is_last):
        counts.told(due)
        events.append(due.event)
    return events


def test_the_first_is_told_at_once_and_those_that_follow_are_counted() -> None:
    counts = ErrorCounts("box1")
    counts.add(KIND, "first", 0.0)
    assert taken(counts, 0.0) == [
        ErrorReported(
            node="box1", error_type="load_failed", message="first", severity="error", model_id="tiny"
        )
    ]
    for second in range(1, 11):
        counts.add(KIND, f"at {second} s", float(second))
    assert taken(counts, COUNT_SECONDS - 1) == []
    (event,) = taken(counts, COUNT_SECONDS)
    assert (event.count, event.within_seconds, event.message) == (10, COUNT_SECONDS - 1, "at 10 s")


def test_what_the_log_did_not_take_is_due_again_with_those_that_came_meanwhile() -> None:
    counts = ErrorCounts("box1")
    counts.add(KIND, "first", 0.0)
    assert [due.event.count for due in counts.due(0.0)] == [1]
    counts.add(KIND, "second", 0.5)
    (due,) = counts.due(1.0)
    assert due.event.count == 2
    counts.add(KIND, "while it was appended", 1.5)
    counts.told(due)
    assert taken(counts, 2.0) == []
    (last,) = taken(counts, 3.0, is_last=True)
    assert (last.count, last.message) == (1, "while it was appended")


def test_kinds_differ_by_type_severity_model_and_cause() -> None:
    counts = ErrorCounts("box1")
    for kind in (
        KIND,
        KIND._replace(model_id="other"),
        KIND._replace(severity="warning"),
        KIND._replace(error_type="x"),
        KIND._replace(cause="KeyError node.py:7 in run"),
    ):
        counts.add(kind, "it failed", 0.0)
    assert [event.count for event in taken(counts, 0.0)] == [1, 1, 1, 1, 1]


def test_after_a_quiet_time_the_next_is_told_at_once_again() -> None:
    counts = ErrorCounts("box1")
    counts.add(KIND, "first", 0.0)
    assert len(taken(counts, 0.0)) == 1
    assert taken(counts, COUNT_SECONDS) == []
    counts.add(KIND, "later", COUNT_SECONDS + 1)
    assert [event.message for event in taken(counts, COUNT_SECONDS + 1)] == ["later"]


def test_no_more_kinds_are_counted_than_there_is_room_for_until_some_are_over() -> None:
    counts = ErrorCounts("box1")
    kinds = [KIND._replace(model_id=str(number)) for number in range(MOST_KINDS + 1)]
    assert [counts.add(kind, "no", 0.0) for kind in kinds] == [True] * MOST_KINDS + [False]
    assert len(taken(counts, 0.0)) == MOST_KINDS
    assert taken(counts, COUNT_SECONDS) == []
    assert counts.add(kinds[-1], "no", COUNT_SECONDS)


@given(st.lists(st.tuples(st.floats(0, 40), st.sampled_from("ab"), st.booleans()), max_size=60))
def test_however_they_come_all_are_counted_in_few_events(steps: list[tuple[float, str, bool]]) -> None:
    counts, now, events, told = ErrorCounts("box1"), 0.0, 0, 0
    for seconds, model, is_looked in steps:
        now += seconds
        counts.add(KIND._replace(model_id=model), "no", now)
        if is_looked:
            told_now = taken(counts, now)
            events, told = events + len(told_now), told + sum(event.count for event in told_now)
    told += sum(event.count for event in taken(counts, now, is_last=True))
    assert told == len(steps)
    assert events <= 2 * (now / COUNT_SECONDS + 1)
