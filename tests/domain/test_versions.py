"""Versions are contents with settings, numbered in the order in which the log saw them first."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from suite.domain.versions import Versions, split
from suite.errors import VersionNotFound
from suite.messages.events import Event, ModelRegistered, ModelRemoved
from support.versions import recorded, registered

A, B, C = (letter * 64 for letter in "abc")


def removed(node: str = "box1") -> ModelRemoved:
    return ModelRemoved(model_id="m", node=node)


def fold(*events: Event) -> Versions:
    versions = Versions()
    for seq, event in enumerate(events, start=1):
        versions.apply(recorded(seq, event))
    return versions


def numbers(versions: Versions) -> list[tuple[int, str]]:
    return [(each.number, each.sha256[0]) for each in versions.of("m")]


def test_other_content_is_the_next_version() -> None:
    versions = fold(registered(A, {}), registered(B, {}))
    assert numbers(versions) == [(1, "a"), (2, "b")]
    assert (versions.newest("m"), versions.nodes("m", 1), versions.nodes("m", 2)) == (2, (), ("box1",))


def test_other_settings_are_the_next_version() -> None:
    versions = fold(registered(A, {}), registered(A, {"slots": 2}))
    assert numbers(versions) == [(1, "a"), (2, "a")]
    assert versions.number("m", A, {}) == 1
    assert versions.number("m", A, {"slots": 2}) == 2
    assert versions.number("m", A, {"slots": 3}) == 0


def test_content_that_comes_back_is_the_version_that_it_was() -> None:
    versions = fold(registered(A, {}), registered(B, {}), registered(A, {}))
    assert numbers(versions) == [(1, "a"), (2, "b")]
    assert versions.newest("m") == 1


def test_a_version_of_which_no_settings_are_known_gets_those_that_come_first() -> None:
    versions = fold(registered(A), registered(A, {"slots": 2}), registered(A, {"slots": 4}))
    assert [each.registered.settings for each in versions.of("m")] == [{"slots": 2}, {"slots": 4}]


def test_nodes_may_have_different_versions() -> None:
    versions = fold(registered(A, {}), registered(B, {}, node="box2"), removed())
    assert dict(versions.current("m")) == {"box2": 2}
    assert versions.nodes("m", 1) == ()


def test_a_version_is_found_by_its_number_and_by_its_digest() -> None:
    versions = fold(registered(A, {}), registered(B, {}), registered(B, {"slots": 2}))
    assert versions.find("m", "1").number == 1
    assert versions.find("m", "aaaa").number == 1
    assert versions.find("m", "bbbbb").number == 3  # of several settings, those that came last
    for nothing in ("4", "0", "aaa", "cccc", "-1", "x", "9" * 30):
        with pytest.raises(VersionNotFound, match=r"it has 1 \(aaaaaaaa\), 2 "):
            versions.find("m", nothing)
    with pytest.raises(VersionNotFound, match="knows none yet"):
        versions.find("other", "1")


def test_a_beginning_that_several_digests_have_is_not_enough() -> None:
    versions = fold(registered("abcd" + "0" * 60, {}), registered("abcd" + "1" * 60, {}))
    with pytest.raises(VersionNotFound, match="type more"):
        versions.find("m", "abcd")
    assert versions.find("m", "abcd1").number == 2


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("m@2", ("m", "2")),
        ("a@b@2", ("a@b", "2")),
        ("m", None),
        ("m@", None),
        ("@2", None),
    ],
)
def test_the_version_is_what_stands_behind_the_last_sign(text: str, named: tuple[str, str] | None) -> None:
    assert split(text) == named


FACTS = st.lists(
    st.one_of(
        st.builds(
            registered,
            st.sampled_from([A, B, C]),
            st.sampled_from([None, {}, {"slots": 2}]),
            node=st.sampled_from(["box1", "box2"]),
        ),
        st.builds(removed, st.sampled_from(["box1", "box2"])),
    )
)


@given(FACTS, FACTS)
def test_a_number_means_the_same_content_for_ever(past: Sequence[Event], future: Sequence[Event]) -> None:
    before, after = fold(*past), fold(*past, *future)
    assert numbers(after)[: len(numbers(before))] == numbers(before)
    assert [number for number, _ in numbers(after)] == list(range(1, len(after.of("m")) + 1))


@given(FACTS)
def test_what_a_node_registered_last_is_its_version(past: Sequence[Event]) -> None:
    versions = fold(*past)
    last = {event.node: event for event in past if isinstance(event, ModelRegistered | ModelRemoved)}
    for node, event in last.items():
        if isinstance(event, ModelRemoved):
            assert node not in versions.current("m")
        else:
            version = versions.get("m", versions.current("m")[node])
            assert version is not None
            assert version.is_of(event.sha256, event.settings)
