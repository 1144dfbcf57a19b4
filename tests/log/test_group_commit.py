"""Grouping follows what was measured."""

from __future__ import annotations

from suite.log.group_commit import GroupCommit
from suite.log.publisher import subject_matches


def measured(*, single_ms: float, batch_ms: float) -> GroupCommit:
    group_commit = GroupCommit()
    for _ in range(10):
        group_commit.note_single(single_ms / 1000)
        group_commit.note_batch(batch_ms / 1000, messages=1)
    return group_commit


def prefers(group_commit: GroupCommit, count: int) -> bool:
    return group_commit.prefers_batch(singles=count, several=0, messages=count)


def test_nothing_is_grouped_before_the_cost_of_a_single_publish_is_known() -> None:
    assert not prefers(GroupCommit(), 500)


def test_one_alone_is_never_a_group() -> None:
    group_commit = measured(single_ms=5, batch_ms=1)
    assert not prefers(group_commit, 1)
    assert not group_commit.prefers_batch(singles=0, several=1, messages=9)


def test_groups_begin_where_they_are_faster() -> None:
    assert next(n for n in range(1, 100) if prefers(measured(single_ms=0.25, batch_ms=2), n)) == 10
    assert next(n for n in range(1, 100) if prefers(measured(single_ms=0.25, batch_ms=12), n)) == 55


def test_appends_of_several_events_are_batches_anyway_and_go_together() -> None:
    assert measured(single_ms=0.1, batch_ms=50).prefers_batch(singles=0, several=2, messages=4)


def test_what_was_not_chosen_is_tried_again_one_day() -> None:
    group_commit = measured(single_ms=0.25, batch_ms=40)
    assert any(prefers(group_commit, 50) for _ in range(2000))


def test_the_time_of_a_fault_is_no_cost() -> None:
    group_commit = measured(single_ms=0.25, batch_ms=2)
    group_commit.note_batch(5.0, messages=50)
    group_commit.note_single(5.0)
    assert prefers(group_commit, 20)
    assert not prefers(group_commit, 5)


def test_subjects_match_filters_as_in_nats() -> None:
    assert subject_matches("a.b.>", "a.b.c.d")
    assert not subject_matches("a.b.>", "a.b")
    assert subject_matches("a.*.c", "a.b.c")
    assert not subject_matches("a.*", "a.b.c")
    assert not subject_matches("a.b.c", "a.b")
    assert subject_matches("a.b", "a.b")
