"""What clients send and what they get back: one request and one reply type an action.

A request is a JSON object; a field that the type does not have is ignored and named in the reply's
``warnings``. A reply has ``status: success`` and the fields of its type, or ``status: error`` with
``code`` and ``message``. Units stand in the names: ``_ms``, ``_bytes``, ``_tokens``; times are RFC 3339.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import Meta

Text: TypeAlias = Annotated[str, Meta(min_length=1)]
ModelId: TypeAlias = Annotated[str, Meta(min_length=1, description="The model's id or one of its aliases.")]
GenerationId: TypeAlias = Annotated[str, Meta(min_length=1, max_length=255)]
ConversationId: TypeAlias = Annotated[str, Meta(min_length=1, max_length=255)]
Name: TypeAlias = Annotated[str, Meta(min_length=1, max_length=255)]
EntryId: TypeAlias = Annotated[str, Meta(min_length=1, max_length=200)]
"""What a client calls the thing that it logs: the same id is stored once."""
Moment: TypeAlias = Annotated[
    str | float, Meta(description="A time: RFC 3339, `YYYY-MM-DD HH:MM:SS` in UTC, or seconds since 1970.")
]
Limit: TypeAlias = Annotated[int, Meta(ge=1, le=1000)]
Sequence: TypeAlias = Annotated[int, Meta(ge=0)]


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What every request is."""


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """What every successful reply has."""

    status: Literal["success", "HEALTHY", "degraded"] = "success"
    warnings: tuple[str, ...] = ()


class Query(Request, frozen=True, kw_only=True):
    """A request that is answered from a read model."""

    min_seq: Sequence = 0
    """Answer only when this event is in the read model: what a write replied as ``seq``."""


class Page(Query, frozen=True, kw_only=True):
    """A query for rows, the newest first."""

    since: Moment | None = None
    until: Moment | None = None
    """Exclusive."""
    limit: Limit = 100
    cursor: Annotated[str, Meta(max_length=200)] | None = None
    """``next_cursor`` of the page before."""


class ErrorReply(msgspec.Struct, frozen=True, kw_only=True):
    """What every refused request gets; it also has the micro headers ``Nats-Service-Error`` and ``-Code``."""

    status: Literal["error"] = "error"
    code: str
    message: str
    event_id: str | None = None
    """Of ``unknown_outcome``: the event to ask about."""
    retry_after_ms: int | None = None
    """Of ``overloaded``: when there is likely to be room again."""
    warnings: tuple[str, ...] = ()
