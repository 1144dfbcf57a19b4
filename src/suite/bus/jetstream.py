"""JetStream, as far as the log needs it: publishing with an answer that is certain or known not to be, and
reading, in the server's own JSON API (ADR-1, ADR-13, ADR-50 of NATS)::

    jetstream = JetStream(connection, "SUITE")
    ack = await jetstream.publish([Outgoing.build(subject, body, headers)], timeout=5.0)

Several messages in one ``publish`` are an atomic batch: all are stored, one after the other, or none is.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, NoReturn, Protocol, TypeVar

import msgspec

from suite.bus.connection import Connection, Message, header_lines
from suite.bus.wire import parsed_headers
from suite.errors import NoService, RequestTimeout, Unavailable

MAX_BATCH_MESSAGES: Final = 1000
BATCH_HEADER_BYTES: Final = 160
"""What an atomic batch adds to the headers of each of its messages, at most."""

EXPECTED_SEQ: Final = "Nats-Expected-Last-Subject-Sequence"
EXPECTED_SUBJECT: Final = "Nats-Expected-Last-Subject-Sequence-Subject"

EXPECTED_STREAM: Final = "Nats-Expected-Stream"

NO_MESSAGE: Final = 10037
STREAM_NOT_FOUND: Final = 10059
STREAM_NOT_MATCH: Final = 10060
WRONG_LAST_SEQUENCE: Final = 10071
DUPLICATE_IN_BATCH: Final = 10201
TRANSIENT: Final = frozenset(
    {
        10008,  # JetStream's leader is not there at the moment
        10164,  # another publish with an expectation on this subject is under way
        10176,  # some messages of the batch did not arrive
        10210,  # too many batches are open
        10211,  # so many that some were given up
    }
)
"""Refusals that store nothing and go away."""
NO_STORAGE: Final = frozenset(
    {
        10002,  # the account's limit
        10023,  # the server's limit
        10047,  # the storage's
        10077,  # the stream's, or storing failed
    }
)
"""Refusals that store nothing, until somebody gives JetStream more space."""


class Refused(Exception):
    """The server answered with an error: nothing was stored."""

    def __init__(self, code: int, description: str) -> None:
        super().__init__(f"{description} ({code})")
        self.code = code


class NotSent(Exception):
    """Nothing reached JetStream: nothing was stored."""


class NoAnswer(Exception):
    """The request went out and no answer came: whether it was carried out is unknown."""


class Outgoing(msgspec.Struct, frozen=True, kw_only=True):
    """A message for the stream."""

    subject: str
    body: bytes
    headers: dict[str, str]
    lines: str
    """The headers as they stand on the wire."""

    @classmethod
    def build(cls, subject: str, body: bytes, headers: dict[str, str]) -> Outgoing:
        """Raises InvalidRequest for a header that cannot be sent."""
        return cls(subject=subject, body=body, headers=headers, lines=header_lines(headers))

    @property
    def size(self) -> int:
        """Bytes that count against the server's limit, but for what a batch adds."""
        return len(self.body) + len(self.lines) + 14


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    """A message as the stream has it."""

    seq: int
    subject: str
    headers: Mapping[str, str]
    body: bytes
    stored: datetime
    """When, by the server's clock."""


class ApiError(msgspec.Struct, frozen=True, kw_only=True):
    """An error in the server's words."""

    code: int = 500
    err_code: int = 0
    description: str = ""


class _Reply(msgspec.Struct, frozen=True, kw_only=True):
    error: ApiError | None = None


class PubAck(_Reply, frozen=True, kw_only=True):
    """Stored: ``seq`` is that of the last message."""

    seq: int = 0
    duplicate: bool = False


class StreamState(msgspec.Struct, frozen=True, kw_only=True):
    """What a stream holds."""

    messages: int = 0
    first_seq: int = 0
    last_seq: int = 0
    num_subjects: int = 0
    subjects: dict[str, int] | None = None
    """How many messages each has, if that was asked for."""


class StreamInfo(_Reply, frozen=True, kw_only=True):
    """A stream's configuration, as the server sent it, and what it holds."""

    config: dict[str, Any] = {}
    state: StreamState = StreamState()
    created: str = ""
    total: int = 0
    """Of subjects that were asked for, how many there are; an answer has some."""
    ts: datetime = datetime.fromtimestamp(0, UTC)
    """When this was so, by the server's clock."""


