"""Spans for messages over NATS, as OpenTelemetry's conventions for messaging have them (version 1.45).

A span is called by its operation and the template of its destination, in which ``*`` stands for an id. What
sends a message has its context go along; what processes it continues that trace, or is linked to it where it
processes many.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext

from opentelemetry.trace import SpanKind

from suite.telemetry import providers
from suite.telemetry.instruments import NATS
from suite.telemetry.spans import Attribute, continuing, is_sampled, span


def sending(
    operation: str, template: str, destination: str | None = None, *, attributes: Mapping[str, Attribute] = {}
) -> AbstractContextManager[None]:
    """A span around sending a message to a destination, and around waiting until it was taken.

    `operation` is what it is called here: ``send``, ``append``. Without `destination` it is the template.
    """
    if not providers.recording.is_on:
        return nullcontext()
    to = {} if destination is None else {"messaging.destination.name": destination}
    return span(
        f"{operation} {template}",
        {
            "messaging.system": NATS,
            "messaging.operation.name": operation,
            "messaging.operation.type": "send",
            "messaging.destination.template": template,
            **to,
            **attributes,
        },
        kind=SpanKind.PRODUCER,
    )


def processing(
    template: str,
    *,
    headers: Mapping[str, str],
    attributes: Mapping[str, Attribute] = {},
) -> AbstractContextManager[None]:
    """A span around processing a message with these headers."""
    if not providers.recording.is_on:
        return continuing(headers)
    return span(
        f"process {template}",
        {
            "messaging.system": NATS,
            "messaging.operation.name": "process",
            "messaging.operation.type": "process",
            "messaging.destination.template": template,
            **attributes,
        },
        kind=SpanKind.CONSUMER,
        headers=headers,
    )


def folding(consumer: str, stream: str, traceparents: Iterable[str | None]) -> AbstractContextManager[None]:
    """A span around folding many events of a stream, linked to those that are of traces; none if no event is.

    It is a trace of its own, because the events are of many, and called by who folds them.
    """
    if not providers.recording.is_on:
        return nullcontext()
    sampled = [each for each in traceparents if is_sampled(each)]
    if not sampled:
        return nullcontext()
    return span(
        f"fold {consumer}",
        {
            "messaging.system": NATS,
            "messaging.operation.name": "fold",
            "messaging.operation.type": "process",
            "messaging.destination.name": stream,
            "messaging.consumer.group.name": consumer,
            "messaging.batch.message_count": len(sampled),
        },
        kind=SpanKind.CONSUMER,
        links=sampled,
    )
