"""Exporters to a collector over gRPC, of which it is observed what becomes of each export."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics.export import MetricExporter, MetricExportResult, MetricsData
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from suite.telemetry.collector import Signal

_DEFAULT_ENDPOINT = "localhost:4317"


def spans(signal: Signal) -> SpanExporter:
    """Create an exporter for spans, which tells `signal` what becomes of them."""
    return _Spans(signal)


def metrics(signal: Signal) -> MetricExporter:
    """Create an exporter for metrics, which tells `signal` what becomes of them."""
    return _Metrics(signal)


class _Spans(OTLPSpanExporter):
    def __init__(self, signal: Signal) -> None:
        super().__init__()
        self._signal_of_suite = signal

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = super().export(spans)
        _note(self._signal_of_suite, result is SpanExportResult.SUCCESS)
        return result


class _Metrics(OTLPMetricExporter):
    def __init__(self, signal: Signal) -> None:
        super().__init__()
        self._signal_of_suite = signal

    def export(
        self, metrics_data: MetricsData, timeout_millis: float = 10_000, **options: Any
    ) -> MetricExportResult:
        result = super().export(metrics_data, timeout_millis, **options)
        _note(self._signal_of_suite, result is MetricExportResult.SUCCESS)
        return result


def _note(signal: Signal, is_taken: bool) -> None:
    if is_taken:
        signal.answered()
    else:
        endpoint = os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT", _DEFAULT_ENDPOINT)
        signal.failed(f"{endpoint} does not take them over gRPC")
