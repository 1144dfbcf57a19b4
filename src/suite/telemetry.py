"""Metrics, and traces: one span an action, decision, append, load and generation, across processes.

The trace travels in W3C ``traceparent`` headers. When tracing is off nothing is recorded, but a caller's
``traceparent`` still goes along into events and to actors, so that others' traces stay whole.
Identifiers that have no bound stand in attributes, never in span names; prompts and answers in neither.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

from opentelemetry import context, metrics, propagate, trace
from opentelemetry.context import Context
from opentelemetry.trace import SpanKind, Status, StatusCode

from suite.errors import InvalidConfiguration, SuiteError

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics.export import MetricExporter, MetricsData
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExporter

Attribute = str | int | float | bool

_tracer = trace.get_tracer("suite")
_meter: metrics.Meter = metrics.NoOpMeter("suite")
_recording = False


@contextmanager
def tracing(mode: str, *, node: str, process: str) -> Iterator[None]:
    """Record spans and metrics while this is entered: ``off``, ``console`` (lines on stderr) or ``otlp``.

    The OTLP exporter takes its target from the standard ``OTEL_EXPORTER_OTLP_*`` variables.
    """
    global _meter, _recording, _tracer  # noqa: PLW0603 - providers are one a process, as OpenTelemetry has it
    if mode == "off":
        yield
        return
    from opentelemetry.sdk.metrics import MeterProvider  # costs start-up time that `off` need not pay
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor

    resource = Resource.create(
        {"service.name": "suite", "service.instance.id": node, "suite.process": process}
    )
    provider = TracerProvider(resource=resource)
    exporter = _exporter(mode)
    provider.add_span_processor(
        SimpleSpanProcessor(exporter) if mode == "console" else BatchSpanProcessor(exporter)
    )
    meters = MeterProvider(
        resource=resource, metric_readers=[PeriodicExportingMetricReader(_metric_exporter(mode))]
    )
    _tracer, _meter, _recording = provider.get_tracer("suite"), meters.get_meter("suite"), True
    try:
        yield
    finally:
        _recording = False
        _meter = metrics.NoOpMeter("suite")
        meters.shutdown()
        provider.shutdown()


def meter() -> metrics.Meter:
    """What instruments are made of; those of a process without `tracing` record nothing."""
    return _meter


def _metric_exporter(mode: str) -> MetricExporter:
    if mode == "console":
        from opentelemetry.sdk.metrics.export import ConsoleMetricExporter

        return ConsoleMetricExporter(out=sys.stderr, formatter=_metrics_line)
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter

    return OTLPMetricExporter()


def _metrics_line(data: MetricsData) -> str:
    return data.to_json(indent=None).replace("\n", " ") + "\n"


def _exporter(mode: str) -> SpanExporter:
    if mode == "console":
        from opentelemetry.sdk.trace.export import ConsoleSpanExporter

        return ConsoleSpanExporter(out=sys.stderr, formatter=_line)
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError:
        raise InvalidConfiguration("trace = otlp needs model-manager-suite[otlp]: install it") from None
    return OTLPSpanExporter()


def _line(span: ReadableSpan) -> str:
    return str(span.to_json(indent=None)).replace("\n", " ") + "\n"


def span(
    name: str,
    *,
    kind: SpanKind = SpanKind.INTERNAL,
    headers: Mapping[str, str] | None = None,
    **attributes: Attribute,
) -> AbstractContextManager[None]:
    """A span around a block; with `headers`, the continuation of the trace that they carry.

    Attribute names are given with ``__`` for the dot: ``gen_ai__request__model="smollm2"``.
    """
    if not _recording and not (headers and "traceparent" in headers):
        return nullcontext()
    return _span(name, kind, headers, attributes)


@contextmanager
def _span(
    name: str, kind: SpanKind, headers: Mapping[str, str] | None, attributes: dict[str, Attribute]
) -> Iterator[None]:
    token = context.attach(propagate.extract(headers)) if headers else None
    try:
        if not _recording:
            yield
            return
        dotted = {key.replace("__", "."): value for key, value in attributes.items()}
        with _tracer.start_as_current_span(
            name, kind=kind, attributes=dotted, record_exception=False, set_status_on_exception=False
        ) as current:
            try:
                yield
            except SuiteError as error:
                current.set_attribute("error.type", error.code)
                current.set_status(Status(StatusCode.ERROR, error.message))
                raise
            except Exception as error:
                current.set_attribute("error.type", type(error).__name__)
                current.set_status(Status(StatusCode.ERROR))
                raise
    finally:
        if token is not None:
            context.detach(token)


def current() -> Context:
    """The trace that is current, to go on with elsewhere."""
    return context.get_current()


@contextmanager
def within(trace_context: Context | None) -> Iterator[None]:
    """Go on with a trace for the block, or with none, whatever the task around it belongs to."""
    token = context.attach(Context() if trace_context is None else trace_context)
    try:
        yield
    finally:
        context.detach(token)


def annotate(**attributes: Attribute) -> None:
    """Add attributes to the span that is current, if one is recorded."""
    if _recording:
        current = trace.get_current_span()
        for key, value in attributes.items():
            current.set_attribute(key.replace("__", "."), value)


def traceparent() -> str | None:
    """The W3C traceparent of the current span, to send along; None outside any trace."""
    current = trace.get_current_span().get_span_context()
    if not current.is_valid:
        return None
    return f"00-{current.trace_id:032x}-{current.span_id:016x}-{current.trace_flags:02x}"
