"""Spans: one for each action, decision, append, load and generation.

A trace crosses processes in W3C ``traceparent`` headers. When tracing is off nothing is recorded, but a
caller's ``traceparent`` is still passed on to events and actors, so that the traces of others stay whole.
Identifiers without a bound go into attributes, never into span names; prompts and answers go into neither.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext

from opentelemetry import context, propagate, trace
from opentelemetry.context import Context
from opentelemetry.trace import SpanKind, Status, StatusCode

from suite.errors import SuiteError
from suite.telemetry import providers

Attribute = str | int | float | bool


def span(
    name: str,
    *,
    kind: SpanKind = SpanKind.INTERNAL,
    headers: Mapping[str, str] | None = None,
    **attributes: Attribute,
) -> AbstractContextManager[None]:
    """A span around a block. With `headers` it continues the trace of their ``traceparent``.

    Write attribute names with ``__`` for a dot: ``gen_ai__request__model="SmolLM2-135M-Instruct.Q4_1"``.
    """
    if not providers.recording.is_on and not (headers and "traceparent" in headers):
        return nullcontext()
    return _span(name, kind, headers, attributes)


@contextmanager
def _span(
    name: str, kind: SpanKind, headers: Mapping[str, str] | None, attributes: dict[str, Attribute]
) -> Iterator[None]:
    token = context.attach(propagate.extract(headers)) if headers else None
    try:
        if not providers.recording.is_on:
            yield
            return
        dotted = {key.replace("__", "."): value for key, value in attributes.items()}
        with providers.recording.tracer.start_as_current_span(
            name, kind=kind, attributes=dotted, record_exception=False, set_status_on_exception=False
        ) as current:
            try:
                yield
            except SuiteError as error:
                current.set_attribute("error.type", error.code)
                current.set_status(Status(StatusCode.ERROR, error.message))
                raise
            except Exception as error:
                current.set_attribute("error.type", type(error).__name__)
                current.set_status(Status(StatusCode.ERROR))
                raise
    finally:
        if token is not None:
            context.detach(token)


def current() -> Context:
    """The current trace context, to be continued elsewhere with `within`."""
    return context.get_current()


@contextmanager
def within(trace_context: Context | None) -> Iterator[None]:
    """Continue a trace (or none) during the block, regardless of the trace of the surrounding task."""
    token = context.attach(Context() if trace_context is None else trace_context)
    try:
        yield
    finally:
        context.detach(token)


def annotate(**attributes: Attribute) -> None:
    """Add attributes to the current span, if one is recorded."""
    if providers.recording.is_on:
        current = trace.get_current_span()
        for key, value in attributes.items():
            current.set_attribute(key.replace("__", "."), value)


def traceparent() -> str | None:
    """The W3C ``traceparent`` of the current span, to send in a header; None outside of any trace."""
    current = trace.get_current_span().get_span_context()
    if not current.is_valid:
        return None
    return f"00-{current.trace_id:032x}-{current.span_id:016x}-{current.trace_flags:02x}"
