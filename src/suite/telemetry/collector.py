"""Exports spans and metrics to an OpenTelemetry collector (OTLP over HTTP or gRPC), which may be down.

OpenTelemetry's exporters retry, and log each attempt. Here their own log lines are silenced, and what becomes
of their requests is observed instead: an outage is logged once when it begins and once when it ends, and
nothing waits for a collector that is known to be down: a circuit breaker has it tried now and then. Spans and
metrics of an outage are lost.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import requests
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

from suite.circuit_breaker import CircuitBreaker
from suite.domain.breaker import Policy
from suite.errors import InvalidConfiguration

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics.export import MetricExporter
    from opentelemetry.sdk.trace.export import SpanExporter

logger = logging.getLogger("suite.telemetry")

POLICY: Final = Policy(failures=1, first_pause=1.0, longest_pause=300.0)
"""Spans that were not exported are lost anyway, so a single failure is enough to wait."""
GRPC: Final = "grpc"
_HTTP: Final = "http/protobuf"
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

    def __init__(self, *, node: str = "", level: int = logging.WARNING) -> None:
        """``level`` is the log level for outages."""
        self._traces = Signal("traces", node, level)
        self._metrics = Signal("metrics", node, level)
        for name in _TOLD_HERE:
            logging.getLogger(name).setLevel(logging.CRITICAL)

    def spans(self) -> SpanExporter:
        """Create an exporter for spans. Raises InvalidConfiguration for a protocol that is not known."""
        if protocol("TRACES") == GRPC:
            from suite.telemetry.collector_grpc import spans

            return spans(self._traces)
        return OTLPSpanExporter(session=_Session(self._traces))

    def metrics(self) -> MetricExporter:
        """Create an exporter for metrics. Raises InvalidConfiguration for a protocol that is not known."""
        if protocol("METRICS") == GRPC:
            from suite.telemetry.collector_grpc import metrics

            return metrics(self._metrics)
        return OTLPMetricExporter(session=_Session(self._metrics))

    @property
    def breakers(self) -> tuple[CircuitBreaker, ...]:
        """The breakers around traces and metrics."""
        return self._traces.breaker, self._metrics.breaker

    def is_away(self) -> bool:
        """Whether the collector is known to take no traces at the moment."""
        return not self._traces.breaker.is_closed


def protocol(signal: str, environ: Mapping[str, str] = os.environ) -> str:
    """How `TRACES` or `METRICS` are sent: as the standard variables say, or else over HTTP.

    Raises InvalidConfiguration.
    """
    names = (f"OTEL_EXPORTER_OTLP_{signal}_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
    for name in names:
        if (chosen := environ.get(name, "").strip()) not in ("", GRPC, _HTTP):
            raise InvalidConfiguration(f"{name} is {chosen!r}: set it to {GRPC} or {_HTTP}")
        if chosen:
            return chosen
    return _HTTP


class Signal:
    """Traces or metrics, and whether the collector takes them."""

    def __init__(self, name: str, node: str, level: int) -> None:
        self.breaker = CircuitBreaker("otlp", name, POLICY, node=node, clock=time.monotonic)
        self._name = name
        self._level = level

    def failed(self, reason: str) -> None:
        """Note that a request failed. Logs the first failure of an outage."""
        if self.breaker.is_closed:
            logger.log(
                self._level, "the collector takes no %s (%s): they are lost until it does", self._name, reason
            )
        self.breaker.failed(reason)

    def answered(self) -> None:
        """Note that a request succeeded. Logs the end of an outage."""
        if not self.breaker.is_closed:
            logger.log(self._level, "the collector takes %s again", self._name)
        self.breaker.succeeded()


class _Session(requests.Session):
    """An exporter's HTTP session, which notes the outcome of each request."""

    def __init__(self, signal: Signal) -> None:
        super().__init__()
        self._signal = signal

    def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        """Send a request. Raises what `requests` raises, and ConnectionError while it is left alone."""
        if not self._signal.breaker.try_use():
            raise requests.ConnectionError(self._signal.breaker.refusal)
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
