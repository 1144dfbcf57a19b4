"""OpenTelemetry traces and metrics."""

from suite.messages.tracing import MetricsMode, TraceMode, TraceSettings
from suite.telemetry.measuring import circuit_breakers, exposing, measuring
from suite.telemetry.messaging import folding, processing, sending
from suite.telemetry.providers import MOST_CONTENT_BYTES, recording, tracing
from suite.telemetry.spans import (
    Attribute,
    Attributes,
    OpenSpan,
    TraceIds,
    annotate,
    begin,
    continuing,
    current,
    fail,
    ids_of,
    is_sampled,
    rename,
    span,
    trace_headers,
    trace_ids,
    traceparent,
    within,
)

__all__ = [
    "MOST_CONTENT_BYTES",
    "Attribute",
    "Attributes",
    "MetricsMode",
    "OpenSpan",
    "TraceIds",
    "TraceMode",
    "TraceSettings",
    "annotate",
    "begin",
    "circuit_breakers",
    "continuing",
    "current",
    "exposing",
    "fail",
    "folding",
    "ids_of",
    "is_sampled",
    "measuring",
    "processing",
    "recording",
    "rename",
    "sending",
    "span",
    "trace_headers",
    "trace_ids",
    "traceparent",
    "tracing",
    "within",
]
