"""OpenTelemetry traces and metrics."""

from suite.messages.tracing import TraceMode, TraceSettings
from suite.telemetry.messaging import folding, processing, sending
from suite.telemetry.providers import circuit_breakers, meter, recording, tracing
from suite.telemetry.spans import (
    Attribute,
    Attributes,
    OpenSpan,
    TraceIds,
    annotate,
    begin,
    current,
    fail,
    ids_of,
    is_sampled,
    rename,
    span,
    trace_ids,
    traceparent,
    within,
)

__all__ = [
    "Attribute",
    "Attributes",
    "OpenSpan",
    "TraceIds",
    "TraceMode",
    "TraceSettings",
    "annotate",
    "begin",
    "circuit_breakers",
    "current",
    "fail",
    "folding",
    "ids_of",
    "is_sampled",
    "meter",
    "processing",
    "recording",
    "rename",
    "sending",
    "span",
    "trace_ids",
    "traceparent",
    "tracing",
    "within",
]
