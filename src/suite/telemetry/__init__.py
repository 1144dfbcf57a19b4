"""OpenTelemetry traces and metrics."""

from suite.telemetry.measuring import exposing, measuring
from suite.telemetry.providers import tracing
from suite.telemetry.spans import annotate, current, span, traceparent, within

__all__ = ["annotate", "current", "exposing", "measuring", "span", "traceparent", "tracing", "within"]
