"""Errors of a kind are few events however many they are, and none is left out of the count."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from suite.messages.events import ErrorReported
from suite.node.error_groups import GROUP_SECONDS, MOST_KINDS, ErrorGroups, Kind

KIND = Kind("load_failed", "error", "tiny")


def test_the_first_is_told_at_once_and_those_that_follow_are_counted() -> None:
    groups = ErrorGroups("box1")
    groups.add(KIND, "first", 0.0)
    assert [*groups.take(0.0)] == [
        ErrorReported(
            node="box1", error_type="load_failed", message="first", severity="error", model_id="tiny"
        )
    ]
    for second in range(1, 11):
        groups.add(KIND, f"at {second} s", float(second))
    assert [*groups.take(GROUP_SECONDS - 1)] == []
    (event,) = groups.take(GROUP_SECONDS)
    assert (event.count, event.within_seconds, event.message) == (10, GROUP_SECONDS - 1, "at 10 s")


def test_kinds_differ_by_type_severity_and_model() -> None:
    groups = ErrorGroups("box1")
    for kind in (
        KIND,
        KIND._replace(model_id="other"),
        KIND._replace(severity="warning"),
        KIND._replace(error_type="x"),
    ):
        groups.add(kind, "it failed", 0.0)
    assert [event.count for event in groups.take(0.0)] == [1, 1, 1, 1]


def test_after_a_quiet_time_the_next_is_told_at_once_again() -> None:
    groups = ErrorGroups("box1")
    groups.add(KIND, "first", 0.0)
    assert len([*groups.take(0.0)]) == 1
    assert [*groups.take(GROUP_SECONDS)] == []
    groups.add(KIND, "later", GROUP_SECONDS + 1)
    assert [event.message for event in groups.take(GROUP_SECONDS + 1)] == ["later"]


def test_no_more_kinds_are_counted_than_there_is_room_for_until_some_are_over() -> None:
    groups = ErrorGroups("box1")
    kinds = [KIND._replace(model_id=str(number)) for number in range(MOST_KINDS + 1)]
    assert [groups.add(kind, "no", 0.0) for kind in kinds] == [True] * MOST_KINDS + [False]
    assert len([*groups.take(0.0)]) == MOST_KINDS
    assert [*groups.take(GROUP_SECONDS)] == []
    assert groups.add(kinds[-1], "no", GROUP_SECONDS)


@given(st.lists(st.tuples(st.floats(0, 40), st.sampled_from("ab"), st.booleans()), max_size=60))
def test_however_they_come_all_are_counted_in_few_events(steps: list[tuple[float, str, bool]]) -> None:
    groups, now, events, told = ErrorGroups("box1"), 0.0, 0, 0
    for seconds, model, is_looked in steps:
        now += seconds
        groups.add(KIND._replace(model_id=model), "no", now)
        if is_looked:
            taken = [*groups.take(now)]
            events, told = events + len(taken), told + sum(event.count for event in taken)
    told += sum(event.count for event in groups.take(now, is_last=True))
    assert told == len(steps)
    assert events <= 2 * (now / GROUP_SECONDS + 1)
