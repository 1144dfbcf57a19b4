"""A node knows from which other one a conversation has come to it, until it is asked."""

from __future__ import annotations

from suite.messages.presence import PROTOCOL, NodeState
from suite.node.fleet.peers import Peers


def peers(*others: str) -> Peers:
    found = Peers("here", lambda: 0.0)
    for node in others:
        found.hear(NodeState(protocol=PROTOCOL, node=node, epoch=1, number=1))
    return found


def test_where_a_conversation_was_is_told_once() -> None:
    known = peers("box1", "box2")
    known.note_conversation(1, "box1")
    known.note_conversation(1, "here")
    known.note_conversation(1, "here")
    assert known.take_former_node(1) == "box1"
    assert known.take_former_node(1) == ""


def test_what_went_on_elsewhere_or_whose_node_is_gone_has_no_former_node() -> None:
    known = peers("box1", "box2")
    for conversation, node in ((1, "box2"), (2, "here")):
        known.note_conversation(conversation, "box1")
        known.note_conversation(conversation, "here")
        known.note_conversation(conversation, node)
    known.forget("box1")
    assert (known.take_former_node(1), known.take_former_node(2), known.take_former_node(3)) == ("", "", "")
