"""Our tracer records what OpenTelemetry's SDK records: both do the same here, and are compared."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, Span, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
)
from opentelemetry.util.types import Attributes

from suite import telemetry
from suite.messages.tracing import TraceSettings
from suite.telemetry.providers import SpanStarter
from suite.telemetry.sampling import FailuresAndSlow, FollowingSampler, context_of
from suite.telemetry.span_store import SpanStore
from suite.telemetry.tracer import Tracer

SCOPE = ("suite", "1.0", "https://opentelemetry.io/schemas/1.45.0")
SOURCE = Resource({"service.name": "suite-node"})
CALLER = SpanContext(1 << 100, 1 << 50, is_remote=True, trace_flags=TraceFlags(3))

Work = Callable[[SpanStarter], None]


def plain(tracer: SpanStarter) -> None:
    tracer.start_span("plain").end()


def continued(tracer: SpanStarter) -> None:
    context = trace.set_span_in_context(NonRecordingSpan(CALLER))
    outer = tracer.start_span("outer", context=context, kind=SpanKind.CONSUMER, attributes={"asked": "yes"})
    inner = tracer.start_span("inner", context=trace.set_span_in_context(outer), kind=SpanKind.PRODUCER)
    inner.end(7)
    outer.end(9)


def described(tracer: SpanStarter) -> None:
    given: dict[str, Any] = {"a": 1, "b": 2.5, "c": True, "d": ["x", "y"]}
    span = tracer.start_span("before", attributes=given, start_time=5)
    given["a"] = 0  # the caller's own, from now on
    span.set_attributes({"b": "other", "e": "more"})
    span.set_attribute("f", 1)
    span.update_name("after")
    span.add_event("happened", {"when": "now"}, 6)
    span.end(7)
    span.end(8)


def linked(tracer: SpanStarter) -> None:
    tracer.start_span("linked", links=[Link(CALLER), Link(CALLER)], start_time=5).end(6)


def failed(tracer: SpanStarter) -> None:
    with tracer.start_span("failed") as span:
        span.set_status(Status(StatusCode.ERROR, "told"))
        span.set_status(StatusCode.UNSET)
    with tracer.start_span("well") as span:
        span.set_status(StatusCode.OK)
        span.set_status(StatusCode.ERROR, "too late")


def ended(tracer: SpanStarter) -> None:
    span = tracer.start_span("ended", attributes={"a": 1}, start_time=5)
    assert span.is_recording()
    span.end(6)
    assert not span.is_recording()
    span.set_attributes({"b": 2})
    span.set_attribute("c", 3)
    span.update_name("late")
    span.set_status(StatusCode.ERROR)
    span.add_event("late")


def large(tracer: SpanStarter) -> None:
    links = [
        Link(SpanContext(1 << 100, number, is_remote=True, trace_flags=TraceFlags(1)))
        for number in range(1, 200)
    ]
    span = tracer.start_span(
        "large", attributes={f"number {number}": number for number in range(200)}, links=links
    )
    for number in range(200):
        span.add_event(f"event {number}", {"text": "x" * 200}, number)
    span.set_attribute("text", "x" * 200)
    span.end()


WORKS = (plain, continued, described, linked, failed, ended, large)


@pytest.mark.parametrize("ratio", [1.0, 0.0])
@pytest.mark.parametrize("work", WORKS)
def test_it_records_as_the_sdk_does(work: Work, ratio: float) -> None:
    recorded = told_by_ours(work, ratio)
    assert recorded == told_by_the_sdk(work, ratio)
    assert recorded or not ratio


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "3"),
        ("OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT", "2"),
        ("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "2"),
        ("OTEL_SPAN_LINK_COUNT_LIMIT", "2"),
        ("OTEL_SPAN_EVENT_COUNT_LIMIT", "2"),
    ],
)
@pytest.mark.parametrize("work", [linked, large])
def test_the_limits_of_the_standard_variables_apply(
    work: Work, name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    recorded = told_by_ours(work, 1.0)
    assert recorded == told_by_the_sdk(work, 1.0)
    assert recorded


def test_an_exception_is_recorded_without_its_message() -> None:
    exporter = InMemorySpanExporter()
    span = ours(exporter, 1.0).start_span("failed")
    span.record_exception(ValueError("Swordfish"))
    span.end()
    (told,) = exporter.get_finished_spans()
    (event,) = told.events
    assert (event.name, event.attributes) == ("exception", {"exception.type": "ValueError"})


def test_the_standard_variable_switches_it_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    settings = TraceSettings(mode="local", store=str(tmp_path), store_bytes=1 << 20)
    with telemetry.tracing(settings, node="box", process="node"), telemetry.span("work"):
        assert telemetry.traceparent() is None
    assert SpanStore(tmp_path, 1 << 20).traces() == []


def told_by_ours(work: Work, ratio: float) -> list[dict[str, Any]]:
    exporter = InMemorySpanExporter()
    work(ours(exporter, ratio))
    return [told(span) for span in exporter.get_finished_spans()]


def ours(exporter: InMemorySpanExporter, ratio: float) -> Tracer:
    return Tracer(FollowingSampler(ratio), choosing(exporter), SOURCE, InstrumentationScope(*SCOPE))


def told_by_the_sdk(work: Work, ratio: float) -> list[dict[str, Any]]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(sampler=OfTheSdk(ratio), resource=SOURCE, shutdown_on_exit=False)
    provider.add_span_processor(Noting([SimpleSpanProcessor(exporter)], slow_seconds=1000.0))
    work(provider.get_tracer(SCOPE[0], SCOPE[1], SCOPE[2]))
    return [told(span) for span in exporter.get_finished_spans()]


class OfTheSdk(Sampler):
    """Our sampler, as the SDK asks it."""

    def __init__(self, ratio: float) -> None:
        self._sampler = FollowingSampler(ratio)

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,  # noqa: ARG002 - as the base has it
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,  # noqa: ARG002
    ) -> SamplingResult:
        context = trace.get_current_span(parent_context).get_span_context()
        parent = context if context.is_valid else None
        is_sampled = self._sampler.samples(parent, links or (), trace_id, name)
        return SamplingResult(Decision.RECORD_AND_SAMPLE if is_sampled else Decision.RECORD_ONLY, attributes)

    def get_description(self) -> str:
        return "ours"


class Noting(FailuresAndSlow):
    """Our processor, as the SDK calls it."""

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:  # noqa: ARG002
        self.note_start(context_of(span))


def choosing(exporter: InMemorySpanExporter) -> FailuresAndSlow:
    return FailuresAndSlow([SimpleSpanProcessor(exporter)], slow_seconds=1000.0)


def told(span: ReadableSpan) -> dict[str, Any]:
    """What a span says, but for what is another time and another number each time."""
    document: dict[str, Any] = json.loads(span.to_json())
    context, parent = span.get_span_context(), span.parent
    assert context is not None
    for link in document["links"]:
        link["attributes"] = link["attributes"] or {}
    return document | {
        "context": (context.trace_flags, context.is_remote, context.trace_state),
        "parent_id": None if parent is None else (parent.trace_id == context.trace_id, parent.is_remote),
        "start_time": _given(span.start_time),
        "end_time": _given(span.end_time),
        "dropped": (span.dropped_attributes, span.dropped_events, span.dropped_links),
        "scope": span.instrumentation_scope,
    }


def _given(ns: int | None) -> int | str:
    """A time that the test has given, or that it was now."""
    assert ns is not None
    return ns if ns < 10 else "now"
