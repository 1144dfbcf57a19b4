"""The wire format of messages (NATS client protocol, ADR-4). Messages are checked before they are sent.

This is not left to nats-py: the server closes the connection on a message that is too large, and nats-py
would then stay closed for ever.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec
from nats.aio.msg import Msg

from suite.errors import InvalidRequest, TooLarge

CONTROL_LINE_LIMIT = 4096
"""The server's limit, in bytes, for the line that holds subject, reply and sizes."""
SUBJECTS_LIMIT = CONTROL_LINE_LIMIT - 64

_VERSION = b"NATS/1.0"

_is_subject = re.compile(r"[^\s\0*>.]+(?:\.[^\s\0*>.]+)*").fullmatch


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """A message that was received."""

    subject: str
    data: bytes
    headers: dict[str, str] = {}
    reply: str = ""
    """The subject to answer to; empty if nobody waits."""


def message_of(msg: Msg) -> Message:
    """Convert a message of nats-py."""
    return Message(subject=msg.subject, data=msg.data, headers=msg.headers or {}, reply=msg.reply)


def header_lines(headers: Mapping[str, str]) -> str:
    """The headers as lines that each end with CR LF. Raises InvalidRequest if one contains a line break."""
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    if not lines.count("\r") == lines.count("\n") == len(headers):
        raise InvalidRequest("a header holds a line break")
    return lines


def parsed_headers(raw: bytes) -> dict[str, str]:
    """Parse header lines that each end with CR LF.

    nats-py's own parser checks every character of every name: half the time it takes to receive an event.
    """
    headers = {}
    for line in raw.decode("utf-8", "replace").split("\r\n"):
        name, colon, value = line.partition(":")
        if colon:
            headers[name] = value.strip()
    return headers


def received_headers(raw: bytes) -> dict[str, str]:
    """Parse the headers of a message. A status in the first line becomes ``Status`` and ``Description``.

    Accepts any bytes and ignores lines that are not headers.
    """
    first, _, lines = raw.partition(b"\r\n")
    headers = {}
    if len(first) > len(_VERSION):
        inline = first[len(_VERSION) :].decode("utf-8", "replace").strip()
        status, _, description = inline.partition(" ")
        if status.isascii() and status.isdigit():
            headers["Status"] = status
        if description:
            headers["Description"] = description
    return headers | parsed_headers(lines)


def frame(subject: str, reply: str, data: bytes, lines: str, max_payload: int) -> bytes:
    """The wire format of one message to publish; ``lines`` are its header lines, if it has any.

    Raises TooLarge above the server's limits, and InvalidRequest for an invalid subject.
    """
    if not _is_subject(subject) or (reply and not _is_subject(reply)):
        bad = reply if _is_subject(subject) else subject
        raise InvalidRequest(f"{bad[:80]!r} is no subject to send to")
    subjects = f"{subject} {reply}"
    if len(subjects) > SUBJECTS_LIMIT // 4 and len(subjects.encode()) > SUBJECTS_LIMIT:
        raise TooLarge(f"subject and reply have {len(subjects.encode())} bytes: {SUBJECTS_LIMIT} fit")
    size = len(data)
    if not lines:
        if size > max_payload:
            raise _too_large(size, max_payload)
        return f"PUB {subjects} {size}\r\n".encode() + data + b"\r\n"
    head = f"NATS/1.0\r\n{lines}\r\n".encode()
    size += len(head)
    if size > max_payload:
        raise _too_large(size, max_payload)
    return b"".join((f"HPUB {subjects} {len(head)} {size}\r\n".encode(), head, data, b"\r\n"))


def _too_large(size: int, max_payload: int) -> TooLarge:
    return TooLarge(f"the message has {size} bytes with its headers: the server takes {max_payload}")
