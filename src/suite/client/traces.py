"""Finds a trace: its spans where nodes keep them, and its events in the log::

found = await find_trace(client, "1bc83b1f")
found.spans, found.events
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, NamedTuple

from suite.client.asking import Asking
from suite.errors import InvalidRequest, NoService, SuiteError, TraceNotFound, UnknownAction
from suite.messages.actions.traces import (
    LEAST_CHARACTERS,
    GetTraceReply,
    GetTraceRequest,
    KeptSpan,
    ListTracesReply,
    ListTracesRequest,
)
from suite.messages.envelope import Recorded
from suite.telemetry import ids_of

if TYPE_CHECKING:
    from suite.client.session import Client

NEWEST_EVENTS: Final = 20_000
"""So many events are looked through for a trace of which no span says where its are."""
_OF_ANSWERS: Final = re.compile(r"^(chatcmpl-|cmpl-|resp_|msg_)")
"""What the gateway writes before the id of a generation, as the APIs of others want it."""
_IS_HEXADECIMAL: Final = re.compile(r"[0-9a-fA-F-]+").fullmatch
_LATE: Final = timedelta(seconds=5)
"""So long after its last span events are looked for."""
_NANOSECONDS: Final = 1_000_000_000
_EVER: Final = datetime.max.replace(tzinfo=UTC)
_LAST: Final = 2**63 - 1


class Traces(Asking):
    """The actions for traces."""

    async def list_traces(self, *, limit: int = 50) -> ListTracesReply:
        """List the newest traces of which nodes keep spans."""
        return await self._ask("list_traces", ListTracesRequest(limit=limit), ListTracesReply)

    async def get_trace(self, id: str) -> GetTraceReply:
        """Get the spans of a trace, by its id, its beginning, or the id of a generation or request of it.

        Its events are in the log: `find_trace` finds both.
        """
        return await self._ask("get_trace", GetTraceRequest(id=id), GetTraceReply)


class Trace(NamedTuple):
    """What is known of a trace."""

    trace_id: str
    spans: Sequence[KeptSpan]
    linked: Sequence[KeptSpan]
    """Spans of other traces that this one led to."""
    events: Sequence[Recorded]
    warnings: tuple[str, ...] = ()


def plain(id: str) -> str:
    """An id as spans and events have it, of one as answers have it. What a client chose stays as it is."""
    id = _OF_ANSWERS.sub("", id.strip())
    return id.lower() if _IS_HEXADECIMAL(id) else id


async def find_trace(
    client: Client, id: str, *, near: int | None = None, newest: int = NEWEST_EVENTS
) -> Trace:
    """Find a trace by its id or its beginning, a generation, a request, or the sequence of an event.

    ``near`` is the sequence of an event of it, if one is known: without spans its events are looked for
    around that, else among the newest.
    Raises TraceNotFound, InvalidRequest if several are meant, and what reading the log raises if no span is
    kept.
    """
    id = plain(id)
    if len(id) < LEAST_CHARACTERS and not id.isdecimal():
        raise InvalidRequest(f"a trace's id needs {LEAST_CHARACTERS} characters at least")
    kept = await _kept(client, id)
    try:
        trace_id = kept.trace_id
        if trace_id is None or (near is None and not kept.spans):
            event = await _logged(client, id, newest)
            if event is not None:
                near, trace_id = event.seq, _trace_of(event)
        if trace_id is not None and trace_id != id:  # other nodes may have spans that say no more than that
            kept = await _kept(client, trace_id)
        events = [] if trace_id is None else await _events(client, trace_id, kept.spans, near, newest)
    except TraceNotFound:
        raise
    except SuiteError as error:
        if kept.trace_id is None or not kept.spans:
            raise
        told = f"these are only the spans, as the log cannot be read: {error.message}"
        return Trace(kept.trace_id, kept.spans, kept.linked, (), (*kept.warnings, told))
    if trace_id is None or not (kept.spans or events):
        raise not_found(id, newest)
    return Trace(trace_id, kept.spans, kept.linked, events, kept.warnings)


def not_found(id: str, newest: int) -> TraceNotFound:
    """The error for a trace of which nothing is known."""
    return TraceNotFound(
        f"no trace {id!r}: neither a span that is kept nor the newest {newest:,} events have it; "
        "`suite trace` lists the traces that are kept"
    )


async def _kept(client: Client, id: str) -> GetTraceReply:
    """The spans that nodes keep. Nodes of older versions do not tell theirs."""
    nothing = GetTraceReply(trace_id=None, spans=(), linked=())
    if len(id) < LEAST_CHARACTERS:  # the sequence of an event
        return nothing
    try:
        return await client.get_trace(id)
    except (NoService, UnknownAction):
        return nothing


async def _logged(client: Client, id: str, newest: int) -> Recorded | None:
    """The event with this sequence or id, or the first of what has this id; None: there is none.

    Raises TraceNotFound for an event of no trace.
    """
    last = await client.last_seq()
    seq = int(id) if id.isdecimal() and 0 < int(id) <= last else None
    async with aclosing(client.events(after=max(0, last - newest) if seq is None else seq - 1)) as events:
        async for event in events:
            if seq is not None and event.seq != seq:
                return None  # it has expired
            if seq is not None or id in (event.correlation_id, event.id, _trace_of(event)):
                if _trace_of(event) is None:
                    raise TraceNotFound(
                        f"event {event.seq} belongs to no trace: tracing was off, and its caller had none"
                    )
                return event
    return None


def _trace_of(event: Recorded) -> str | None:
    ids = ids_of(event.traceparent)
    return None if ids is None else ids.trace_id


async def _events(
    client: Client, trace_id: str, spans: Sequence[KeptSpan], near: int | None, newest: int
) -> list[Recorded]:
    """The events of a trace: where its spans say that they are, else near one, else among the newest."""
    numbers = [span.attributes["suite.event.seq"] for span in spans if "suite.event.seq" in span.attributes]
    until, end = _EVER, _LAST
    if numbers:
        after = min(numbers) - 1
        until = datetime.fromtimestamp(max(span.end_ns for span in spans) / _NANOSECONDS, UTC) + _LATE
    elif near is not None:
        after, end = max(0, near - 1 - newest // 2), near + newest // 2
    else:
        after = max(0, await client.last_seq() - newest)
    found: list[Recorded] = []
    async with aclosing(client.events(after=after)) as events:
        async for event in events:
            if event.time > until or event.seq > end:
                break
            if _trace_of(event) == trace_id:
                found.append(event)
    return found
