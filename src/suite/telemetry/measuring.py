"""Where metrics go: to a collector or to stderr by themselves, or to Prometheus, which fetches them.

OpenTelemetry has one provider of metrics for each process. A node measures for the processes of its models
too (`suite.messages.actor.Stepped`): a fleet of processes, each of which exported for itself, would cost more
than what it measures, and would be lost with the process.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from opentelemetry import metrics

from suite.messages.tracing import MetricsMode
from suite.telemetry.ending import finish
from suite.telemetry.providers import collector_of
from suite.telemetry.providers import recording as spans
from suite.telemetry.resource import resource
from suite.version import __version__

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics.export import MetricReader, MetricsData

    from suite.circuit_breaker import CircuitBreaker
    from suite.telemetry.collector import Collector
    from suite.telemetry.exposition import Exposition


class _Recording:
    """What this process measures with."""

    def __init__(self) -> None:
        self.meter: metrics.Meter = metrics.NoOpMeter("suite")
        self.breaker: CircuitBreaker | None = None
        """The one around the collector of metrics."""


_recording = _Recording()


def meter() -> metrics.Meter:
    """The meter to create instruments with. Outside of `measuring` they record nothing."""
    return _recording.meter


def circuit_breakers() -> tuple[CircuitBreaker, ...]:
    """Those around the collectors of spans and of metrics, within `tracing` and `measuring`."""
    return tuple(each for each in (spans.breaker, _recording.breaker) if each is not None)


@contextmanager
def measuring(
    mode: MetricsMode,
    *,
    node: str,
    process: str,
    place: str | None = None,
    exposed: bool = False,
) -> Iterator[Exposition | None]:
    """Measure during the block, as a `suite.telemetry.resource`.

    Yields the metrics for Prometheus if they are `exposed`, otherwise None.

    ``mode`` is where they go by themselves: ``off`` for nowhere, ``console`` (lines on stderr) or ``otlp``,
    every minute unless ``OTEL_METRIC_EXPORT_INTERVAL`` says otherwise. The standard
    ``OTEL_EXPORTER_OTLP_*`` variables configure the OTLP exporter. The end of the block waits as
    `tracing` does. Raises NotInstalled if the packages for OTLP are not installed.
    """
    if mode == "off" and not exposed:
        yield None
        return
    from opentelemetry.sdk.metrics import MeterProvider  # imported here to save start-up time with `off`

    collector = None
    if mode == "otlp":
        collector = collector_of("metrics", "metrics = otlp", node=node)
    exposition = _exposition() if exposed else None
    readers = [*_readers(mode, collector), *([] if exposition is None else [exposition])]
    provider = MeterProvider(
        resource=resource(node=node, process=process, place=place),
        metric_readers=readers,
        shutdown_on_exit=False,
    )
    _recording.meter = provider.get_meter("suite", __version__)
    _recording.breaker = None if collector is None else collector.breaker
    try:
        yield exposition
    finally:
        _recording.meter = metrics.NoOpMeter("suite")
        _recording.breaker = None
        finish(provider.shutdown, collector)


@contextmanager
def exposing(mode: MetricsMode, *, node: str, process: str, place: str | None = None) -> Iterator[Exposition]:
    """Measure during the block, as `measuring` does, and yield the metrics for Prometheus."""
    with measuring(mode, node=node, process=process, place=place, exposed=True) as exposition:
        assert exposition is not None
        yield exposition


def _exposition() -> Exposition:
    from suite.telemetry.exposition import Exposition

    return Exposition()


def _readers(mode: MetricsMode, collector: Collector | None) -> Iterator[MetricReader]:
    """Who sends the metrics by themselves."""
    from opentelemetry.sdk.metrics.export import ConsoleMetricExporter, PeriodicExportingMetricReader

    if collector is not None:
        yield PeriodicExportingMetricReader(collector.metrics())
    if mode == "console":
        exporter = ConsoleMetricExporter(out=sys.stderr, formatter=_line)
        yield PeriodicExportingMetricReader(exporter)


def _line(data: MetricsData) -> str:
    return data.to_json(indent=None).replace("\n", " ") + "\n"
