"""A trace, as the page draws it: its spans where nodes keep them, and its events in the log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from suite.client import Client
from suite.client.traces import find_trace
from suite.gateway.dashboard.told import event_document
from suite.messages.actions.base import Name
from suite.messages.actions.traces import KeptSpan


class TraceWanted(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which trace: the parameters of the address, all of them texts there."""

    id: Name
    """As ``suite trace`` takes it."""
    seq: Annotated[int, Meta(ge=1, le=2**63 - 1)] | None = None
    """An event of it, if one is known: its other events are looked for around that."""


class TraceFound(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of it. Prompts, answers and messages of errors are not in it."""

    trace_id: str
    spans: Sequence[KeptSpan]
    linked: Sequence[KeptSpan]
    """Spans of other traces that this one led to."""
    events: tuple[Mapping[str, Any], ...]
    warnings: tuple[str, ...]


async def trace_found(client: Client, wanted: TraceWanted) -> TraceFound:
    """The trace that is wanted. Raises TraceNotFound, and InvalidRequest if several may be meant."""
    found = await find_trace(client, wanted.id, near=wanted.seq)
    return TraceFound(
        trace_id=found.trace_id,
        spans=found.spans,
        linked=found.linked,
        events=tuple(map(event_document, found.events)),
        warnings=found.warnings,
    )
