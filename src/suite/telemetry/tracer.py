"""Records spans, for a third of what OpenTelemetry's SDK takes for it (ADR 63).

A span implements OpenTelemetry's API; when it ends it becomes the SDK's `ReadableSpan`, for the SDK's
processors and exporters. Left out is what is not needed here: locks (a span belongs to one task), checks of
each value of an attribute (they are typed), and metrics of the tracer itself.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final, TypeVar

from opentelemetry import trace
from opentelemetry.attributes import BoundedAttributes
from opentelemetry.context import Context
from opentelemetry.sdk.trace import Event, ReadableSpan, SpanLimits
from opentelemetry.sdk.util import BoundedList
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.util.types import AnyValue, Attributes

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope

    from suite.telemetry.sampling import FailuresAndSlow, FollowingSampler

T = TypeVar("T")

_UNSET: Final = Status(StatusCode.UNSET)
_FLAGS: Final = tuple(TraceFlags(flags) for flags in range(4))
"""All that are known: whether a trace is sampled, and whether its id is random."""


class Tracer:
    """Begins the spans of a process."""

    def __init__(
        self,
        sampler: FollowingSampler,
        processor: FailuresAndSlow,
        resource: Resource,
        scope: InstrumentationScope,
    ) -> None:
        """`processor`: who gets them when they have ended. The ``OTEL_*_LIMIT`` variables apply."""
        self.processor = processor
        self.resource = resource
        self.scope = scope
        self.limits = SpanLimits()
        self._sampler = sampler

    def start_span(
        self,
        name: str,
        context: Context | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Attributes = None,
        links: Sequence[Link] | None = (),
        start_time: int | None = None,
    ) -> trace.Span:
        """Begin a span, as `opentelemetry.trace.Tracer.start_span` does."""
        parent: SpanContext | None = trace.get_current_span(context).get_span_context()
        if parent is None or not parent.is_valid:
            parent, trace_id, flags = None, _id(128), TraceFlags.RANDOM_TRACE_ID
        else:
            trace_id, flags = parent.trace_id, parent.trace_flags & TraceFlags.RANDOM_TRACE_ID
        if self._sampler.samples(parent, links or (), trace_id, name):
            flags |= TraceFlags.SAMPLED
        own = SpanContext(trace_id, _id(64), False, _FLAGS[flags])
        self.processor.note_start(own)
        return RecordedSpan(self, name, own, parent, kind, attributes, links or (), start_time)


class RecordedSpan(trace.Span):
    """A span that is recorded, and passed on when it ends. What is done to it afterwards is ignored."""

    def __init__(
        self,
        tracer: Tracer,
        name: str,
        context: SpanContext,
        parent: SpanContext | None,
        kind: SpanKind,
        attributes: Attributes,
        links: Sequence[Link],
        began_ns: int | None,
    ) -> None:
        """`began_ns` (since 1970); None: now."""
        self._tracer: Tracer | None = tracer  # None: it has ended
        self._name = name
        self._context = context
        self._parent = parent
        self._kind = kind
        self._attributes: dict[str, AnyValue] = {} if attributes is None else dict(attributes)
        self._links = links
        self._events: list[Event] = []
        self._status = _UNSET
        self._began_ns = time.time_ns() if began_ns is None else began_ns

    def get_span_context(self) -> SpanContext:
        """Its ids."""
        return self._context

    def is_recording(self) -> bool:
        """Whether it has not ended."""
        return self._tracer is not None

    def set_attributes(self, attributes: Mapping[str, AnyValue]) -> None:
        """Add attributes."""
        self._attributes.update(attributes)

    def set_attribute(self, key: str, value: AnyValue) -> None:
        """Add an attribute."""
        self._attributes[key] = value

    def add_event(self, name: str, attributes: Attributes = None, timestamp: int | None = None) -> None:
        """Add something that happened, now or at this time (nanoseconds since 1970)."""
        if self._tracer is not None:
            limits = self._tracer.limits
            most, longest = limits.max_event_attributes, limits.max_attribute_length
            self._events.append(Event(name, _bounded(attributes or {}, most, longest), timestamp))

    def record_exception(
        self,
        exception: BaseException,
        attributes: Attributes = None,
        timestamp: int | None = None,
        escaped: bool = False,  # noqa: ARG002 - as the API has it
    ) -> None:
        """Add the kind of an exception, without its message: that may quote what a client has sent."""
        told: dict[str, AnyValue] = {"exception.type": type(exception).__qualname__}
        self.add_event("exception", told | dict(attributes or {}), timestamp)

    def update_name(self, name: str) -> None:
        """Give it another name."""
        self._name = name

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        """Say whether it has failed. As the API has it, OK stays, and UNSET says nothing."""
        if not isinstance(status, Status):
            status = Status(status, description)
        if self._status.status_code is not StatusCode.OK and status.status_code is not StatusCode.UNSET:
            self._status = status

    def end(self, end_time: int | None = None) -> None:
        """End it, now or at this time (nanoseconds since 1970). Only the first call counts."""
        tracer, self._tracer = self._tracer, None
        if tracer is None:
            return
        limits = tracer.limits
        readable = ReadableSpan(
            name=self._name,
            context=self._context,
            parent=self._parent,
            resource=tracer.resource,
            attributes=_bounded(
                self._attributes, limits.max_span_attributes, limits.max_span_attribute_length
            ),
            events=_newest(self._events, limits.max_events),
            links=_newest(self._links, limits.max_links),
            kind=self._kind,
            status=self._status,
            start_time=self._began_ns,
            end_time=time.time_ns() if end_time is None else end_time,
            instrumentation_scope=tracer.scope,
        )
        self._attributes = {}  # what is still added is not in what was passed on
        tracer.processor.on_end(readable)


def _id(bits: int) -> int:
    while (id := random.getrandbits(bits)) == 0:  # which is none
        pass
    return id


def _bounded(attributes: Mapping[str, AnyValue], most: int | None, longest: int | None) -> Attributes:
    """As many as there may be, of as many characters. Copied only if need be, as that is slow."""
    if longest is None and (most is None or len(attributes) <= most):
        return attributes
    return BoundedAttributes(most, attributes, max_value_len=longest)


def _newest(items: Sequence[T], most: int | None) -> Sequence[T]:
    """The last of them, as many as there may be."""
    return items if most is None or len(items) <= most else BoundedList.from_seq(most, items)
