"""Spans: what a process does, for how long, and what caused it.

A trace crosses processes in W3C ``traceparent`` headers. When tracing is off nothing is recorded, but a
caller's ``traceparent`` is still passed on to events and actors, so that the traces of others stay whole.
Identifiers without a bound go into attributes, never into span names; prompts and answers only into
attributes of their own, and only with ``trace_content``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import TracebackType
from typing import Final, NamedTuple, TypeAlias

from opentelemetry import context, trace
from opentelemetry.context import Context
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
)

from suite.errors import SuiteError
from suite.telemetry import providers

Attribute: TypeAlias = str | int | float | bool | Sequence[str]
Attributes: TypeAlias = Mapping[str, Attribute]
"""By names such as ``gen_ai.request.model``."""

MOST_LINKS: Final = 64
_traceparent = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})").match


class TraceIds(NamedTuple):
    """Which span of which trace something belongs to, as hexadecimal numbers."""

    trace_id: str
    span_id: str


def span(
    name: str,
    attributes: Mapping[str, Attribute] = {},
    *,
    kind: SpanKind = SpanKind.INTERNAL,
    headers: Mapping[str, str] | None = None,
    links: Iterable[str | None] = (),
) -> AbstractContextManager[None]:
    """A span around a block. With `headers` it continues the trace of their ``traceparent``.

    `links` are the ``traceparent`` of other spans that led to this one. An exception that leaves the block
    makes it a failed one.
    """
    if not providers.recording.is_on:
        return continuing(headers or {})
    return _CurrentSpan(name, kind, headers, links, attributes)


def continuing(headers: Mapping[str, str]) -> AbstractContextManager[None]:
    """The trace of who has sent these headers, without a span of this process: what is left with `off`."""
    return within(_continued(headers["traceparent"])) if "traceparent" in headers else nullcontext()


class _CurrentSpan:
    """A span that is the current one during a block. A class, for generators take twice as long."""

    __slots__ = ("_attributes", "_headers", "_kind", "_links", "_name", "_span", "_token")

    def __init__(
        self,
        name: str,
        kind: SpanKind,
        headers: Mapping[str, str] | None,
        links: Iterable[str | None],
        attributes: Attributes,
    ) -> None:
        self._name = name
        self._kind = kind
        self._headers = headers
        self._links = links
        self._attributes = attributes

    def __enter__(self) -> None:
        outside = _continued((self._headers or {}).get("traceparent"))
        self._span = providers.recording.tracer.start_span(
            self._name,
            context=outside,
            kind=self._kind,
            attributes=self._attributes,
            links=_links(self._links),
        )
        self._token = context.attach(trace.set_span_in_context(self._span, outside))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        context.detach(self._token)
        if isinstance(error, Exception):
            _fail(self._span, error)
        self._span.end()


class OpenSpan:
    """A span that is begun in one task and ended in another. It may be ended more than once."""

    def __init__(self, span: Span | None, outside: Context) -> None:
        """`outside`: the trace that it belongs to."""
        self._span = span
        self.context = outside if span is None else trace.set_span_in_context(span, outside)
        """To be continued `within`: that of the span, or of its trace if nothing is recorded."""

    @property
    def traceparent(self) -> str | None:
        """For a link to it; None outside of any trace."""
        return _as_traceparent(trace.get_current_span(self.context).get_span_context())

    def end(self, error: Exception | None = None) -> None:
        """End it, as a failed one if there is an error."""
        if self._span is not None and self._span.is_recording():
            if error is not None:
                _fail(self._span, error)
            self._span.end()


def begin(
    name: str,
    attributes: Mapping[str, Attribute] = {},
    *,
    within: Context | None = None,
    began_ns: int | None = None,
) -> OpenSpan:
    """Begin a span that somebody else ends; `within`: which trace it belongs to, by default the current one.

    `began_ns` (since 1970) is when it has begun, if that was earlier.
    """
    outside = context.get_current() if within is None else within
    if not providers.recording.is_on:
        return OpenSpan(None, outside)
    begun = providers.recording.tracer.start_span(
        name,
        context=outside,
        attributes=attributes,
        start_time=began_ns,
    )
    return OpenSpan(begun, outside)


def current() -> Context:
    """The current trace context, to be continued elsewhere with `within`."""
    return context.get_current()


@contextmanager
def within(trace_context: Context | None) -> Iterator[None]:
    """Continue a trace (or none) during the block, regardless of the trace of the surrounding task."""
    token = context.attach(Context() if trace_context is None else trace_context)
    try:
        yield
    finally:
        context.detach(token)


def annotate(attributes: Attributes) -> None:
    """Add attributes to the current span, if one is recorded."""
    if providers.recording.is_on:
        trace.get_current_span().set_attributes(attributes)


def rename(name: str) -> None:
    """Give the current span another name, now that more is known of it."""
    if providers.recording.is_on:
        trace.get_current_span().update_name(name)


def fail(error: Exception | str) -> None:
    """Make the current span a failed one, by an error or a word for its kind."""
    if providers.recording.is_on:
        _fail(trace.get_current_span(), error)


def traceparent() -> str | None:
    """The W3C ``traceparent`` of the current span, to send in a header; None outside of any trace."""
    return _as_traceparent(trace.get_current_span().get_span_context())


def trace_headers() -> dict[str, str]:
    """The headers that have a message continue the current trace; none outside of any."""
    current = traceparent()
    return {} if current is None else {"traceparent": current}


def trace_ids() -> TraceIds | None:
    """The ids of the current span, for a line of the log; None outside of any trace."""
    current = trace.get_current_span().get_span_context()
    return TraceIds(f"{current.trace_id:032x}", f"{current.span_id:016x}") if current.is_valid else None


def ids_of(traceparent: str | None) -> TraceIds | None:
    """The ids in a ``traceparent``; None if it is none."""
    found = None if traceparent is None else _traceparent(traceparent)
    return None if found is None else TraceIds(found[1], found[2])


def is_sampled(traceparent: str | None) -> bool:
    """Whether who made this ``traceparent`` has its trace exported."""
    caller = _span_context(traceparent)
    return caller is not None and caller.trace_flags.sampled


def error_type(error: BaseException) -> str:
    """What kind of error it is, as ``error.type`` of spans and metrics: its code, or else its class."""
    return error.code if isinstance(error, SuiteError) else type(error).__name__


def _continued(traceparent: str | None) -> Context:
    """The context of a block that continues this trace; the current one if there is none."""
    caller = _span_context(traceparent)
    return context.get_current() if caller is None else trace.set_span_in_context(NonRecordingSpan(caller))


def _span_context(traceparent: str | None) -> SpanContext | None:
    found = None if traceparent is None else _traceparent(traceparent)
    if found is None:
        return None
    trace_id, span_id, flags = found.groups()
    caller = SpanContext(int(trace_id, 16), int(span_id, 16), True, TraceFlags(int(flags, 16)))
    return caller if caller.is_valid else None


def _as_traceparent(span: SpanContext) -> str | None:
    if not span.is_valid:
        return None
    return f"00-{span.trace_id:032x}-{span.span_id:016x}-{span.trace_flags:02x}"


def _links(traceparents: Iterable[str | None]) -> list[Link]:
    """A link for each other span; the first `MOST_LINKS`."""
    links: list[Link] = []
    for each in traceparents:
        if (linked := _span_context(each)) is not None:
            links.append(Link(linked))
            if len(links) == MOST_LINKS:
                break
    return links


def _fail(span: Span, error: Exception | str) -> None:
    """An error's message may quote what a client has sent, so it is content."""
    span.set_attribute("error.type", error if isinstance(error, str) else error_type(error))
    span.set_status(Status(StatusCode.ERROR, str(error) if providers.recording.content else None))
