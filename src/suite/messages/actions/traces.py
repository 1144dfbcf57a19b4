"""The traces of which nodes keep spans: which there are, and the spans of one (ADR 63)."""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from suite.messages.actions.base import FleetReply, Limit, Name, Request

CONTENT: Final = frozenset(("gen_ai.input.messages", "gen_ai.output.messages", "gen_ai.system_instructions"))
"""The attributes of spans that have prompts and answers; there are none without the setting
``trace_content``."""

LEAST_CHARACTERS: Final = 6
"""Of the beginning of a trace's id, by which it may be asked for."""


class LinkedSpan(msgspec.Struct, frozen=True, kw_only=True):
    """Another span that led to one."""

    trace_id: str
    span_id: str


class KeptSpan(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A span as it is kept; ids are hexadecimal numbers, times nanoseconds since 1970."""

    trace_id: str
    span_id: str
    parent_id: str = ""
    """Empty: it began the trace."""
    name: str
    kind: str
    process: str
    node: str = ""
    start_ns: int
    end_ns: int
    error: str = ""
    """What kind of error it has ended with; empty: with none."""
    error_text: str = ""
    attributes: dict[str, Any] = {}
    links: tuple[LinkedSpan, ...] = ()


def without_content(span: KeptSpan) -> KeptSpan:
    """A span without what a request or an answer said: for who may look at the service, and not at those."""
    told = {name: value for name, value in span.attributes.items() if name not in CONTENT}
    return msgspec.structs.replace(span, attributes=told, error_text="")


class ListTracesRequest(Request, frozen=True, kw_only=True):
    """List the newest traces of which a node keeps spans."""

    limit: Limit = 50


class ListTracesReply(FleetReply, frozen=True, kw_only=True):
    """The traces, the newest first. Those that only follow from others are left out."""

    traces: tuple[KeptSpan, ...]
    """Each as its first span, with the end of its last, and with an error of any."""


class GetTraceRequest(Request, frozen=True, kw_only=True):
    """Get the spans of a trace that nodes keep."""

    id: Annotated[
        Name,
        Meta(
            description=f"The id of the trace or its beginning, {LEAST_CHARACTERS} characters at least, or "
            "the id of one of its generations or requests."
        ),
    ]


class GetTraceReply(FleetReply, frozen=True, kw_only=True):
    """The spans, without prompts, answers and messages of errors."""

    trace_id: str | None
    """Null: no span that is kept belongs to it."""
    spans: tuple[KeptSpan, ...]
    linked: tuple[KeptSpan, ...]
    """Spans of other traces that this one led to, such as those of read models that took its events."""
