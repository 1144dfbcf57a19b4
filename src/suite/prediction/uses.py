"""Which events are uses of a model."""

from __future__ import annotations

from suite.messages.events import Event, Generated, UsageRecorded


def use_of(event: Event, node: str) -> str | None:
    """The model that an event is a use of, as this node sees it; None if it is none.

    What a client reported, and embeddings, say no node: they count for all.
    """
    match event:
        case Generated() if event.node == node:
            return event.model_id
        case UsageRecorded():
            return event.model_id
        case _:
            return None


def conversation_of(event: Event) -> str:
    """The conversation that a use belongs to; empty: none that is known."""
    return event.conversation_id or "" if isinstance(event, Generated | UsageRecorded) else ""
