"""Decodes the service's messages: a final reply, an error to raise, or a signal."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from suite.errors import SuiteError, error_from_reply
from suite.messages.actions.base import ErrorReply, Reply
from suite.messages.signals import AnySignal, Signal

R = TypeVar("R", bound=Reply)


class _Head(msgspec.Struct, frozen=True):
    status: str | None = None
    kind: str | None = None


_head = msgspec.json.Decoder(_Head)
_signal = msgspec.json.Decoder(AnySignal)
_known = {kind.__struct_config__.tag for kind in Signal.__subclasses__()}


def read_reply(data: bytes, kind: type[R]) -> R:
    """Decode the reply to a request that has one reply. Raises the error of an error reply."""
    answer = read_answer(data, kind)
    if isinstance(answer, kind):
        return answer
    raise SuiteError(
        "the service sent a signal instead of its reply: do client and service have different versions?"
    )


def read_answer(data: bytes, kind: type[R]) -> R | Signal | None:
    """Decode the final reply or a signal; None for an unknown signal of a later version.

    Raises the error of an error reply.
    """
    try:
        head = _head.decode(data)
        if head.status == "error":
            raise error_of(msgspec.json.decode(data, type=ErrorReply))
        if head.status is not None:
            return msgspec.json.decode(data, type=kind)
        return _signal.decode(data) if head.kind in _known else None
    except msgspec.MsgspecError as error:
        raise SuiteError(
            f"the service's answer cannot be read as {kind.__name__} ({error}): do client and service have "
            "different versions?"
        ) from None


def read_unread(data: bytes) -> msgspec.Raw:
    """The reply to a request that has one, to be sent on as it is. Raises the error of an error reply."""
    try:
        if _head.decode(data).status == "error":
            raise error_of(msgspec.json.decode(data, type=ErrorReply))
    except msgspec.MsgspecError as error:
        raise SuiteError(f"the service's answer cannot be read ({error})") from None
    return msgspec.Raw(data)


def error_of(reply: ErrorReply) -> SuiteError:
    """The error that a service has told, to raise or to tell on."""
    error = error_from_reply(reply.code, reply.message, retry_after_ms=reply.retry_after_ms)
    error.node = reply.node
    if reply.event_id is not None:
        error.details["event_id"] = reply.event_id
    return error
