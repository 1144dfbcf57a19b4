"""Exports spans and metrics to an OpenTelemetry collector (OTLP over HTTP), which may be down.

OpenTelemetry's exporters retry, and log each attempt. Here their own log lines are silenced, and their HTTP
session is observed instead: an outage is logged once when it begins and once when it ends, and nothing waits
for a collector that is known to be down. Spans and metrics of an outage are lost.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any

import requests
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics.export import MetricExporter
    from opentelemetry.sdk.trace.export import SpanExporter

logger = logging.getLogger("suite.telemetry")

_ERROR_STATUS = 400
_TOLD_HERE = (
    "opentelemetry.exporter.otlp",
    "opentelemetry.sdk._shared_internal",
    "opentelemetry.sdk.metrics._internal.export",
)


class Collector:
    """The collector that the ``OTEL_EXPORTER_OTLP_*`` variables configure, and whether it answers."""

    def __init__(self, *, level: int = logging.WARNING) -> None:
        """``level`` is the log level for outages."""
        self.is_away = threading.Event()
        """Set while the collector cannot be reached, or answers with an error."""
        self._level = level
        self._lock = threading.Lock()
        for name in _TOLD_HERE:
            logging.getLogger(name).setLevel(logging.CRITICAL)

    def spans(self) -> SpanExporter:
        """Create an exporter for spans."""
        return OTLPSpanExporter(session=_Session(self))

    def metrics(self) -> MetricExporter:
        """Create an exporter for metrics."""
        return OTLPMetricExporter(session=_Session(self))

    def failed(self, reason: object) -> None:
        """Note that a request failed. Logs the first failure of an outage."""
        with self._lock:
            if not self.is_away.is_set():
                logger.log(
                    self._level, "the collector takes no traces (%s): they are lost until it does", reason
                )
            self.is_away.set()

    def answered(self) -> None:
        """Note that a request succeeded. Logs the end of an outage."""
        with self._lock:
            if self.is_away.is_set():
                logger.log(self._level, "the collector takes traces again")
            self.is_away.clear()


class _Session(requests.Session):
    """An exporter's HTTP session, which notifies the collector of the outcome of each request."""

    def __init__(self, collector: Collector) -> None:
        super().__init__()
        self._collector = collector

    def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        """Send a request. Raises what `requests` raises."""
        try:
            response = super().send(request, **options)
        except requests.RequestException as error:
            self._collector.failed(f"{request.url} {_cause(error)}")
            raise
        if response.status_code >= _ERROR_STATUS:
            self._collector.failed(f"{request.url} answers {response.status_code} {response.reason}")
        else:
            self._collector.answered()
        return response


def _cause(error: requests.RequestException) -> str:
    match error:
        case requests.Timeout():
            return "does not answer in time"
        case requests.ConnectionError():
            return "cannot be reached"
        case _:
            return str(error)
