"""What was used how often."""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from suite.messages.actions.base import ConversationId, Limit, ModelId, Moment, Name, Query, Reply, Request


class RecordUsageRequest(Request, frozen=True, kw_only=True):
    """Record that a model was used elsewhere; the model need not be known."""

    model_id: Name
    usage_type: Name = "inference"
    conversation_id: ConversationId | None = None


class RecordUsageReply(Reply, frozen=True, kw_only=True):
    """The usage is in the log."""

    message: str
    seq: int


UsageKey: TypeAlias = Literal["model", "hour", "day", "conversation", "usage_type"]


class UsageRequest(Query, frozen=True, kw_only=True):
    """How much was used: every generation and every recorded usage, counted by these keys."""

    model_id: ModelId | None = None
    conversation_id: ConversationId | None = None
    since: Moment | None = None
    until: Moment | None = None
    group_by: tuple[UsageKey, ...] = ("model",)
    limit: Limit = 100


class UsageCount(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The uses of one group; a key that was not asked for is left out."""

    model_id: str | None = None
    start: str | None = None
    """Of the hour or day, in UTC."""
    conversation_id: str | None = None
    usage_type: str | None = None
    """``generation`` and ``embedding`` for those that the service ran itself."""
    uses: int
    prompt_tokens: int
    reused_tokens: int
    completion_tokens: int
    generation_ms: float
    last_used_at: str


class UsageReply(Reply, frozen=True, kw_only=True):
    """The groups, the latest hour or day first, then the most used."""

    usage: tuple[UsageCount, ...]
