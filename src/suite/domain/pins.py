"""On which nodes a model is pinned, so that it stays loaded there. Each model is one aggregate of the log."""

from __future__ import annotations

import msgspec

from suite.messages.events import Event, ModelPinned, ModelUnpinned


class Pinning(msgspec.Struct, frozen=True, kw_only=True):
    """The state of one model."""

    nodes: frozenset[str] = frozenset()


def decide(state: Pinning, command: ModelPinned | ModelUnpinned) -> ModelPinned | ModelUnpinned | None:
    """The fact to append; None if the log has it already."""
    is_pinned = command.node in state.nodes
    return None if is_pinned == isinstance(command, ModelPinned) else command


def evolve(state: Pinning, event: Event) -> Pinning:
    """The state after one event of this model."""
    match event:
        case ModelPinned(node=node):
            return Pinning(nodes=state.nodes | {node})
        case ModelUnpinned(node=node):
            return Pinning(nodes=state.nodes - {node})
        case _:
            return state
