"""Exports spans and metrics to an OpenTelemetry collector (OTLP over HTTP or gRPC), which may be down.

OpenTelemetry's exporters retry, and log each attempt. Here their own log lines are silenced, and what becomes
of their attempts is observed instead: an outage is logged once when it begins and once when it ends, and
nothing waits for a collector that is known to be down: a circuit breaker has it tried now and then. Spans and
metrics of an outage are lost.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import requests
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

from suite.circuit_breaker import CircuitBreaker
from suite.domain.breaker import Policy
from suite.errors import InvalidConfiguration
from suite.identity import Clock

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics.export import MetricExporter
    from opentelemetry.sdk.trace.export import SpanExporter

logger = logging.getLogger("suite.telemetry")

SignalName: TypeAlias = Literal["traces", "metrics"]

POLICY: Final = Policy(failures=1, first_pause_seconds=1.0, longest_pause_seconds=300.0)
"""Spans that were not exported are lost anyway, so a single failure is enough to wait."""
GRPC: Final = "grpc"
_HTTP: Final = "http/protobuf"
_ERROR_STATUS = 400
_REFUSED: Final = frozenset({400, 413})
"""Of a batch that the collector will not have, or that is too large: it works, and takes the next one."""
_TOLD_HERE = (
    "opentelemetry.exporter.otlp",
    "opentelemetry.sdk._shared_internal",
    "opentelemetry.sdk.metrics._internal.export",
)


class Collector:
    """The collector that the ``OTEL_EXPORTER_OTLP_*`` variables have for a signal, and whether it answers.

    Many collectors take traces and no metrics, so each of the two has outages of its own.
    """

    def __init__(
        self,
        signal: SignalName,
        *,
        node: str = "",
        level: int = logging.WARNING,
        clock: Clock = time.monotonic,
    ) -> None:
        """``level`` is the log level for outages."""
        self.breaker = CircuitBreaker("otlp", signal, POLICY, node=node, clock=clock)
        self._signal: SignalName = signal
        self._level = level
        self._has_refused = False
        for name in _TOLD_HERE:
            logging.getLogger(name).setLevel(logging.CRITICAL)

    def spans(self) -> SpanExporter:
        """Create an exporter for spans. Raises InvalidConfiguration for a protocol that is not known."""
        if protocol(self._signal) == GRPC:
            from suite.telemetry.collector_grpc import GrpcSpanExporter

            return GrpcSpanExporter(self)
        return OTLPSpanExporter(session=_Session(self))

    def metrics(self) -> MetricExporter:
        """Create an exporter for metrics. Raises InvalidConfiguration for a protocol that is not known."""
        if protocol(self._signal) == GRPC:
            from suite.telemetry.collector_grpc import GrpcMetricExporter

            return GrpcMetricExporter(self)
        return OTLPMetricExporter(session=_Session(self))

    @property
    def is_away(self) -> bool:
        """Whether it is known not to take them at the moment."""
        return not self.breaker.is_closed

    def failed(self, reason: str) -> None:
        """Note that an attempt failed. Logs the first failure of an outage."""
        if self.breaker.failed(reason):
            logger.log(
                self._level,
                "the collector takes no %s (%s): they are lost until it does",
                self._signal,
                reason,
            )

    def answered(self) -> None:
        """Note that an attempt succeeded. Logs the end of an outage."""
        if self.breaker.succeeded():
            logger.log(self._level, "the collector takes %s again", self._signal)

    def refused(self, reason: str) -> None:
        """Note that it answers, and refuses what was sent. Logs the first refusal."""
        if not self._has_refused:
            logger.log(
                self._level,
                "the collector refuses some %s (%s): they are lost, and others are still sent",
                self._signal,
                reason,
            )
        self._has_refused = True
        self.answered()


def protocol(signal: SignalName, environ: Mapping[str, str] = os.environ) -> str:
    """How a signal is sent: as the standard variables say, or else over HTTP. Raises InvalidConfiguration."""
    names = (f"OTEL_EXPORTER_OTLP_{signal.upper()}_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
    for name in names:
        if (chosen := environ.get(name, "").strip()) not in ("", GRPC, _HTTP):
            raise InvalidConfiguration(f"{name} is {chosen!r}: set it to {GRPC} or {_HTTP}")
        if chosen:
            return chosen
    return _HTTP


class _Session(requests.Session):
    """An exporter's HTTP session, which notes the outcome of each request."""

    def __init__(self, collector: Collector) -> None:
        super().__init__()
        self._collector = collector

    def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        """Send a request. Raises what `requests` raises, and RequestException while it is left alone.

        That is no error of the connection, after which the exporter would wait and try again.
        """
        if not self._collector.breaker.try_use():
            raise requests.RequestException(self._collector.breaker.refusal)
        try:
            response = self._send_twice(request, **options)
        except requests.RequestException as error:
            self._collector.failed(f"{request.url} {_cause(error)}")
            raise
        except BaseException:
            self._collector.breaker.withdrawn()
            raise
        self._note(response)
        return response

    def _note(self, response: requests.Response) -> None:
        answer = f"{response.url} answers {response.status_code} {response.reason}"
        if response.status_code in _REFUSED:
            self._collector.refused(answer)
        elif response.status_code >= _ERROR_STATUS:
            self._collector.failed(answer)
        else:
            self._collector.answered()

    def _send_twice(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        """Send a request, and again if the connection fails, which may be one that was kept for too long."""
        try:
            return super().send(request, **options)
        except requests.Timeout:
            raise
        except requests.ConnectionError:
            return super().send(request, **options)


def _cause(error: requests.RequestException) -> str:
    match error:
        case requests.Timeout():
            return "does not answer in time"
        case requests.ConnectionError():
            return "cannot be reached"
        case _:
            return str(error)
