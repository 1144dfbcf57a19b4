"""The part of JetStream that the log needs: reading, and publishing where the caller always learns whether
the outcome is certain. It uses the server's JSON API (ADR-1, ADR-13, ADR-50 of NATS)::

    jetstream = JetStream(connection, "SUITE")
    ack = await jetstream.publish([Outgoing.build(subject, body, headers)], timeout=5.0)

Several messages in one ``publish`` are an atomic batch: either all are stored, one after the other, or none.
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
"""An atomic batch adds at most this many bytes to the headers of each of its messages."""

EXPECTED_SEQ: Final = "Nats-Expected-Last-Subject-Sequence"
EXPECTED_SUBJECT: Final = "Nats-Expected-Last-Subject-Sequence-Subject"

EXPECTED_STREAM: Final = "Nats-Expected-Stream"

LOG_RESTORED: Final = "suite.log.restored"
"""The key in a stream's metadata for the restore by which it was made: each begins another history."""

NO_MESSAGE: Final = 10037
NO_JETSTREAM_LEADER: Final = 10008
"""The servers of a cluster have no leader at the moment."""
NAME_IN_USE: Final = 10058
STREAM_NOT_FOUND: Final = 10059
STREAM_NOT_MATCH: Final = 10060
WRONG_LAST_SEQUENCE: Final = 10071
DUPLICATE_IN_BATCH: Final = 10201
TRANSIENT: Final = frozenset(
    {
        NO_JETSTREAM_LEADER,
        10158,  # the servers still agree on an earlier attempt with this id
        10164,  # another publish with an expectation on this subject is under way
        10176,  # some messages of the batch did not arrive
        10210,  # too many batches are open
        10211,  # so many batches are open that the server dropped some
    }
)
"""Error codes of refusals that are temporary. Nothing was stored."""
TOO_FEW_SERVERS: Final = frozenset(
    {
        10005,  # the cluster has no server for another replica
        10074,  # a server alone has no replicas
    }
)
"""Error codes of refusals that last until there are more servers."""
HEARD_NS: Final = 5_000_000_000
"""A leader hears of each follower every second. One that it has not heard of for so long counts as gone."""
NO_STORAGE: Final = frozenset(
    {
        10002,  # the account's limit is reached
        10023,  # the server's limit is reached
        10047,  # the storage's limit is reached
        10077,  # the stream's limit is reached, or storing failed
    }
)
"""Error codes of refusals that last until somebody gives JetStream more space. Nothing was stored."""


class Refused(Exception):
    """The server answered with an error. Nothing was stored."""

    def __init__(self, code: int, description: str) -> None:
        super().__init__(f"{description} ({code})")
        self.code = code


class NotSent(Exception):
    """The request did not reach JetStream. Nothing was stored."""


class NoAnswer(Exception):
    """The request was sent and no answer came. It is unknown whether the server carried it out."""


class Outgoing(msgspec.Struct, frozen=True, kw_only=True):
    """A message to publish to the stream."""

    subject: str
    body: bytes
    headers: dict[str, str]
    lines: str
    """The headers in wire format."""

    @classmethod
    def build(cls, subject: str, body: bytes, headers: dict[str, str]) -> Outgoing:
        """Build a message. Raises InvalidRequest for a header that cannot be sent."""
        return cls(subject=subject, body=body, headers=headers, lines=header_lines(headers))

    @property
    def size(self) -> int:
        """Bytes that count against the server's payload limit, without what a batch adds."""
        return len(self.body) + len(self.lines) + 14


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    """A message that is stored in the stream."""

    seq: int
    subject: str
    headers: Mapping[str, str]
    body: bytes
    stored: datetime
    """When it was stored, by the server's clock."""


class ApiError(msgspec.Struct, frozen=True, kw_only=True):
    """An error as the server reports it."""

    code: int = 500
    err_code: int = 0
    description: str = ""


