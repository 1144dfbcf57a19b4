"""Which models are pinned on a node, so that they stay loaded there: a fold of the log."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from suite.messages.events import Event, ModelPinned, ModelUnpinned

Pins: TypeAlias = Mapping[str, bool]
"""By the ids of the pinned models whether another node may keep it instead; the one that was pinned first is
in front."""


def evolve(pins: Pins, event: Event, *, node: str) -> Pins:
    """The pins of a node after one event."""
    match event:
        case ModelPinned(model_id=model_id) if event.node == node:
            return {**pins, model_id: event.may_move}
        case ModelUnpinned(model_id=model_id) if event.node == node:
            return {each: may_move for each, may_move in pins.items() if each != model_id}
        case _:
            return pins
