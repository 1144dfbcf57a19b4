"""OpenTelemetry traces and metrics."""

from suite.telemetry.providers import circuit_breakers, meter, tracing
from suite.telemetry.spans import annotate, current, span, traceparent, within

__all__ = ["annotate", "circuit_breakers", "current", "meter", "span", "traceparent", "tracing", "within"]
