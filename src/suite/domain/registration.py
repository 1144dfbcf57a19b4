"""Registers which node has which model file. Each model is one aggregate, written by all nodes with its file.

The same content with the same settings under the same id on the same node is registered once; anything else
registers again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from suite.domain.versions import Settings
from suite.messages.events import Event, ModelRegistered, ModelRemoved


class File(NamedTuple):
    """What a node has registered."""

    sha256: str
    settings: Settings | None
    """None: an older version did not say it."""
    parts: frozenset[str] = frozenset()
    """What a name stands for that is a model with adapters: the ids of all of it. Empty: it is a file."""


class Registration(msgspec.Struct, frozen=True, kw_only=True):
    """The state of one model: what each node has registered."""

    files: Mapping[str, File] = {}


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """The command to register a model's file on a node."""

    fact: ModelRegistered


class Gone(msgspec.Struct, frozen=True, kw_only=True):
    """The command to record that a node no longer has a model's file."""

    fact: ModelRemoved


def decide(state: Registration, command: Found | Gone) -> ModelRegistered | ModelRemoved | None:
    """The fact to append; None if the log has it already."""
    known = state.files.get(command.fact.node)
    match command:
        case Found(fact=fact):
            return None if known is not None and _says(known, fact) else fact
        case Gone(fact=fact):
            return None if known is None else fact


def evolve(state: Registration, event: Event) -> Registration:
    """The state after one event of this model."""
    match event:
        case ModelRegistered(node=node) as fact:
            return Registration(files={**state.files, node: _file(fact)})
        case ModelRemoved(node=node):
            return Registration(files={key: value for key, value in state.files.items() if key != node})
        case _:
            return state


def _file(fact: ModelRegistered) -> File:
    ids = (fact.base, *(each.id for each in fact.adapters)) if fact.base else ()
    return File(fact.sha256, fact.settings, frozenset(ids))


def _says(known: File, fact: ModelRegistered) -> bool:
    """Whether the log has it already. Settings that it does not say are said once, also the default ones:
    else the first change of them would be taken for what they were before."""
    return known.sha256 == fact.sha256 and known.settings == fact.settings
