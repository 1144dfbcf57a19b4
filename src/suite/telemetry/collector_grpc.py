"""Exporters to a collector over gRPC, of which it is observed what becomes of each export.

An export that is tried again by OpenTelemetry's exporter, for a few seconds, is one use of the collector.

A batch that the collector refuses counts as an outage, unlike over HTTP: which status it has answered with,
OpenTelemetry's exporter tells nobody. Its log leaves out repeated lines, and to ask with an empty batch would
say nothing, as a collector takes one also while it is overloaded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics.export import MetricExportResult, MetricsData
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult

from suite.telemetry.collector import Collector

R = TypeVar("R", SpanExportResult, MetricExportResult)


class GrpcSpanExporter(OTLPSpanExporter):
    """Exports spans, tells a collector what becomes of them, and heeds its breaker."""

    def __init__(self, collector: Collector) -> None:
        super().__init__()
        self._collector = collector

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send spans, unless the collector is left alone."""
        send = partial(super().export, spans)
        return _observed(self._collector, send, SpanExportResult.FAILURE, self._endpoint)


class GrpcMetricExporter(OTLPMetricExporter):
    """Exports metrics, tells a collector what becomes of them, and heeds its breaker."""

    def __init__(self, collector: Collector) -> None:
        super().__init__()
        self._collector = collector

    def export(
        self, metrics_data: MetricsData, timeout_millis: float = 10_000, **options: Any
    ) -> MetricExportResult:
        """Send metrics, unless the collector is left alone."""
        send = partial(super().export, metrics_data, timeout_millis, **options)
        return _observed(self._collector, send, MetricExportResult.FAILURE, self._endpoint)


def _observed(collector: Collector, send: Callable[[], R], failure: R, endpoint: str) -> R:
    """What becomes of an export: a failure without any attempt while the collector is left alone."""
    if not collector.breaker.try_use():
        return failure
    try:
        result = send()
    except BaseException:
        collector.breaker.withdrawn()
        raise
    if result is failure:
        collector.failed(f"{endpoint} does not take them over gRPC")
    else:
        collector.answered()
    return result
