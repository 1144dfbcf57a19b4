"""Which events are uses of a model."""

from __future__ import annotations

from suite.messages.events import Event, Generated, UsageRecorded


def use_of(event: Event, node: str) -> str | None:
    """The model that an event is a use of, as this node sees it; None if it is none.

    What a client reported says no node, nor do old events of embeddings: they count for all.
    """
    match event:
        case Generated() if event.node == node:
            return event.model_id
        case UsageRecorded() if event.node in ("", node):
            return event.model_id
        case _:
            return None


def conversation_of(event: Event) -> str:
    """The conversation that a use belongs to; empty: none that is known."""
    return event.conversation_id or "" if isinstance(event, Generated | UsageRecorded) else ""


def seconds_of(use: Generated) -> float:
    """From when the model's process had the request until its answer ended."""
    until_first = use.time_to_first_token_ms
    return ((use.queue_ms if until_first is None else until_first) + use.generation_ms) / 1000
