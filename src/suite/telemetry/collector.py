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
    """The collector that the ``OTEL_EXPORTER_OTLP_*`` variables configure, and whether it answers.

    Many collectors take traces and no metrics, so each of the two has outages of its own.
    """

    def __init__(self, *, level: int = logging.WARNING) -> None:
        """``level`` is the log level for outages."""
        self._traces = _Signal("traces", level)
        self._metrics = _Signal("metrics", level)
        for name in _TOLD_HERE:
            logging.getLogger(name).setLevel(logging.CRITICAL)

    def spans(self) -> SpanExporter:
        """Create an exporter for spans."""
        return OTLPSpanExporter(session=_Session(self._traces))

    def metrics(self) -> MetricExporter:
        """Create an exporter for metrics."""
        return OTLPMetricExporter(session=_Session(self._metrics))

    def is_away(self) -> bool:
        """Whether the collector is known to take no traces at the moment."""
        return self._traces.is_away.is_set()

    def takes_no_metrics(self) -> bool:
        """Whether the collector is known to take no metrics at the moment."""
        return self._metrics.is_away.is_set()


class _Signal:
    """Traces or metrics, and whether the collector takes them."""

    def __init__(self, name: str, level: int) -> None:
        self.is_away = threading.Event()
        self._name = name
        self._level = level
        self._lock = threading.Lock()

    def failed(self, reason: object) -> None:
        """Note that a request failed. Logs the first failure of an outage."""
        with self._lock:
            if not self.is_away.is_set():
                logger.log(
                    self._level,
                    "the collector takes no %s (%s): they are lost until it does",
                    self._name,
                    reason,
                )
            self.is_away.set()

    def answered(self) -> None:
        """Note that a request succeeded. Logs the end of an outage."""
        with self._lock:
            if self.is_away.is_set():
                logger.log(self._level, "the collector takes %s again", self._name)
            self.is_away.clear()


class _Session(requests.Session):
    """An exporter's HTTP session, which notes the outcome of each request."""

    def __init__(self, signal: _Signal) -> None:
        super().__init__()
        self._signal = signal

    def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        """Send a request. Raises what `requests` raises."""
        try:
            response = super().send(request, **options)
        except requests.RequestException as error:
            self._signal.failed(f"{request.url} {_cause(error)}")
            raise
        if response.status_code >= _ERROR_STATUS:
            self._signal.failed(f"{request.url} answers {response.status_code} {response.reason}")
        else:
            self._signal.answered()
        return response


def _cause(error: requests.RequestException) -> str:
    match error:
        case requests.Timeout():
            return "does not answer in time"
        case requests.ConnectionError():
            return "cannot be reached"
        case _:
            return str(error)
