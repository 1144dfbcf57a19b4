"""Explaining why models are in memory or not, from the log."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import Meta

from suite.messages.actions.base import ModelId, Moment, Query, Reply
from suite.messages.decisions import Decision

State: TypeAlias = Literal["loaded", "loading", "waiting", "not_loaded"]


class ExplainRequest(Query, frozen=True, kw_only=True):
    """Explain a model, an event, or what was in memory; of now or of any moment since the log begins."""

    model_id: ModelId | None = None
    """Why this model is loaded, waits or is not loaded, and what happened to it. Null: all that are in
    memory or waited for."""
    seq: Annotated[int, Meta(ge=1, le=2**63 - 1)] | None = None
    """What this event decided, instead of a model."""
    at: Moment | None = None
    """As it was at this time. Null: now."""
    limit: Annotated[int, Meta(ge=0, le=100)] = 10
    """The most events that are told of a model."""


class ModelState(msgspec.Struct, frozen=True, kw_only=True):
    """What was the case with a model on one node, and why."""

    model_id: str
    node: str
    state: State
    pinned: bool
    seq: int
    """The event that made it so; 0: there is none."""
    sentences: tuple[str, ...]
    """In plain English. Times in them are RFC 3339 in UTC."""


class DrainedNode(msgspec.Struct, frozen=True, kw_only=True):
    """A node that was being taken out of service."""

    node: str
    seq: int
    """The event that began it."""
    sentences: tuple[str, ...]
    """In plain English."""


class ExplainedEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One event: what happened and why."""

    seq: int
    timestamp: str
    type: str
    node: str
    model_id: str
    sentences: tuple[str, ...]
    decision: Decision | None
    """What was weighed, as the event says it; null for events that decided nothing or do not say it."""


class ExplainReply(Reply, frozen=True, kw_only=True):
    """The explanation. It is made from the log alone."""

    at: str
    """The moment that it is of."""
    models: tuple[ModelState, ...]
    """By model and node; empty for an event."""
    events: tuple[ExplainedEvent, ...]
    """The newest first."""
    nodes: tuple[DrainedNode, ...] = ()
    """Those that were being drained, by name; empty for a model and for an event."""
