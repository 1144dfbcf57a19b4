"""Where spans and metrics go: to a collector, to stderr, or nowhere.

OpenTelemetry has one provider for each process.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from opentelemetry import metrics, trace

from suite.extras import require

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics.export import MetricExporter, MetricsData
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExporter

    from suite.circuit_breaker import CircuitBreaker
    from suite.telemetry.collector import Collector

SHUTDOWN_SECONDS = 0.7
"""How long the last export of spans and metrics may take; what is not exported by then is lost."""
_POLL_SECONDS = 0.01


class Recording:
    """What this process records with."""

    def __init__(self) -> None:
        self.is_on = False
        self.tracer: trace.Tracer = trace.get_tracer("suite")
        self.meter: metrics.Meter = metrics.NoOpMeter("suite")
        self.breakers: tuple[CircuitBreaker, ...] = ()
        """Those around the collector."""


recording = Recording()


@contextmanager
def tracing(mode: str, *, node: str, process: str, tell_outages: bool = True) -> Iterator[None]:
    """Record spans and metrics during the block.

    ``mode`` is ``off``, ``console`` (lines on stderr) or ``otlp``. The standard ``OTEL_EXPORTER_OTLP_*``
    variables configure the OTLP exporter. ``tell_outages`` says whether this process is the one that warns
    when the collector cannot be reached. The end of the block waits up to `SHUTDOWN_SECONDS` for the last
    export, but not for a collector that is known to be down. Raises NotInstalled if the packages for
    OTLP are not installed.
    """
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
    collector = None if mode == "console" else _collector(node, tell_outages)
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
    recording.tracer, recording.meter, recording.is_on = (
        provider.get_tracer("suite"),
        meters.get_meter("suite"),
        True,
    )
    recording.breakers = () if collector is None else collector.breakers
    try:
        yield
    finally:
        recording.is_on = False
        recording.breakers = ()
        recording.meter = metrics.NoOpMeter("suite")
        is_away = collector.is_away if collector is not None else lambda: False
        _finish([meters.shutdown, provider.shutdown], unless=is_away)


def meter() -> metrics.Meter:
    """The meter to create instruments with. Outside of `tracing` they record nothing."""
    return recording.meter


def circuit_breakers() -> tuple[CircuitBreaker, ...]:
    """The circuit breakers around the collector; none outside of `tracing`, or without a collector."""
    return recording.breakers


def _finish(shutdowns: Sequence[Callable[[], None]], *, unless: Callable[[], bool]) -> None:
    """Run the shutdowns in parallel. Wait up to `SHUTDOWN_SECONDS`, or until ``unless`` returns True."""
    threads = [threading.Thread(target=each, name="telemetry-end", daemon=True) for each in shutdowns]
    for thread in threads:
        thread.start()
    end = time.monotonic() + SHUTDOWN_SECONDS
    while time.monotonic() < end and not unless() and any(thread.is_alive() for thread in threads):
        time.sleep(_POLL_SECONDS)


def _collector(node: str, tell_outages: bool) -> Collector:
    require("otlp", "trace = otlp")
    from suite.telemetry.collector import Collector

    return Collector(node=node, level=logging.WARNING if tell_outages else logging.DEBUG)


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
