"""The envelope of an event: CloudEvents 1.0 in the binary mode of its NATS binding.

The body is the fact as JSON. Id, type, source and time are ``ce-`` headers, beside ``Nats-Msg-Id``, the W3C
``traceparent`` and the correlation and causation ids. There are no other headers, because headers take as
much space as the body of a small event.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from urllib.parse import quote, unquote

import msgspec

from suite.messages.events import Event
from suite.messages.subjects import Subjects
from suite.messages.upcasters import decode_event

TTL = "Nats-TTL"
"""The header that says how long the server keeps a message, in seconds as ``90s`` (NATS ADR-43)."""
DAY_SECONDS = 86_400
HOUR_SECONDS = 3_600

_encoder = msgspec.json.Encoder()
_SAFE = "!#$&'()*+,-./:;<=>?@[\\]^_`{|}~"
_plain = re.compile(rf"[A-Za-z0-9{re.escape(_SAFE)}]*").fullmatch


def header_value(text: str) -> str:
    """Encode text for a header: percent-encoded where CloudEvents' bindings require it.

    That is everything outside printable ASCII, and space, quote and percent (CloudEvents HTTP binding,
    3.1.3.2). So an id chosen by a caller cannot end a header.
    """
    return text if _plain(text) else quote(text, safe=_SAFE, errors="surrogatepass")


def _text(value: str) -> str:
    return unquote(value, errors="surrogatepass") if "%" in value else value


def _optional_text(value: str | None) -> str | None:
    return None if value is None else _text(value)


class Envelope(msgspec.Struct, frozen=True, kw_only=True):
    """One event before it is in the log: the fact, and who appended it, when and why."""

    id: str
    """UUIDv7, or an id chosen by the caller; the same id is stored once."""
    source: str
    """Who appended it, such as ``/node/box1``."""
    time: datetime
    data: Event
    correlation_id: str | None = None
    """The id of the request or generation that this belongs to."""
    causation_id: str | None = None
    """The id of the event that caused this one."""
    traceparent: str | None = None
    ttl_seconds: int | None = None
    """After this time the server removes it; None: never. Only samples expire."""

    def subject(self, subjects: Subjects) -> str:
        """The subject that the event is appended to."""
        return subjects.event(self.data.aggregate, self.data.ids, self.data.fact)

    def headers(self) -> dict[str, str]:
        """The NATS headers of the event."""
        id = header_value(self.id)
        headers = {
            "Nats-Msg-Id": id,
            "ce-specversion": "1.0",
            "ce-id": id,
            "ce-type": self.data.type,
            "ce-source": header_value(self.source),
            "ce-time": self.time.isoformat().replace("+00:00", "Z"),
        }
        if self.correlation_id is not None:
            headers["ce-correlationid"] = header_value(self.correlation_id)
        if self.causation_id is not None:
            headers["ce-causationid"] = header_value(self.causation_id)
        if self.traceparent is not None:
            headers["traceparent"] = self.traceparent
        if self.ttl_seconds is not None:
            headers[TTL] = f"{self.ttl_seconds}s"
        return headers

    def body(self) -> bytes:
        """The fact as JSON."""
        return _encoder.encode(self.data)


class Recorded(msgspec.Struct, frozen=True, kw_only=True):
    """One event as stored in the log."""

    seq: int
    """Its position in the total order of all events."""
    subject: str
    id: str
    type: str
    source: str
    time: datetime
    data: Event
    correlation_id: str | None = None
    causation_id: str | None = None
    traceparent: str | None = None
    expires: datetime | None = None
    """When the read models remove its rows; None: never.

    This is a little before the log removes its message: at a full hour, or at a full second for events that
    live less than a day. So rows are removed in whole groups, and a rebuilt read model never lacks a row that
    another one still has.
    """

    @classmethod
    def read(cls, seq: int, subject: str, headers: Mapping[str, str], body: bytes) -> Recorded:
        """Read the event in a stored message. Raises KeyError or ValueError if it is not one of the suite."""
        type_name = headers["ce-type"]
        time = datetime.fromisoformat(headers["ce-time"])
        ttl = headers.get(TTL)
        return cls(
            seq=seq,
            subject=subject,
            id=_text(headers["ce-id"]),
            type=type_name,
            source=_text(headers["ce-source"]),
            time=time,
            data=decode_event(type_name, body),
            correlation_id=_optional_text(headers.get("ce-correlationid")),
            causation_id=_optional_text(headers.get("ce-causationid")),
            traceparent=headers.get("traceparent"),
            expires=None if ttl is None else _expiry(time, int(ttl.removesuffix("s"))),
        )


def _expiry(time: datetime, ttl_seconds: int) -> datetime:
    grain = HOUR_SECONDS if ttl_seconds >= DAY_SECONDS else 1
    end = int(time.timestamp()) + ttl_seconds
    return datetime.fromtimestamp(end - end % grain, UTC)
