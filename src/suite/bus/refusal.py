"""Sends the error that ends a request which was refused or has failed."""

from __future__ import annotations

import logging

import msgspec

from suite.bus.connection import Connection
from suite.errors import InvalidRequest, Overloaded, Quarantined, SuiteError, TooLarge, Unavailable
from suite.messages.actions.base import ErrorReply, brief

log = logging.getLogger("suite.bus")

HEADER_LIMIT = 512
"""A header repeats at most this many characters of the message."""

_encode = msgspec.json.Encoder().encode


def error_reply(error: SuiteError, warnings: tuple[str, ...] = (), *, node: str = "") -> ErrorReply:
    """The reply that tells a client about an error. `node`: who tells it, if the error does not say."""
    event_id = error.details.get("event_id")
    return ErrorReply(
        code=error.code,
        message=error.message,
        event_id=None if event_id is None else str(event_id),
        retry_after_ms=error.retry_after_ms if isinstance(error, Overloaded | Quarantined) else None,
        node=error.node or node,
        warnings=brief(warnings),
    )


async def terminate(
    connection: Connection,
    reply: str,
    error: SuiteError,
    *,
    stream: bool,
    node: str = "",
    warnings: tuple[str, ...] = (),
) -> None:
    """Send an error as the last message of a request. If it cannot be sent, that is logged.

    The message has the error headers of a micro service (NATS ADR-32). A stream of answers also gets an
    empty message to end it.
    """
    if not reply:
        log.debug("nobody waits for %s: %s", error.code, error.message)
        return
    headers = {
        "Nats-Service-Error": " ".join(error.message.split())[:HEADER_LIMIT],
        "Nats-Service-Error-Code": str(error.status),
    }
    try:
        await connection.publish(reply, _encode(error_reply(error, warnings, node=node)), headers=headers)
        if stream:
            await connection.publish(reply)
    except (Unavailable, InvalidRequest, TooLarge) as lost:
        log.debug("%s for %s is lost: %s", error.code, reply, lost)
