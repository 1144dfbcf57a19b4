"""Where conversations are is remembered, of the newest ones."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from suite.node.fleet.conversations import Conversations

LEAST_KEPT = 4

notes = st.lists(st.tuples(st.integers(0, 9), st.sampled_from(("box1", "box2"))), max_size=40)


@settings(deadline=None)
@given(notes)
def test_the_newest_are_known_and_no_more_than_twice_as_many(noted: Sequence[tuple[int, str]]) -> None:
    known = Conversations(LEAST_KEPT)
    last: dict[int, str] = {}
    for conversation, node in noted:
        known.note(conversation, node)
        last.pop(conversation, None)
        last[conversation] = node
    newest = list(last.items())[-LEAST_KEPT:]
    assert all(known.node_of(conversation) == node for conversation, node in newest)
    remembered = [conversation for conversation in range(10) if known.node_of(conversation)]
    assert len(remembered) <= 2 * LEAST_KEPT
    assert all(known.node_of(each) == last[each] for each in remembered)
