"""The base types of actions. Each action has one request type and one reply type.

A request is a JSON object; unknown fields are ignored and named in the reply's ``warnings``. A reply has
``status: success`` and the fields of its type, or ``status: error`` with ``code`` and ``message``. Field
names have the units: ``_ms``, ``_bytes``, ``_tokens``; times are RFC 3339.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import Meta

from suite.errors import shortened

Text: TypeAlias = Annotated[str, Meta(min_length=1)]
ModelId: TypeAlias = Annotated[str, Meta(min_length=1, description="The model's id or one of its aliases.")]
GenerationId: TypeAlias = Annotated[str, Meta(min_length=1, max_length=255)]
ConversationId: TypeAlias = Annotated[str, Meta(min_length=1, max_length=255)]
Name: TypeAlias = Annotated[str, Meta(min_length=1, max_length=255)]
EntryId: TypeAlias = Annotated[str, Meta(min_length=1, max_length=200)]
"""An id that a client chooses for what it logs; the same id is stored once."""
Moment: TypeAlias = Annotated[
    str | float, Meta(description="A time: RFC 3339, `YYYY-MM-DD HH:MM:SS` in UTC, or seconds since 1970.")
]
LoadWait: TypeAlias = Annotated[
    Annotated[int, Meta(ge=0, le=86_400_000)] | None,
    Meta(
        description="How long the model may wait until there is memory for it, in milliseconds, before the "
        "request is refused with `not_enough_memory`; its load is not counted. 0: not at all. Null: the "
        "service's setting, which without `stream` is shorter."
    ),
]
KeepAlive: TypeAlias = Annotated[
    Annotated[float, Meta(ge=0, le=1e9)] | Literal["forever", "now"] | None,
    Meta(
        description="How long the model stays loaded when nobody uses it any more: seconds, `forever`, or "
        "`now` for not at all. It may still have to leave for another model, unless it is pinned. It counts "
        "until a request says otherwise or the model is unloaded. Null: as it is."
    ),
]
ContextLength: TypeAlias = Annotated[
    Annotated[int, Meta(ge=1)] | None,
    Meta(
        description="The context that the sender counts on, in tokens. A request never changes that of a "
        "model: one that asks for less is served with what the model has, and a warning says so; one that "
        "asks for more is refused."
    ),
]
NodeName: TypeAlias = Annotated[
    Annotated[str, Meta(min_length=1, max_length=255)] | None,
    Meta(
        description="The node that is to answer, where there are several. Null: the one that serves the "
        "request best, or the whole fleet."
    ),
]
AdapterScale: TypeAlias = Annotated[float, Meta(ge=-100, le=100)]
Limit: TypeAlias = Annotated[int, Meta(ge=1, le=1000)]
Sequence: TypeAlias = Annotated[int, Meta(ge=0)]


CLIENT_HEADER = "Suite-Client"
"""The header of a request in which its sender may say what it is, for people who look at what runs."""


_MOST_WARNINGS = 100
_WARNING_CHARACTERS = 512


def brief(warnings: tuple[str, ...]) -> tuple[str, ...]:
    """Warnings as replies have them: short and not too many, as they may repeat much of what was sent."""
    kept = tuple(shortened(each, _WARNING_CHARACTERS) for each in warnings[:_MOST_WARNINGS])
    more = len(warnings) - len(kept)
    return (*kept, f"and {more} more warnings") if more else kept


class AdapterChoice(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A LoRA adapter, and how much of it is applied."""

    id: Name
    scale: AdapterScale = 1.0
    """1: as it was trained; 0: not at all."""


Adapters: TypeAlias = Annotated[
    Name | Annotated[tuple[Name | AdapterChoice, ...], Meta(max_length=8)],
    Meta(description="LoRA adapters: the id of one, or several, each as its id or with its `scale`."),
]


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """The base of all requests."""

    node: NodeName = None


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """The base of all successful replies."""

    status: Literal["success", "HEALTHY", "degraded"] = "success"
    node: str = ""
    """The node that gave it; empty from older nodes."""
    warnings: tuple[str, ...] = ()


class FleetReply(Reply, frozen=True, kw_only=True):
    """The base of replies that are made of those of all nodes, unless the request names one."""

    missing_nodes: tuple[str, ...] = ()
    """The nodes that did not answer in time, or that are lost: what they know is not in it."""


class Query(Request, frozen=True, kw_only=True):
    """A request that is answered from a read model."""

    min_seq: Sequence = 0
    """Answer only when the read model includes this event: the ``seq`` from the reply to a write."""


class TimeWindow(Query, frozen=True, kw_only=True):
    """A query for rows of a window of time."""

    since: Moment | None = None
    until: Moment | None = None
    """Exclusive."""


class Page(TimeWindow, frozen=True, kw_only=True):
    """A query for rows, newest first."""

    limit: Limit = 100
    cursor: Annotated[str, Meta(max_length=200)] | None = None
    """``next_cursor`` of the previous page."""


class ErrorReply(msgspec.Struct, frozen=True, kw_only=True):
    """The reply to a refused request; it also has the micro headers ``Nats-Service-Error`` and ``-Code``."""

    status: Literal["error"] = "error"
    code: str
    message: str
    event_id: str | None = None
    """For ``unknown_outcome``: the id of the event in question."""
    retry_after_ms: int | None = None
    """For ``overloaded``: when there is likely to be room again; for ``model_quarantined``: when it ends."""
    node: str = ""
    """The node that refused it; empty if that is not known."""
    warnings: tuple[str, ...] = ()
