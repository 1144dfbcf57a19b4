"""Facts about uses of models: generations, embeddings, and what clients report."""

from __future__ import annotations

from typing import Literal

from msgspec import UNSET, UnsetType

from suite.messages.events.base import Event, event
from suite.messages.events.model import AppliedAdapter

Outcome = Literal["stop", "length", "context_full", "cancelled", "client_gone", "deadline", "failed"]


@event("usage", "generated")
class Generated(Event, frozen=True, kw_only=True):
    """The token counts and timings of one generation. Prompt and answer are never stored."""

    model_id: str
    node: str
    instance_id: str
    generation_id: str
    conversation_id: str | None = None
    prompt_tokens: int
    reused_tokens: int
    completion_tokens: int
    queue_ms: float
    time_to_first_token_ms: float | None
    generation_ms: float
    outcome: Outcome
    waited_ms: float | UnsetType = UNSET
    """For memory and the load, before the model's process had the request; left out by older versions."""
    requester: str | UnsetType = UNSET
    """For whom, such as the id of an API key; left out if the request did not say."""
    adapters: tuple[AppliedAdapter, ...] | UnsetType = UNSET
    """What the model was computed with; left out if it was the model alone."""
    version: int | UnsetType = UNSET
    """Which version of the model answered, by number; left out if it is not known."""
    variant: str | UnsetType = UNSET
    """The name that stands for the model with just these adapters, if it was asked for by such a name."""
    variant_version: int | UnsetType = UNSET
    """Which version that is, by number; left out if it is not known."""
    drafted_tokens: int | UnsetType = UNSET
    """Tokens that were guessed, and checked together with those before them; left out if none were."""
    accepted_tokens: int | UnsetType = UNSET
    """How many of these guesses were right; left out if there were none."""

    @property
    def ids(self) -> tuple[str, ...]:  # noqa: D102 - as the base says
        return (self.model_id,)


@event("usage", "recorded")
class UsageRecorded(Event, frozen=True, kw_only=True, omit_defaults=True):
    """A model made embeddings, or a client reported a use of a model, which need not be registered."""

    model_id: str
    usage_type: str
    conversation_id: str | None = None
    node: str = ""
    """Whose model made the embeddings; empty: a client reported the use."""
    version: int = 0
    """Which version of the model made them, by number; 0: not known."""
    requester: str | None = None
    """For whom, such as the id of an API key; null if the request did not say."""
    variant: str = ""
    """The name that stands for the model with adapters, if a client reported the use of such a name."""

    @property
    def ids(self) -> tuple[str, ...]:  # noqa: D102 - as the base says
        return (self.model_id,)
