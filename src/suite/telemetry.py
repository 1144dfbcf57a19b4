"""OpenTelemetry metrics and traces: one span per action, decision, append, load and generation.

A trace crosses processes in W3C ``traceparent`` headers. When tracing is off nothing is recorded, but a
caller's ``traceparent`` is still passed on to events and actors, so that the traces of others stay whole.
Identifiers without a bound go into attributes, never into span names; prompts and answers go into neither.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

from opentelemetry import context, metrics, propagate, trace
from opentelemetry.context import Context
from opentelemetry.trace import SpanKind, Status, StatusCode

from suite.errors import SuiteError
from suite.extras import require

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics.export import MetricExporter, MetricsData
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExporter

    from suite.collector import Collector

SHUTDOWN_SECONDS = 0.7
"""How long the last export of spans and metrics may take; what is not exported by then is lost."""
_POLL_SECONDS = 0.01

Attribute = str | int | float | bool

_tracer = trace.get_tracer("suite")
_meter: metrics.Meter = metrics.NoOpMeter("suite")
_recording = False


@contextmanager
def tracing(mode: str, *, node: str, process: str, tell_outages: bool = True) -> Iterator[None]:
    """Record spans and metrics during the block.

    ``mode`` is ``off``, ``console`` (lines on stderr) or ``otlp``. The standard ``OTEL_EXPORTER_OTLP_*``
    variables configure the OTLP exporter. ``tell_outages`` says whether this process is the one that warns
    when the collector cannot be reached. The end of the block waits up to `SHUTDOWN_SECONDS` for the last
    export, but not for a collector that is known to be down. Raises NotInstalled if the packages for
    OTLP are not installed.
    """
    global _meter, _recording, _tracer  # noqa: PLW0603 - OpenTelemetry has one provider per process
    if mode == "off":
        yield
        return
    from opentelemetry.sdk.metrics import MeterProvider  # imported here to save start-up time with `off`
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor

    resource = Resource.create(
        {"service.name": "suite", "service.instance.id": node, "suite.process": process}
    )
    collector = None if mode == "console" else _collector(tell_outages)
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(
        SimpleSpanProcessor(_console_spans()) if collector is None else BatchSpanProcessor(collector.spans())
    )
    metrics_to = _console_metrics() if collector is None else collector.metrics()
    meters = MeterProvider(
        resource=resource,
        metric_readers=[PeriodicExportingMetricReader(metrics_to)],
        shutdown_on_exit=False,
    )
    _tracer, _meter, _recording = provider.get_tracer("suite"), meters.get_meter("suite"), True
    try:
        yield
    finally:
        _recording = False
        _meter = metrics.NoOpMeter("suite")
        is_away = collector.is_away if collector is not None else lambda: False
        _finish([meters.shutdown, provider.shutdown], unless=is_away)


def meter() -> metrics.Meter:
    """The meter to create instruments with. Outside of `tracing` they record nothing."""
    return _meter


def _finish(shutdowns: Sequence[Callable[[], None]], *, unless: Callable[[], bool]) -> None:
    """Run the shutdowns in parallel. Wait up to `SHUTDOWN_SECONDS`, or until ``unless`` returns True."""
    threads = [threading.Thread(target=each, name="telemetry-end", daemon=True) for each in shutdowns]
    for thread in threads:
        thread.start()
    end = time.monotonic() + SHUTDOWN_SECONDS
    while time.monotonic() < end and not unless() and any(thread.is_alive() for thread in threads):
        time.sleep(_POLL_SECONDS)


def _collector(tell_outages: bool) -> Collector:
    require("otlp", "trace = otlp")
    from suite.collector import Collector

    return Collector(level=logging.WARNING if tell_outages else logging.DEBUG)


def _console_metrics() -> MetricExporter:
    from opentelemetry.sdk.metrics.export import ConsoleMetricExporter

    return ConsoleMetricExporter(out=sys.stderr, formatter=_metrics_line)


def _metrics_line(data: MetricsData) -> str:
    return data.to_json(indent=None).replace("\n", " ") + "\n"


def _console_spans() -> SpanExporter:
    from opentelemetry.sdk.trace.export import ConsoleSpanExporter

    return ConsoleSpanExporter(out=sys.stderr, formatter=_line)


def _line(span: ReadableSpan) -> str:
    return str(span.to_json(indent=None)).replace("\n", " ") + "\n"


def span(
    name: str,
    *,
    kind: SpanKind = SpanKind.INTERNAL,
    headers: Mapping[str, str] | None = None,
    **attributes: Attribute,
) -> AbstractContextManager[None]:
    """A span around a block. With `headers` it continues the trace of their ``traceparent``.

    Write attribute names with ``__`` for a dot: ``gen_ai__request__model="SmolLM2-135M-Instruct.Q4_1"``.
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


def annotate(**attributes: Attribute) -> None:
    """Add attributes to the current span, if one is recorded."""
    if _recording:
        current = trace.get_current_span()
        for key, value in attributes.items():
            current.set_attribute(key.replace("__", "."), value)


def traceparent() -> str | None:
    """The W3C ``traceparent`` of the current span, to send in a header; None outside of any trace."""
    current = trace.get_current_span().get_span_context()
    if not current.is_valid:
        return None
    return f"00-{current.trace_id:032x}-{current.span_id:016x}-{current.trace_flags:02x}"
