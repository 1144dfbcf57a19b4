"""A node knows which other one has a conversation, until that has come here."""

from __future__ import annotations

from suite.messages.presence import PROTOCOL, NodeState
from suite.node.fleet.peers import Peers


def peers(*others: str) -> Peers:
    found = Peers("here", lambda: 0.0)
    for node in others:
        found.hear(NodeState(protocol=PROTOCOL, node=node, epoch=1, number=1))
    return found


def test_where_a_conversation_is_it_stays_until_it_has_come_here() -> None:
    known = peers("box1", "box2")
    known.note_conversation(1, "box2")
    known.note_conversation(1, "box1")
    assert [known.former_node(1), known.former_node(1)] == ["box1", "box1"]
    known.note_conversation(1, "here")
    assert [known.former_node(1), known.former_node(2)] == ["", ""]
    known.note_conversation(1, "box2")
    assert known.former_node(1) == "box2"


def test_a_node_that_has_gone_has_had_its_conversations_nevertheless() -> None:
    known = peers("box1")
    known.note_conversation(1, "box1")
    known.lose("box1")
    assert known.former_node(1) == "box1"
