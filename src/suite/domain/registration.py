"""Registers which node has which model file. Each model is one aggregate, written by all nodes with its file.

The same content under the same id on the same node is registered once; other content registers again.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from suite.messages.events import Event, ModelRegistered, ModelRemoved


class Registration(msgspec.Struct, frozen=True, kw_only=True):
    """The state of one model: the digest that each node has registered."""

    digests: Mapping[str, str] = {}


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """The command to register a model's file on a node."""

    fact: ModelRegistered


class Gone(msgspec.Struct, frozen=True, kw_only=True):
    """The command to record that a node no longer has a model's file."""

    fact: ModelRemoved


def decide(state: Registration, command: Found | Gone) -> ModelRegistered | ModelRemoved | None:
    """The fact to append; None if the log has it already."""
    known = state.digests.get(command.fact.node)
    match command:
        case Found(fact=fact):
            return None if known == fact.sha256 else fact
        case Gone(fact=fact):
            return None if known is None else fact


def evolve(state: Registration, event: Event) -> Registration:
    """The state after one event of this model."""
    match event:
        case ModelRegistered(node=node, sha256=sha256):
            return Registration(digests={**state.digests, node: sha256})
        case ModelRemoved(node=node):
            return Registration(digests={key: value for key, value in state.digests.items() if key != node})
        case _:
            return state
