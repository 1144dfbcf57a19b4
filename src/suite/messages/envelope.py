"""What an event travels in: CloudEvents 1.0 in the binary mode of its NATS binding.

The body is the fact's JSON; id, type, source and time are ``ce-`` headers beside ``Nats-Msg-Id``,
the W3C ``traceparent`` and the correlation and causation ids. Headers weigh as much as the body of a
small event, so there are no others.
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
"""How long the server keeps a message: seconds as ``90s`` (NATS ADR-43)."""
DAY_SECONDS = 86_400
HOUR_SECONDS = 3_600

_encoder = msgspec.json.Encoder()
_SAFE = "!#$&'()*+,-./:;<=>?@[\\]^_`{|}~"
_plain = re.compile(rf"[A-Za-z0-9{re.escape(_SAFE)}]*").fullmatch


def header_value(text: str) -> str:
    """Text as it can stand in a header: percent-encoded where CloudEvents' bindings ask for it.

    That is everything outside printable ASCII, and space, quote and percent (CloudEvents HTTP binding,
    3.1.3.2); so no id that a caller chose can end a header.
    """
    return text if _plain(text) else quote(text, safe=_SAFE, errors="surrogatepass")


def _text(value: str) -> str:
    return unquote(value, errors="surrogatepass") if "%" in value else value


def _optional_text(value: str | None) -> str | None:
    return None if value is None else _text(value)


class Envelope(msgspec.Struct, frozen=True, kw_only=True):
    """One event before it is in the log: the fact, and who said it when and why."""

    id: str
    """UUIDv7, or what the caller calls the thing: the same id is stored once."""
    source: str
    """Who appended it: ``/node/box1``."""
    time: datetime
    data: Event
    correlation_id: str | None = None
    """The request or generation that this belongs to."""
    causation_id: str | None = None
    """The id of the event that led to this one."""
    traceparent: str | None = None
    ttl_seconds: int | None = None
    """After which the server removes it; None: never. For samples only."""

    def subject(self, subjects: Subjects) -> str:
        """Where the event is appended."""
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
    """One event as the log has it."""

    seq: int
    """Its place in the one order of all events."""
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
    """When its rows go from the read models; None: never.

    By the time at which the server stored it, as its message does, and a little before that, on the full
    hour, or second for what lives less than a day: so rows go in whole groups, and a read model that is
    folded anew never lacks one that another has.
    """

    @classmethod
    def read(
        cls,
        seq: int,
        subject: str,
        headers: Mapping[str, str],
        body: bytes,
        *,
        stored: datetime | None = None,
    ) -> Recorded:
        """The event in a message that the server stored at this time; left out, at the event's own.

        Raises KeyError or ValueError for one that is not the suite's.
        """
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
            expires=None if ttl is None else _expiry(stored or time, int(ttl.removesuffix("s"))),
        )


def _expiry(time: datetime, ttl_seconds: int) -> datetime:
    grain = HOUR_SECONDS if ttl_seconds >= DAY_SECONDS else 1
    end = int(time.timestamp()) + ttl_seconds
    return datetime.fromtimestamp(end - end % grain, UTC)
