"""Which traces are exported: the share that is asked for, and what fails or is slow.

A trace is exported or not as its first span decides, and that goes along in ``traceparent``. What is not to
be exported is recorded all the same: a process that sees its own part of a trace fail, or take long, exports
this part. The parts of other processes, which saw nothing of it, are not exported.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Final

from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace.sampling import Decision, TraceIdRatioBased
from opentelemetry.trace import Link, SpanContext, StatusCode, TraceFlags

MOST_PARTS: Final = 2048
"""How many traces that are not exported are kept until they end; beyond that they are not watched."""
MOST_SPANS: Final = 256
"""How many spans of each are kept: the last."""
_NANOSECONDS: Final = 1_000_000_000


class FollowingSampler:
    """Does as the caller does, or as those to which a new trace is linked; else samples a share of traces.

    What is not sampled is still recorded, for the case that it fails or is slow.
    """

    def __init__(self, ratio: float) -> None:
        """`ratio`: the share of new traces that are exported, 0 to 1."""
        self._ratio = TraceIdRatioBased(ratio)

    def samples(self, parent: SpanContext | None, links: Sequence[Link], trace_id: int, name: str) -> bool:
        """Whether a span that is about to begin is exported."""
        if parent is not None:
            return parent.trace_flags.sampled
        if links:
            return any(link.context.trace_flags.sampled for link in links)
        decided = self._ratio.should_sample(None, trace_id, name)
        return decided.decision is Decision.RECORD_AND_SAMPLE


class _Part:
    """What this process does of one trace that is not to be exported."""

    def __init__(self) -> None:
        self.open = 0
        self.ended: list[ReadableSpan] = []
        self.is_wanted = False


class FailuresAndSlow(SpanProcessor):
    """Passes spans on that are sampled, and parts of traces that fail or take long."""

    def __init__(
        self,
        then: Sequence[SpanProcessor],
        *,
        slow_seconds: float,
        most_parts: int = MOST_PARTS,
        most_spans: int = MOST_SPANS,
    ) -> None:
        """`then`: who gets them; `most_parts`, `most_spans`: see `MOST_PARTS` and `MOST_SPANS`."""
        self._then = tuple(then)
        self._slow_ns = slow_seconds * _NANOSECONDS
        self._most_parts, self._most_spans = most_parts, most_spans
        self._parts: dict[int, _Part] = {}
        self._lock = threading.Lock()

    def note_start(self, context: SpanContext) -> None:
        """Note that a span with these ids has begun."""
        if context.trace_flags.sampled:
            return
        with self._lock:
            part = self._parts.get(context.trace_id)
            if part is None and len(self._parts) < self._most_parts:
                part = self._parts[context.trace_id] = _Part()
            if part is not None:
                part.open += 1

    def on_end(self, span: ReadableSpan) -> None:
        """Pass a span on, or keep it until it is known whether its part is wanted."""
        context = context_of(span)
        if context.trace_flags.sampled:
            self._pass_on((span,))
            return
        with self._lock:
            over = self._ended(context.trace_id, span)
        if over is not None and over.is_wanted:
            self._pass_on([_as_sampled(each) for each in over.ended])

    def _ended(self, trace_id: int, span: ReadableSpan) -> _Part | None:
        """The part of a span that has ended, if that was its last that was open."""
        part = self._parts.get(trace_id)
        if part is None:
            return None
        part.open -= 1
        part.is_wanted = part.is_wanted or self._is_wanted(span)
        part.ended.append(span)
        del part.ended[: -self._most_spans]
        return self._parts.pop(trace_id) if part.open <= 0 else None

    def _is_wanted(self, span: ReadableSpan) -> bool:
        if span.status.status_code is StatusCode.ERROR:
            return True
        return (span.end_time or 0) - (span.start_time or 0) >= self._slow_ns

    def _pass_on(self, spans: Sequence[ReadableSpan]) -> None:
        for span in spans:
            for each in self._then:
                each.on_end(span)

    def shutdown(self) -> None:
        """Have those behind it export what they have."""
        for each in self._then:
            each.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Have those behind it export what they have, now."""
        return all(each.force_flush(timeout_millis) for each in self._then)


def context_of(span: ReadableSpan) -> SpanContext:
    """The ids of a span that is recorded."""
    context = span.get_span_context()
    assert context is not None, "every span that is recorded has one"
    return context


def _as_sampled(span: ReadableSpan) -> ReadableSpan:
    """The same span as one that exporters take."""
    context = context_of(span)
    sampled = SpanContext(
        context.trace_id,
        context.span_id,
        context.is_remote,
        TraceFlags(context.trace_flags | TraceFlags.SAMPLED),
        context.trace_state,
    )
    return ReadableSpan(
        name=span.name,
        context=sampled,
        parent=span.parent,
        resource=span.resource,
        attributes=span.attributes,
        events=span.events,
        links=span.links,
        kind=span.kind,
        status=span.status,
        start_time=span.start_time,
        end_time=span.end_time,
        instrumentation_scope=span.instrumentation_scope,
    )