class ConsumerPosition(msgspec.Struct, frozen=True, kw_only=True):
    """Up to where a consumer has delivered."""

    consumer_seq: int = 0
    stream_seq: int = 0


class ConsumerInfo(_Reply, frozen=True, kw_only=True):
    """A consumer and how much it has still to deliver."""

    name: str = ""
    delivered: ConsumerPosition = ConsumerPosition()
    num_pending: int = 0


class _StoredMessage(msgspec.Struct, frozen=True, kw_only=True):
    subject: str = ""
    seq: int = 0
    hdrs: str = ""
    data: str = ""
    time: datetime = datetime.min.replace(tzinfo=UTC)


class _MessageReply(_Reply, frozen=True, kw_only=True):
    message: _StoredMessage = _StoredMessage()


class _Deleted(_Reply, frozen=True, kw_only=True):
    success: bool = False


class BatchId(Protocol):
    """Makes the id of an atomic batch."""

    def __call__(self) -> str:
        """At most 64 characters, never the same twice."""
        ...


R = TypeVar("R", bound=_Reply)
_decode_ack = msgspec.json.Decoder(PubAck).decode


class JetStream:
    """One stream, seen through one connection. Raises Refused, NotSent or NoAnswer, from every method."""

    def __init__(self, connection: Connection, stream: str, *, new_id: BatchId) -> None:
        self.connection = connection
        self.stream = stream
        self._new_id = new_id

    # --- the stream ---------------------------------------------------------------------------------------

    async def info(self, *, timeout: float = 5.0) -> StreamInfo:
        """The stream as it is now, from its leader."""
        return await self._api(f"STREAM.INFO.{self.stream}", None, StreamInfo, timeout)

    async def subjects(self, *, timeout: float = 5.0) -> dict[str, int]:
        """Every subject and how many messages it has."""
        found: dict[str, int] = {}
        while True:
            asked = {"subjects_filter": ">", "offset": len(found)}
            info = await self._api(f"STREAM.INFO.{self.stream}", asked, StreamInfo, timeout)
            some = info.state.subjects or {}
            found |= some
            if not some or len(found) >= info.total:
                return found

    async def create(self, config: Mapping[str, Any], *, timeout: float = 5.0) -> StreamInfo:
        """Create the stream; the same again is no error."""
        return await self._api(f"STREAM.CREATE.{self.stream}", config, StreamInfo, timeout)

    async def update(self, config: Mapping[str, Any], *, timeout: float = 5.0) -> StreamInfo:
        """Change the stream's configuration to this one, which has to be whole."""
        return await self._api(f"STREAM.UPDATE.{self.stream}", config, StreamInfo, timeout)

    async def delete(self, *, timeout: float = 5.0) -> None:
        """Remove the stream with all that it holds."""
        await self._api(f"STREAM.DELETE.{self.stream}", None, _Deleted, timeout)

    # --- publishing ---------------------------------------------------------------------------------------

    async def publish(self, messages: Sequence[Outgoing], *, timeout: float) -> PubAck:
        """Store one message, or several as an atomic batch, within `timeout` seconds."""
        *rest, last = messages
        headers = last.headers
        try:
            if rest:
                batch = self._new_id()
                await self.connection.publish_all(
                    (
                        message.subject,
                        message.body,
                        f"{message.lines}Nats-Batch-Id: {batch}\r\nNats-Batch-Sequence: {number}\r\n",
                    )
                    for number, message in enumerate(rest, 1)
                )
                headers = {
                    **headers,
                    "Nats-Batch-Id": batch,
                    "Nats-Batch-Sequence": str(len(messages)),
                    "Nats-Batch-Commit": "1",
                }
        except Unavailable as error:  # without its commit the server drops what it has of the batch
            raise NotSent(error.message) from error
        answer = await self._request(last.subject, last.body, headers, timeout)
        try:
            ack = _decode_ack(answer.data)
        except msgspec.DecodeError as error:  # somebody who is not JetStream answered
            raise NoAnswer(f"no acknowledgement but {answer.data[:80]!r}") from error
        if ack.error is not None:
            raise Refused(ack.error.err_code, ack.error.description)
        return ack

    async def probe(self, subject: str, *, timeout: float) -> None:
        """Have the stream refuse a message, once it is through with those that came before it."""
        headers = {EXPECTED_STREAM: f"not-{self.stream}"}
        try:
            await self.publish([Outgoing.build(subject, b"", headers)], timeout=timeout)
        except Refused as refused:
            if refused.code != STREAM_NOT_MATCH:
                raise

    # --- single messages, from the leader: what was stored before is seen ---------------------------------

    async def next(self, subject_filter: str, *, after: int, timeout: float = 5.0) -> Stored | None:
        """The first message under the filter whose sequence is above `after`."""
        return await self._message({"seq": after + 1, "next_by_subj": subject_filter}, timeout)

    async def last(self, subject_filter: str, *, timeout: float = 5.0) -> Stored | None:
        """The newest message under the filter."""
        return await self._message({"last_by_subj": subject_filter}, timeout)

    async def _message(self, which: Mapping[str, Any], timeout: float) -> Stored | None:
        try:
            found = (await self._api(f"STREAM.MSG.GET.{self.stream}", which, _MessageReply, timeout)).message
        except Refused as refused:
            if refused.code == NO_MESSAGE:
                return None
            raise
        return Stored(
            seq=found.seq,
            subject=found.subject,
            headers=parsed_headers(base64.b64decode(found.hdrs)),
            body=base64.b64decode(found.data),
            stored=found.time,
        )

    # --- consumers ----------------------------------------------------------------------------------------

    async def create_consumer(self, config: Mapping[str, Any], *, timeout: float = 5.0) -> ConsumerInfo:
        """Create a pull consumer."""
        subject = f"CONSUMER.CREATE.{self.stream}.{config['name']}"
        body = {"stream_name": self.stream, "config": config, "action": "create"}
        return await self._api(subject, body, ConsumerInfo, timeout)

    async def consumer_info(self, name: str, *, timeout: float = 5.0) -> ConsumerInfo:
        """Where a consumer is."""
        return await self._api(f"CONSUMER.INFO.{self.stream}.{name}", None, ConsumerInfo, timeout)

    async def delete_consumer(self, name: str, *, timeout: float = 5.0) -> None:
        """Remove a consumer."""
        await self._api(f"CONSUMER.DELETE.{self.stream}.{name}", None, _Deleted, timeout)

    async def pull(
        self, name: str, *, batch: int, max_bytes: int, expires: float, heartbeat: float, inbox: str
    ) -> None:
        """Ask a consumer for up to `batch` messages within `expires` seconds; they come to `inbox`."""
        request = {
            "batch": batch,
            "max_bytes": max_bytes,
            "expires": int(expires * 1e9),
            "idle_heartbeat": int(heartbeat * 1e9),
        }
        try:
            await self.connection.publish(
                f"$JS.API.CONSUMER.MSG.NEXT.{self.stream}.{name}",
                msgspec.json.encode(request),
                reply=inbox,
            )
        except Unavailable as error:
            raise NotSent(error.message) from error

    # --- the wire -----------------------------------------------------------------------------------------

    async def _api(self, subject: str, body: Mapping[str, Any] | None, kind: type[R], timeout: float) -> R:
        data = msgspec.json.encode(body) if body is not None else b""
        answer = await self._request(f"$JS.API.{subject}", data, None, timeout)
        reply = msgspec.json.decode(answer.data, type=kind)
        if reply.error is not None:
            raise Refused(reply.error.err_code, reply.error.description)
        return reply

    async def _request(
        self, subject: str, data: bytes, headers: Mapping[str, str] | None, timeout: float
    ) -> Message:
        connected = self.connection.is_connected
        try:
            return await self.connection.request(subject, data, headers=headers, timeout=timeout)
        except NoService as error:
            raise NotSent(f"JetStream does not answer on {subject}") from error
        except (Unavailable, RequestTimeout) as error:
            _classify(error, connected)


def _classify(error: Unavailable | RequestTimeout, connected: bool) -> NoReturn:
    """A connection that was down before the request sent nothing; all else is uncertain."""
    raise (NoAnswer if connected else NotSent)(error.message) from error
