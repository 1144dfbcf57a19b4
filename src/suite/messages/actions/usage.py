"""Recording and counting the use of models."""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from suite.messages.actions.base import ConversationId, Limit, ModelId, Moment, Name, Query, Reply, Request


class RecordUsageRequest(Request, frozen=True, kw_only=True):
    """Record that a model was used elsewhere; the service need not know the model."""

    model_id: Name
    usage_type: Name = "inference"
    conversation_id: ConversationId | None = None


class RecordUsageReply(Reply, frozen=True, kw_only=True):
    """The usage is in the log."""

    message: str
    seq: int


UsageKey: TypeAlias = Literal["name", "model", "hour", "day", "conversation", "usage_type", "requester"]


class UsageRequest(Query, frozen=True, kw_only=True):
    """Count the use of models, generations and recorded uses, grouped by these keys.

    `name` counts by what was asked for, a model or a name that stands for one with adapters, and tells the
    model too. `model` counts by the model that was computed with, whatever its adapters.
    """

    model_id: ModelId | None = None
    """Only uses of this model with whatever adapters, or of this name that stands for one with adapters."""
    conversation_id: ConversationId | None = None
    since: Moment | None = None
    until: Moment | None = None
    group_by: tuple[UsageKey, ...] = ("model",)
    limit: Limit = 100


class UsageCount(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The uses of one group; keys that were not requested are left out."""

    name: str | None = None
    """What was asked for: a model, or a name that stands for one with adapters. A request that adds adapters
    of its own counts for the model alone."""
    model_id: str | None = None
    start: str | None = None
    """The start of the hour or day, in UTC."""
    conversation_id: str | None = None
    usage_type: str | None = None
    """``generation`` and ``embedding`` for uses of the service itself."""
    requester: str | None = None
    """For whom: the id of the key that the gateway was asked with; empty: nobody has said."""
    uses: int
    prompt_tokens: int
    reused_tokens: int
    completion_tokens: int
    generation_ms: float
    last_used_at: str


class UsageReply(Reply, frozen=True, kw_only=True):
    """The groups, sorted by the latest hour or day, then by use."""

    usage: tuple[UsageCount, ...]
