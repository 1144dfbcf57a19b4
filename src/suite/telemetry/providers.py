"""Begins and ends the recording of spans and metrics in a process.

OpenTelemetry has one provider for each process.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from opentelemetry import metrics, trace

from suite.extras import require
from suite.identity import new_id
from suite.messages.tracing import TraceSettings
from suite.telemetry.resource import resource
from suite.version import __version__

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import MetricExporter, MetricsData
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import SpanProcessor, TracerProvider

    from suite.circuit_breaker import CircuitBreaker
    from suite.telemetry.collector import Collector

SHUTDOWN_SECONDS = 0.7
"""How long the last export of spans and metrics may take; what is not exported by then is lost."""
SCHEMA_URL: Final = "https://opentelemetry.io/schemas/1.45.0"
"""Which version of the conventions the names of attributes are from."""
_POLL_SECONDS = 0.01
_STORE_MILLISECONDS: Final = 500
"""How soon a span that has ended is in the store."""


class Recording:
    """What this process records with."""

    def __init__(self) -> None:
        self.is_on = False
        self.content = False
        """Whether spans have texts."""
        self.tracer: trace.Tracer = trace.NoOpTracer()
        self.meter: metrics.Meter = metrics.NoOpMeter("suite")
        self.breakers: tuple[CircuitBreaker, ...] = ()
        """Those around the collector."""

    def adopt_application(self) -> None:
        """Record with the tracer provider of the application that this library is used in, if it has one."""
        provider = trace.get_tracer_provider()
        if not self.is_on and not isinstance(provider, trace.ProxyTracerProvider):
            self.tracer, self.is_on = _tracer(provider), True


recording = Recording()


@contextmanager
def tracing(settings: TraceSettings, *, node: str, process: str, tell_outages: bool = True) -> Iterator[None]:
    """Record spans and metrics during the block.

    The standard ``OTEL_EXPORTER_OTLP_*`` variables configure the OTLP exporter. ``tell_outages`` says whether
    this process is the one that warns when the collector cannot be reached. The end of the block waits up to
    `SHUTDOWN_SECONDS` for the last export, but not for a collector that is known to be down. Raises
    NotInstalled if the packages for OTLP are not installed.
    """
    if settings.mode == "off":
        yield
        return
    source = resource(node=node, process=process, instance_id=new_id())
    collector = _collector(node, tell_outages) if settings.mode == "otlp" else None
    provider = _spans(settings, source, collector)
    meters = _metrics(settings, source, collector)
    recording.tracer, recording.content, recording.is_on = _tracer(provider), settings.content, True
    recording.meter = metrics.NoOpMeter("suite") if meters is None else meters.get_meter("suite", __version__)
    recording.breakers = () if collector is None else collector.breakers
    try:
        yield
    finally:
        recording.is_on = recording.content = False
        recording.breakers = ()
        recording.meter = metrics.NoOpMeter("suite")
        is_away = collector.is_away if collector is not None else lambda: False
        shutdowns = [provider.shutdown, *([] if meters is None else [meters.shutdown])]
        _finish(shutdowns, unless=is_away)


def meter() -> metrics.Meter:
    """The meter to create instruments with. Outside of `tracing` they record nothing."""
    return recording.meter


def circuit_breakers() -> tuple[CircuitBreaker, ...]:
    """The circuit breakers around the collector; none outside of `tracing`, or without a collector."""
    return recording.breakers


def _tracer(provider: trace.TracerProvider) -> trace.Tracer:
    return provider.get_tracer("suite", __version__, schema_url=SCHEMA_URL)


def _spans(settings: TraceSettings, source: Resource, collector: Collector | None) -> TracerProvider:
    # Imported here to save start-up time with `off`.
    from opentelemetry.sdk.trace import TracerProvider

    from suite.telemetry.sampling import FailuresAndSlow, FollowingSampler

    provider = TracerProvider(
        sampler=FollowingSampler(settings.ratio), resource=source, shutdown_on_exit=False
    )
    exporting = list(_processors(settings, collector))
    provider.add_span_processor(FailuresAndSlow(exporting, slow_seconds=settings.slow_seconds))
    return provider


def _processors(settings: TraceSettings, collector: Collector | None) -> Iterator[SpanProcessor]:
    """Who gets the spans that are exported."""
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor

    from suite.telemetry.exporters import StoreExporter, console
    from suite.telemetry.span_store import SpanStore

    if collector is not None:
        yield BatchSpanProcessor(collector.spans())
    if settings.mode == "console":
        yield SimpleSpanProcessor(console())
    if settings.store is not None and settings.store_bytes:
        store = SpanStore(Path(settings.store), settings.store_bytes)
        yield BatchSpanProcessor(StoreExporter(store), schedule_delay_millis=_STORE_MILLISECONDS)


def _metrics(settings: TraceSettings, source: Resource, collector: Collector | None) -> MeterProvider | None:
    if settings.mode == "local":
        return None
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

    metrics_to = _console_metrics() if collector is None else collector.metrics()
    return MeterProvider(
        resource=source, metric_readers=[PeriodicExportingMetricReader(metrics_to)], shutdown_on_exit=False
    )


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
