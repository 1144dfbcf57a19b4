"""OpenTelemetry traces and metrics."""

from suite.telemetry.providers import meter, tracing
from suite.telemetry.spans import annotate, current, span, traceparent, within

__all__ = ["annotate", "current", "meter", "span", "traceparent", "tracing", "within"]