class _Reply(msgspec.Struct, frozen=True, kw_only=True):
    error: ApiError | None = None


class PubAck(_Reply, frozen=True, kw_only=True):
    """Acknowledges a publish; ``seq`` is the sequence of its last message."""

    seq: int = 0
    duplicate: bool = False


class StreamState(msgspec.Struct, frozen=True, kw_only=True):
    """The contents of a stream, in numbers."""

    messages: int = 0
    first_seq: int = 0
    last_seq: int = 0
    num_subjects: int = 0
    subjects: dict[str, int] | None = None
    """How many messages each subject has, if the request asked for it."""


class StreamReplica(msgspec.Struct, frozen=True, kw_only=True):
    """A server that follows a stream's leader, as the leader sees it."""

    name: str
    current: bool = False
    """Whether it has everything. The leader goes on believing so for some seconds after it has died."""
    offline: bool = False
    active: int = 0
    """Nanoseconds since the leader heard of it."""

    @property
    def is_there(self) -> bool:
        """Whether it has everything and was heard of lately."""
        return self.current and not self.offline and self.active < HEARD_NS


class StreamCluster(msgspec.Struct, frozen=True, kw_only=True):
    """The servers that have a stream."""

    name: str = ""
    """The name of the cluster; empty at a server that is alone."""
    leader: str = ""
    """Empty while there is none."""
    replicas: tuple[StreamReplica, ...] = ()
    """The others; all of them while there is no leader."""


class StreamInfo(_Reply, frozen=True, kw_only=True):
    """A stream's configuration, as the server sent it, and its state."""

    config: dict[str, Any] = {}
    state: StreamState = StreamState()
    cluster: StreamCluster = StreamCluster()
    created: str = ""
    total: int = 0
    """How many of the requested subjects exist in total; one answer holds only a part of them."""
    ts: datetime = datetime.fromtimestamp(0, UTC)
    """When the server gave this answer, by its clock."""

    @property
    def identity(self) -> str:
        """What tells this stream from any other of its name, also from others of the same backup."""
        restored = (self.config.get("metadata") or {}).get(LOG_RESTORED)
        return self.created if restored is None else f"{self.created} restored {restored}"


class ConsumerPosition(msgspec.Struct, frozen=True, kw_only=True):
    """How far a consumer has delivered: the last sequences of the consumer and of the stream."""

    consumer_seq: int = 0
    stream_seq: int = 0


class ConsumerInfo(_Reply, frozen=True, kw_only=True):
    """A consumer, and how many messages it still has to deliver."""

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


class _Names(_Reply, frozen=True, kw_only=True):
    streams: tuple[str, ...] | None = None
    total: int = 0


class _Restoring(_Reply, frozen=True, kw_only=True):
    deliver_subject: str = ""


class _Deleted(_Reply, frozen=True, kw_only=True):
    success: bool = False


class BatchId(Protocol):
    """Generates the id of an atomic batch."""

    def __call__(self) -> str:
        """A unique id of at most 64 characters."""
        ...


R = TypeVar("R", bound=_Reply)
_decode_ack = msgspec.json.Decoder(PubAck).decode


