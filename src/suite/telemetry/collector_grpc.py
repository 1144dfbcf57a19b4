"""Exporters to a collector over gRPC, of which it is observed what becomes of each export.

An export that is tried again by OpenTelemetry's exporter, for a few seconds, is one use of the collector.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics.export import MetricExporter, MetricExportResult, MetricsData
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from suite.telemetry.collector import Collector

R = TypeVar("R", SpanExportResult, MetricExportResult)


def spans(collector: Collector) -> SpanExporter:
    """Create an exporter for spans, which tells `collector` what becomes of them, and heeds its breaker."""
    return _Spans(collector)


def metrics(collector: Collector) -> MetricExporter:
    """Create an exporter for metrics, which tells `collector` what becomes of them, and heeds its breaker."""
    return _Metrics(collector)


class _Spans(OTLPSpanExporter):
    def __init__(self, collector: Collector) -> None:
        super().__init__()
        self._collector = collector

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        send = partial(super().export, spans)
        return _observed(self._collector, send, SpanExportResult.FAILURE, self._endpoint)


class _Metrics(OTLPMetricExporter):
    def __init__(self, collector: Collector) -> None:
        super().__init__()
        self._collector = collector

    def export(
        self, metrics_data: MetricsData, timeout_millis: float = 10_000, **options: Any
    ) -> MetricExportResult:
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
