"""A model is registered once for each content with each settings on each node."""

from __future__ import annotations

from suite.domain.registration import Found, Gone, Registration, decide, evolve
from suite.messages.events import ModelRegistered, ModelRemoved
from support.versions import registered


def removed(node: str) -> ModelRemoved:
    return ModelRemoved(model_id="m", node=node)


def given_facts(*events: ModelRegistered | ModelRemoved) -> Registration:
    state = Registration()
    for event in events:
        state = evolve(state, event)
    return state


def test_a_file_is_registered_once() -> None:
    fact = registered("1", node="a")
    assert decide(given_facts(), Found(fact=fact)) == fact
    assert decide(given_facts(fact), Found(fact=fact)) is None


def test_other_content_is_registered_again() -> None:
    fact = registered("2", node="a")
    assert decide(given_facts(registered("1", node="a")), Found(fact=fact)) == fact


def test_other_settings_are_registered_again() -> None:
    fact = registered("1", {"slots": 2}, node="a")
    assert decide(given_facts(registered("1", {}, node="a")), Found(fact=fact)) == fact
    assert decide(given_facts(fact), Found(fact=fact)) is None


def test_a_model_that_an_older_version_registered_is_registered_again_once() -> None:
    before, fact = registered("1", node="a"), registered("1", {}, node="a")
    assert decide(given_facts(before), Found(fact=fact)) == fact
    assert decide(given_facts(before, fact), Found(fact=fact)) is None


def test_each_node_registers_for_itself() -> None:
    fact = registered("1", node="b")
    assert decide(given_facts(registered("1", node="a")), Found(fact=fact)) == fact


def test_only_what_was_registered_is_removed() -> None:
    assert decide(given_facts(), Gone(fact=removed("a"))) is None
    assert decide(given_facts(registered("1", node="a")), Gone(fact=removed("a"))) == removed("a")
    assert decide(given_facts(registered("1", node="a"), removed("a")), Gone(fact=removed("a"))) is None