class JetStream:
    """One stream, through one connection. Every method may raise Refused, NotSent or NoAnswer."""

    def __init__(self, connection: Connection, stream: str, *, new_id: BatchId) -> None:
        self.connection = connection
        self.stream = stream
        self._new_id = new_id

    # --- the stream ---------------------------------------------------------------------------------------

    async def info(self, *, timeout: float = 5.0) -> StreamInfo:
        """The stream as it is now, from its leader."""
        return await self._api(f"STREAM.INFO.{self.stream}", None, StreamInfo, timeout)

    async def subjects(self, subject_filter: str = ">", *, timeout: float = 5.0) -> dict[str, int]:
        """Every subject under the filter and how many messages it has."""
        found: dict[str, int] = {}
        while True:
            asked = {"subjects_filter": subject_filter, "offset": len(found)}
            info = await self._api(f"STREAM.INFO.{self.stream}", asked, StreamInfo, timeout)
            some = info.state.subjects or {}
            found |= some
            if not some or len(found) >= info.total:
                return found

    async def names(self, *, timeout: float = 5.0) -> list[str]:
        """The names of all streams of the account, buckets and object stores included."""
        found: list[str] = []
        while True:
            some = await self._api("STREAM.NAMES", {"offset": len(found)}, _Names, timeout)
            found += some.streams or ()
            if not some.streams or len(found) >= some.total:
                return found

    async def create(self, config: Mapping[str, Any], *, timeout: float = 5.0) -> StreamInfo:
        """Create the stream. Creating it again with the same configuration is no error."""
        return await self._api(f"STREAM.CREATE.{self.stream}", config, StreamInfo, timeout)

    async def update(self, config: Mapping[str, Any], *, timeout: float = 5.0) -> StreamInfo:
        """Replace the stream's configuration with this one, which must be complete."""
        return await self._api(f"STREAM.UPDATE.{self.stream}", config, StreamInfo, timeout)

    async def delete(self, *, timeout: float = 5.0) -> None:
        """Delete the stream with all its messages."""
        await self._api(f"STREAM.DELETE.{self.stream}", None, _Deleted, timeout)

    async def purge(self, subject_filter: str, *, timeout: float = 5.0) -> None:
        """Remove all messages under the filter."""
        await self._api(f"STREAM.PURGE.{self.stream}", {"filter": subject_filter}, _Deleted, timeout)

    async def begin_snapshot(
        self, *, inbox: str, chunk_bytes: int, window_bytes: int, timeout: float = 5.0
    ) -> StreamInfo:
        """Have the whole stream sent to an inbox (`suite.bus.stream_snapshot`). Returns it as it was then."""
        wanted = {
            "deliver_subject": inbox,
            "no_consumers": True,
            "chunk_size": chunk_bytes,
            "window_size": window_bytes,
        }
        return await self._api(f"STREAM.SNAPSHOT.{self.stream}", wanted, StreamInfo, timeout)

    async def begin_restore(self, config: Mapping[str, Any], *, timeout: float = 5.0) -> str:
        """Begin to make the stream from a snapshot. Returns the subject that takes the chunks."""
        wanted = {"config": config, "state": {}}
        restoring = await self._api(f"STREAM.RESTORE.{self.stream}", wanted, _Restoring, timeout)
        return restoring.deliver_subject

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
        except Unavailable as error:  # the server drops a batch that gets no commit
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
        """Send a message that the stream must refuse, and wait for the refusal.

        The refusal shows that the stream has processed all messages that came before this one.
        """
        headers = {EXPECTED_STREAM: f"not-{self.stream}"}
        try:
            await self.publish([Outgoing.build(subject, b"", headers)], timeout=timeout)
        except Refused as refused:
            if refused.code != STREAM_NOT_MATCH:
                raise

    # --- single messages, read from the leader, which sees everything stored before -----------------------

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
        """How far a consumer has delivered."""
        return await self._api(f"CONSUMER.INFO.{self.stream}.{name}", None, ConsumerInfo, timeout)

    async def delete_consumer(self, name: str, *, timeout: float = 5.0) -> None:
        """Delete a consumer."""
        await self._api(f"CONSUMER.DELETE.{self.stream}.{name}", None, _Deleted, timeout)

    async def pull(
        self, name: str, *, batch: int, max_bytes: int, expires: float, heartbeat: float, inbox: str
    ) -> None:
        """Ask a consumer to send up to `batch` messages to `inbox` within `expires` seconds."""
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
    """Raises NotSent if the connection was down before the request, else NoAnswer: the outcome is unknown."""
    raise (NoAnswer if connected else NotSent)(error.message) from error
