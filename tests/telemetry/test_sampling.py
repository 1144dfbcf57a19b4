"""Which traces are exported: the share that is asked for, and what fails or is slow."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, NonRecordingSpan, SpanContext, Status, StatusCode, TraceFlags

from suite.telemetry.sampling import MOST_PARTS, MOST_SPANS, FailuresAndSlow, FollowingSampler
from suite.telemetry.tracer import Tracer

SLOW_SECONDS = 10.0
SECOND = 1_000_000_000


class Process:
    """One process that traces, and what it has exported."""

    def __init__(self, ratio: float) -> None:
        self._exporter = InMemorySpanExporter()
        choosing = FailuresAndSlow([SimpleSpanProcessor(self._exporter)], slow_seconds=SLOW_SECONDS)
        scope = InstrumentationScope("test")
        self.tracer = Tracer(FollowingSampler(ratio), choosing, Resource.get_empty(), scope)

    @property
    def exported(self) -> list[str]:
        return [span.name for span in self.spans]

    @property
    def spans(self) -> Sequence[ReadableSpan]:
        return self._exporter.get_finished_spans()

    def work(self, name: str, *, seconds: float = 1.0, fails: bool = False) -> None:
        """A span with one within it, of which the inner one may be slow or fail."""
        outer = self.tracer.start_span(name, start_time=SECOND)
        inner = self.tracer.start_span(
            f"{name} inner", context=trace.set_span_in_context(outer), start_time=SECOND
        )
        if fails:
            inner.set_status(Status(StatusCode.ERROR))
        inner.end(SECOND + round(seconds * SECOND))
        outer.end(SECOND + round(seconds * SECOND))


def caller(*, sampled: bool) -> SpanContext:
    return SpanContext(1 << 100, 1 << 50, is_remote=True, trace_flags=TraceFlags(int(sampled)))


@given(
    works=st.lists(st.tuples(st.floats(0, 20), st.booleans()), max_size=8), ratio=st.sampled_from([0.0, 1.0])
)
def test_what_fails_or_is_slow_is_exported_whole_whatever_the_ratio(
    works: list[tuple[float, bool]], ratio: float
) -> None:
    process = Process(ratio)
    for number, (seconds, fails) in enumerate(works):
        process.work(str(number), seconds=seconds, fails=fails)
    wanted = [
        name
        for number, (seconds, fails) in enumerate(works)
        if ratio or fails or round(seconds * SECOND) >= SLOW_SECONDS * SECOND
        for name in (f"{number} inner", str(number))
    ]
    assert process.exported == wanted


@given(ratio=st.floats(0, 1), sampled=st.booleans())
def test_a_callers_trace_is_exported_as_the_caller_says(ratio: float, sampled: bool) -> None:
    process = Process(ratio)
    context = trace.set_span_in_context(NonRecordingSpan(caller(sampled=sampled)))
    process.tracer.start_span("ours", context=context).end()
    assert process.exported == (["ours"] if sampled else [])


@given(sampled=st.booleans())
def test_a_new_trace_that_is_linked_to_others_goes_with_them(sampled: bool) -> None:
    process = Process(0.0)
    process.tracer.start_span("fold", links=[Link(caller(sampled=sampled))]).end()
    assert process.exported == (["fold"] if sampled else [])


def test_a_share_of_new_traces_is_exported() -> None:
    process = Process(0.25)
    for _ in range(2000):
        process.tracer.start_span("new").end()
    assert 350 < len(process.exported) < 650


def test_what_is_exported_late_says_that_it_is_sampled() -> None:
    process = Process(0.0)
    process.work("failed", fails=True)
    contexts = [span.get_span_context() for span in process.spans]
    assert [context is not None and context.trace_flags.sampled for context in contexts] == [True, True]


def test_what_is_kept_until_it_is_known_whether_it_is_wanted_is_bounded() -> None:
    process = Process(0.0)
    kept_open = [process.tracer.start_span("open") for _ in range(MOST_PARTS)]
    process.work("beyond", fails=True)
    assert process.exported == []
    for span in kept_open:
        span.end()
    outer = process.tracer.start_span("long")
    context = trace.set_span_in_context(outer)
    for _ in range(2 * MOST_SPANS):
        process.tracer.start_span("part", context=context).end()
    outer.set_status(Status(StatusCode.ERROR))
    outer.end()
    assert len(process.exported) == MOST_SPANS
    assert process.exported[-1] == "long"
