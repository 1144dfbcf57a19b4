"""The envelope of an event: CloudEvents 1.0 in the binary mode of its NATS binding.

The body is the fact as JSON. Id, type, source and time are ``ce-`` headers, beside ``Nats-Msg-Id``, the W3C
``traceparent`` and the correlation and causation ids. There are no other headers, because headers take as
much space as the body of a small event.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache, lru_cache
from typing import Final
from urllib.parse import quote, unquote

import msgspec

from suite.errors import SuiteError
from suite.messages.events import Event, UnknownEvent
from suite.messages.subjects import Subjects, event_tail
from suite.messages.upcasters import decode_event

TTL = "Nats-TTL"
"""The header that says how long the server keeps a message, in seconds as ``90s`` (NATS ADR-43)."""
DAY_SECONDS = 86_400
HOUR_SECONDS = 3_600
_REASON_CHARACTERS: Final = 200

_encoder = msgspec.json.Encoder()
_SAFE = "!#$&'()*+,-./:;<=>?@[\\]^_`{|}~"
_plain = re.compile(rf"[A-Za-z0-9{re.escape(_SAFE)}]*").fullmatch
_type_parts = re.compile(r"suite\.([a-z_]+)\.([a-z_]+)\.v[1-9][0-9]*").fullmatch
_LARGEST: Final = 2**63 - 1


class NoEvent(ValueError):
    """A message that the suite cannot have written: the message says why."""


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

    It counts from the time at which the server stored the event, as the life of its message does, and ends a
    little before that: at a full hour, or at a full second for events that live less than a day. So rows are
    removed in whole groups, and a rebuilt read model never lacks a row that another one still has.
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

        What it returns stands under the subject of its own type and ids, and read models can store it.
        Raises NoEvent for a message that is not the suite's, whatever is in it.
        """
        try:
            recorded = cls._read(seq, subject, headers, body, stored)
            _check_subject(recorded.data, recorded.type, subject)
            _check_storable(recorded.data)
        except NoEvent:
            raise
        except KeyError as error:
            raise NoEvent(f"the header {error} is missing") from None
        except (ValueError, OverflowError, OSError, RecursionError, SuiteError) as error:
            raise NoEvent(str(error)[:_REASON_CHARACTERS]) from error
        return recorded

    @classmethod
    def _read(
        cls, seq: int, subject: str, headers: Mapping[str, str], body: bytes, stored: datetime | None
    ) -> Recorded:
        type_name = headers["ce-type"]
        time = datetime.fromisoformat(headers["ce-time"])
        _require_zone(time, "ce-time")
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
            expires=expiry_of(headers, stored or time),
        )


def expiry_of(headers: Mapping[str, str], stored: datetime) -> datetime | None:
    """When the rows of an event that the server stored then expire; None: never.

    It goes by the server's clock, as the message does, whatever a node's clock says (ADR 23).
    Raises ValueError.
    """
    ttl = headers.get(TTL)
    return None if ttl is None else _expiry(stored, int(ttl.removesuffix("s")))


def _check_subject(event: Event, type_name: str, subject: str) -> None:
    """Raises NoEvent unless the subject is that of the event."""
    if isinstance(event, UnknownEvent):
        belongs = _may_belong(type_name, subject)
    else:
        belongs = _belongs(type(event), event.ids, subject)
    if not belongs:
        raise NoEvent(f"{type_name[:80]!r} does not belong there")


@lru_cache(maxsize=4096)
def _belongs(kind: type[Event], ids: tuple[str, ...], subject: str) -> bool:
    return subject.partition(".event.")[2] == event_tail(kind.aggregate, ids, kind.fact)


def _may_belong(type_name: str, subject: str) -> bool:
    """Of an event of a later version only the type is known, and with it how the subject begins and ends."""
    parts = _type_parts(type_name)
    tail = subject.partition(".event.")[2]
    return parts is not None and tail.startswith(f"{parts[1]}.") and tail.endswith(f".{parts[2]}")


def _check_storable(event: Event) -> None:
    """Raises NoEvent for a number or a time that no table can have, or OverflowError."""
    numbers, times = _fields_of(type(event))
    for name in numbers:
        if not -_LARGEST <= getattr(event, name) <= _LARGEST:
            raise NoEvent(f"{name} is out of range")
    for name in times:
        _require_zone(getattr(event, name), name)


def _require_zone(time: datetime, name: str) -> None:
    """Raises NoEvent for a time that is another elsewhere, OverflowError for one that UTC does not have."""
    if time.tzinfo is None:
        raise NoEvent(f"{name} has no time zone")
    if time.tzinfo is not UTC:
        time.astimezone(UTC)


@cache
def _fields_of(kind: type[Event]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of an event's whole numbers, and of its times."""
    fields = msgspec.structs.fields(kind)
    return tuple(each.name for each in fields if each.type is int), tuple(
        each.name for each in fields if each.type is datetime
    )


def _expiry(time: datetime, ttl_seconds: int) -> datetime:
    grain = HOUR_SECONDS if ttl_seconds >= DAY_SECONDS else 1
    end = int(time.timestamp()) + ttl_seconds
    return datetime.fromtimestamp(end - end % grain, UTC)
