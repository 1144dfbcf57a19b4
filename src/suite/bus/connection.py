"""The one door to nats-py: a connection that comes back by itself and never waits for what cannot come.

    async with Connection.open(access, name="box1") as connection:
        await connection.subscribe("greet", answer)
        reply = await connection.request("suite.action.health_check", b"{}", timeout=2)

nats-py closes a client for ever on most protocol errors and keeps what could not be sent for later. Here
every loss is handled in one way: what waits fails at once, a new client is built, subscriptions are made
again, and nothing is sent twice or late.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeAlias
from urllib.parse import urlsplit

import anyio
import anyio.lowlevel
import msgspec
import nats.errors
from anyio.abc import TaskGroup
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription as NatsSubscription

from suite.errors import (
    AccessDenied,
    InvalidRequest,
    NodeLost,
    NoService,
    Overloaded,
    RequestTimeout,
    SuiteError,
    TooLarge,
    Unavailable,
)
from suite.identity import new_id
from suite.messages.actor import NatsAccess
from suite.tasks import background

log = logging.getLogger("suite.bus")

BUFFER_LIMIT = 65_536
"""Messages that may wait in one subscription or stream."""
CONTROL_LINE_LIMIT = 4096
"""The server's limit for subject, reply and sizes in one line, in bytes."""
FIRST_RETRY_SECONDS = 0.02
LAST_RETRY_SECONDS = 1.0
CLOSE_SECONDS = 2.0
PENDING_LIMIT = 2 * 1024 * 1024
"""Bytes that may wait to be written before a sender has to wait."""
ROOM_SECONDS = 5.0

_bad_subject = re.compile(r"[\s\0*>]|\.\.|^\.|\.$|^$").search
_violation = re.compile(r'permissions violation for (publish|subscription) to "([^"]*)"').search


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """What came on a subject."""

    subject: str
    data: bytes
    headers: dict[str, str] = {}
    reply: str = ""
    """The subject to answer to; empty if nobody waits."""


Receive: TypeAlias = Callable[[Message], Awaitable[None]]


def _message(msg: Msg) -> Message:
    return Message(subject=msg.subject, data=msg.data, headers=msg.headers or {}, reply=msg.reply)


class _Client(Client):
    """One life of a connection. It is never reconnected: nats-py would send what it had kept, late."""

    failure: Exception | None = None

    async def lost(self) -> None:
        """Wait until nothing is read any more: the one sign that every way of losing a connection shares."""
        assert self._reading_task is not None
        await asyncio.wait({self._reading_task})
        if not self._reading_task.cancelled() and (error := self._reading_task.exception()):
            log.debug("the reader ended with %r", error)

    async def room(self) -> None:
        """Wait until there is room for more. Raises TimeoutError if the peer takes nothing.

        nats-py's own wait swallows cancellation: a sender in a loop could then not be stopped.
        """
        assert self._flush_queue is not None
        written: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        await self._flush_queue.put(written)
        with anyio.fail_after(ROOM_SECONDS):
            await written

    async def discard(self) -> None:
        """Close without hanging on a peer that reads no more."""
        with anyio.move_on_after(CLOSE_SECONDS, shield=True):
            await self.close()
        writer = getattr(self._transport, "_io_writer", None)
        if writer is not None:
            writer.transport.abort()

    async def _send_ping(self, future: asyncio.Future[object] | None = None) -> None:
        # nats-py writes the ping past what is pending: a flush would then prove nothing.
        if self._pending and self._transport is not None:
            self._transport.writelines(self._pending[:])
            self._pending.clear()
            self._pending_data_size = 0
        await super()._send_ping(future)

    async def _close(self, status: int, do_cbs: bool = True) -> None:
        # nats-py would write what is pending to the broken transport, fail there, and stop half-way; and
        # who waits for a flush would wait for ever.
        self._pending.clear()
        self._pending_data_size = 0
        while self._flush_queue is not None and not self._flush_queue.empty():
            _settle(self._flush_queue.get_nowait())
        for pong in self._pongs:
            _settle(pong)
        await super()._close(status, do_cbs)


def _settle(future: asyncio.Future[object]) -> None:
    if not future.done():
        future.set_result(None)


class Subscription:
    """A subject that is listened to until it is given up, across every rebuild of the connection."""

    def __init__(self, connection: Connection, subject: str, queue: str, receive: Receive) -> None:
        self.subject = subject
        self.queue = queue
        self._connection = connection
        self._receive = receive
        self._bound: tuple[_Client, NatsSubscription] | None = None
        self._waiting: asyncio.Queue[Message | None] | None = None

    async def unsubscribe(self) -> None:
        """End it now; what waits is dropped."""
        self._connection._subscriptions.discard(self)
        if self._waiting is not None:
            while not self._waiting.empty():
                self._waiting.get_nowait()
                self._waiting.task_done()
            self._waiting.put_nowait(None)
        await self._release(drain=False)

    async def drain(self) -> None:
        """End it, after what has arrived is handled. Not to be called from its own callback."""
        self._connection._subscriptions.discard(self)
        await self._release(drain=True)
        if self._waiting is not None:
            await self._waiting.join()
            self._waiting.put_nowait(None)

    async def _release(self, *, drain: bool) -> None:
        bound, self._bound = self._bound, None
        if bound is None:
            return
        try:
            if drain:
                await bound[1].drain()  # type: ignore[no-untyped-call]
            else:
                await bound[1].unsubscribe()
        except nats.errors.Error as error:
            log.debug("no need to unsubscribe from %s: %s", self.subject, error)

    async def _bind(self, client: _Client) -> None:
        if self._bound is not None and self._bound[0] is client:
            return
        receive = self._receive

        async def deliver(msg: Msg) -> None:
            await receive(_message(msg))

        self._bound = (client, await client.subscribe(self.subject, queue=self.queue, cb=deliver))

    def _buffer(self, callback: Receive) -> None:
        """Put a bounded queue before the callback, so that a lost connection does not cancel it half-way."""
        waiting: asyncio.Queue[Message | None] = asyncio.Queue()
        self._waiting = waiting

        async def receive(message: Message) -> None:
            if waiting.qsize() >= BUFFER_LIMIT:
                log.error("a message on %s is dropped: %d wait already", message.subject, BUFFER_LIMIT)
                return
            waiting.put_nowait(message)

        async def work() -> None:
            while (message := await waiting.get()) is not None:
                try:
                    await callback(message)
                except asyncio.CancelledError:
                    task = asyncio.current_task()
                    if task is not None and task.cancelling():
                        raise
                    log.warning("the callback for %s gave up", message.subject)
                except Exception:
                    log.exception("the callback for %s failed", message.subject)
                finally:
                    waiting.task_done()

        self._receive = receive
        self._connection._tasks.start_soon(work)


class _Stream:
    """The answers to one request, as they come."""

    def __init__(self, subject: str, idle_timeout: float) -> None:
        self._subject = subject
        self._idle_timeout = idle_timeout
        self._waiting: asyncio.Queue[Message | SuiteError | None] = asyncio.Queue()
        self._over: SuiteError | StopAsyncIteration | None = None

    async def deliver(self, msg: Msg) -> None:
        if self._waiting.qsize() >= BUFFER_LIMIT:
            self.fail(Overloaded(f"{BUFFER_LIMIT} answers wait unread: read faster"))
        elif msg.data or (msg.headers and "Status" not in msg.headers):
            self._waiting.put_nowait(_message(msg))
        elif msg.headers and msg.headers["Status"] == "503":
            self._waiting.put_nowait(_nobody(self._subject))
        else:
            self._waiting.put_nowait(None)

    def fail(self, error: SuiteError) -> None:
        self._waiting.put_nowait(error)

    def __aiter__(self) -> AsyncIterator[Message]:
        return self

    async def __anext__(self) -> Message:
        if self._over is not None:
            raise self._over
        item: Message | SuiteError | None
        if self._waiting.empty():
            item = NodeLost(f"nothing came on {self._subject} for {self._idle_timeout:g} s: send it again")
            with anyio.move_on_after(self._idle_timeout):
                item = await self._waiting.get()
        else:
            item = self._waiting.get_nowait()
        if isinstance(item, Message):
            return item
        self._over = item or StopAsyncIteration()
        raise self._over


def _nobody(subject: str) -> NoService:
    return NoService(f"nobody serves {subject}: start the service with `suite serve`")


_Waiter: TypeAlias = "tuple[asyncio.Future[Msg | SuiteError], str]"


class Connection:
    """A connection to NATS that is built again whenever it is lost."""

    connections: int = 0
    """How often it was made: who sees it change has lost what was on its way."""

    def __init__(self, access: NatsAccess, *, name: str, connect_timeout: float) -> None:
        self._access = access
        self._name = name
        self._connect_timeout = connect_timeout
        self._tasks: TaskGroup
        self._client: _Client | None = None
        self._connected = anyio.Event()
        self._subscriptions: set[Subscription] = set()
        self._streams: set[_Stream] = set()
        self._waiting: dict[str, _Waiter] = {}
        self._denied: set[str] = set()
        self._replies = self.new_inbox() + "."
        self._requests = 0
        self.max_payload = 0
        """The server's limit for payload and headers together, in bytes."""
        self.server_version = ""

    @classmethod
    @asynccontextmanager
    async def open(
        cls, access: NatsAccess, *, name: str, connect_timeout: float = 5.0
    ) -> AsyncIterator[Connection]:
        """Connect, and stay connected until the block is left.

        ``connect_timeout`` is in seconds, for each attempt. Raises Unavailable if nothing listens there
        and AccessDenied if the credentials are refused; after that a loss is logged and mended.
        """
        connection = cls(access, name=name, connect_timeout=connect_timeout)
        async with background() as tasks:
            connection._tasks = tasks
            await connection._connect()
            tasks.start_soon(connection._stay_connected)
            try:
                yield connection
            finally:
                await connection._close()

    @property
    def is_connected(self) -> bool:
        """Whether something can be sent now."""
        return self._client is not None and self._client.is_connected

    @property
    def url(self) -> str:
        """Where the server is, without credentials."""
        return ",".join(_bare(url) for url in self._access.url.split(","))

    def new_inbox(self) -> str:
        """A subject of one's own that this connection may listen to."""
        return f"{self._access.inbox_prefix}.{new_id().replace('-', '')}"

    # --- sending ------------------------------------------------------------------------------------------

    async def publish(
        self, subject: str, data: bytes = b"", *, headers: Mapping[str, str] | None = None, reply: str = ""
    ) -> None:
        """Send a message; it may be lost with the connection.

        Raises Unavailable, TooLarge, or InvalidRequest for a subject that cannot be sent to.
        """
        client = await self._ready()
        self._check(subject, reply, data, headers)
        await self._send(client, subject, data, reply, headers)

    async def publish_all(self, messages: Iterable[tuple[str, bytes, str]]) -> None:
        """Send messages of subject, payload and header lines in one write, for a fraction of what each costs.

        The header lines each end with CR LF. Raises as publish does, and then none is sent.
        """
        client = await self._ready()
        frames = bytearray()
        for subject, data, lines in messages:
            if _bad_subject(subject) or len(subject) > CONTROL_LINE_LIMIT - 64:
                raise InvalidRequest(f"{subject[:80]!r} is no subject to send to")
            head = f"NATS/1.0\r\n{lines}\r\n".encode()
            size = len(head) + len(data)
            if size > self.max_payload:
                raise TooLarge(
                    f"the message has {size} bytes with its headers: the server takes {self.max_payload}"
                )
            frames += b"HPUB %b %d %d\r\n%b%b\r\n" % (subject.encode(), len(head), size, head, data)
        try:
            await client._send_command(bytes(frames))
            await client._flush_pending()
        except nats.errors.Error as error:
            raise self._translated(error) from None
        if not client.is_connected:
            raise self._gone()

    async def request(
        self,
        subject: str,
        data: bytes = b"",
        *,
        headers: Mapping[str, str] | None = None,
        timeout: float,
    ) -> Message:
        """Send a message and wait ``timeout`` seconds for its answer.

        Raises NoService if nobody listens, RequestTimeout, AccessDenied, TooLarge, and Unavailable at once
        when the connection goes: whether the request was carried out is then not known.
        """
        client = await self._ready()
        self._requests += 1
        token = str(self._requests)
        inbox = self._replies + token
        self._check(subject, inbox, data, headers)
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Msg | SuiteError] = loop.create_future()
        self._waiting[token] = (answer, subject)
        timer = loop.call_later(timeout, _expire, answer, subject, timeout)
        try:
            await self._send(client, subject, data, inbox, headers)
            msg = await answer
        finally:
            timer.cancel()
            self._waiting.pop(token, None)
        if isinstance(msg, SuiteError):
            raise msg
        if msg.headers and not msg.data and msg.headers.get("Status") == "503":
            raise _nobody(subject)
        return _message(msg)

    @asynccontextmanager
    async def request_many(
        self,
        subject: str,
        data: bytes = b"",
        *,
        headers: Mapping[str, str] | None = None,
        idle_timeout: float,
    ) -> AsyncIterator[AsyncIterator[Message]]:
        """Send a message and iterate over its answers until an empty one (NATS ADR-47).

        The iterator raises NoService, NodeLost when nothing comes for ``idle_timeout`` seconds,
        Unavailable when the connection goes, Overloaded when too many wait unread. Leaving the block
        early takes the inbox away, which the sender can notice.
        """
        client = await self._ready()
        inbox = self.new_inbox()
        self._check(subject, inbox, data, headers)
        stream = _Stream(subject, idle_timeout)
        subscription = await client.subscribe(inbox, cb=stream.deliver)
        self._streams.add(stream)
        try:
            await self._send(client, subject, data, inbox, headers)
            yield stream
        finally:
            self._streams.discard(stream)
            with anyio.CancelScope(shield=True):
                try:
                    await subscription.unsubscribe()
                except nats.errors.Error as error:
                    log.debug("the inbox is gone already: %s", error)

    async def flush(self, timeout: float = 5.0) -> None:
        """Wait until the server has all that was sent. Raises Unavailable or RequestTimeout."""
        client = self._live()
        try:
            await client.flush(timeout)  # type: ignore[arg-type]  # any number of seconds will do
        except nats.errors.FlushTimeoutError:
            raise RequestTimeout(f"{self.url} did not answer a ping within {timeout:g} s") from None
        except nats.errors.Error as error:
            raise self._translated(error) from None
        if not client.is_connected:
            raise self._gone()

    # --- listening ----------------------------------------------------------------------------------------

    async def subscribe(self, subject: str, callback: Receive, *, queue: str = "") -> Subscription:
        """Call back for each message, one after the other; with ``queue``, for a share of them.

        When this returns the server knows of it. A callback that fails is logged and the next message
        comes. Raises Unavailable or AccessDenied.
        """
        subscription = Subscription(self, subject, queue, callback)
        subscription._buffer(callback)
        try:
            await self._add(subscription)
            await self.flush()
            if subject.lower() in self._denied:
                raise AccessDenied(f"this user may not listen to {subject}: use one that may")
        except BaseException:
            with anyio.CancelScope(shield=True):
                await subscription.unsubscribe()
            raise
        return subscription

    async def listen(self, subject: str, receive: Receive, *, queue: str = "") -> Subscription:
        """Like subscribe, without a buffer: ``receive`` must not wait, and a lost connection cancels it.

        The server may not know of it yet: flush before relying on it.
        """
        subscription = Subscription(self, subject, queue, receive)
        await self._add(subscription)
        return subscription

    async def wait_connected(self, timeout: float) -> None:
        """Wait until something can be sent. Raises Unavailable after ``timeout`` seconds."""
        with anyio.move_on_after(timeout):
            while not self.is_connected:
                await self._connected.wait()
                await anyio.lowlevel.checkpoint()
            return
        raise Unavailable(f"NATS cannot be reached at {self.url} for {timeout:g} s: check that it runs")

    async def _add(self, subscription: Subscription) -> None:
        client = self._live()
        self._subscriptions.add(subscription)
        try:
            await subscription._bind(client)
        except nats.errors.Error as error:
            self._subscriptions.discard(subscription)
            raise self._translated(error) from None

    # --- inner --------------------------------------------------------------------------------------------

    def _live(self) -> _Client:
        client = self._client
        if client is None or not client.is_connected:
            raise Unavailable(f"NATS cannot be reached at {self.url}: check that it runs, then try again")
        return client

    async def _ready(self) -> _Client:
        """The client, when there is room to send. Raises Unavailable, also if the server takes nothing."""
        client = self._live()
        if client.pending_data_size >= PENDING_LIMIT:
            try:
                await client.room()
            except TimeoutError:
                raise Unavailable(
                    f"NATS at {self.url} takes nothing for {ROOM_SECONDS:g} s: look at it"
                ) from None
            return self._live()
        return client

    def _gone(self) -> Unavailable:
        return Unavailable(f"the connection to {self.url} went: whether the message arrived is not known")

    def _check(self, subject: str, reply: str, data: bytes, headers: Mapping[str, str] | None) -> None:
        """Refuse what would make the server close the connection."""
        if _bad_subject(subject) or (reply and _bad_subject(reply)):
            bad = subject if _bad_subject(subject) else reply
            raise InvalidRequest(f"{bad[:80]!r} is no subject to send to")
        line = len(subject.encode()) + len(reply.encode()) + 32
        if line > CONTROL_LINE_LIMIT:
            raise TooLarge(f"subject and reply have {line - 32} bytes: {CONTROL_LINE_LIMIT - 32} fit")
        size = len(data)
        if headers:
            size += 14 + sum(len(name.encode()) + len(value.encode()) + 4 for name, value in headers.items())
        if size > self.max_payload:
            raise TooLarge(
                f"the message has {size} bytes with its headers: the server takes {self.max_payload}"
            )

    async def _send(
        self, client: _Client, subject: str, data: bytes, reply: str, headers: Mapping[str, str] | None
    ) -> None:
        try:
            await client.publish(subject, data, reply, dict(headers) if headers else None)
        except nats.errors.Error as error:
            raise self._translated(error) from None
        if not client.is_connected:
            raise self._gone()

    def _translated(self, error: nats.errors.Error) -> SuiteError:
        if isinstance(error, nats.errors.MaxPayloadError):
            return TooLarge()
        if isinstance(error, nats.errors.BadSubjectError | nats.errors.BadHeaderError):
            return InvalidRequest(f"{type(error).__name__}: {error}")
        return Unavailable(f"NATS at {self.url} cannot be used now: {error}")

    async def _connect(self) -> None:
        """Build a client and make it the current one. Raises Unavailable or AccessDenied."""
        credentials = self._access.credentials_file
        if credentials is not None and not Path(credentials).is_file():  # noqa: ASYNC240
            raise AccessDenied(f"there is no credentials file {credentials}")
        client = _Client()
        try:
            await self._reach(client)
            await client.subscribe(self._replies + "*", cb=self._on_reply)
            self.max_payload = client.max_payload
            self.server_version = str(client._server_info.get("version", ""))
            self._denied.clear()
            self._client = client
            self.connections += 1
            for subscription in list(self._subscriptions):
                await subscription._bind(client)
            await client.flush(self._connect_timeout)  # type: ignore[arg-type]
        except BaseException as error:
            self._client = None
            await client.discard()
            if isinstance(error, nats.errors.Error):
                raise self._translated(error) from None
            raise
        self._connected.set()

    async def _reach(self, client: _Client) -> None:
        access = self._access

        async def on_error(error: Exception) -> None:
            self._on_error(client, error)

        try:
            await client.connect(
                servers=access.url.split(","),
                name=self._name,
                user=access.user,
                password=access.password,
                user_credentials=access.credentials_file,
                error_cb=on_error,
                allow_reconnect=False,
                max_reconnect_attempts=1,
                reconnect_time_wait=0,
                connect_timeout=self._connect_timeout,  # type: ignore[arg-type]
                ping_interval=20,
                pending_size=0,  # the waiting is done in room()
                skip_subject_validation=True,
            )
        except (OSError, TimeoutError, nats.errors.Error) as error:
            cause = client.failure or error
            if "authorization" in str(cause).lower() or "authentication" in str(cause).lower():
                raise AccessDenied(f"NATS at {self.url} refused the credentials: check them") from None
            raise Unavailable(
                f"NATS cannot be reached at {self.url} ({cause or type(cause).__name__}): check that it runs"
            ) from None
        if not client.is_connected:
            raise Unavailable(f"NATS at {self.url} did not finish its greeting: check what listens there")

    async def _stay_connected(self) -> None:
        while (client := self._client) is not None:
            await client.lost()
            if self._client is not client:
                return  # closed by its owner, which is no loss
            self._lose(client)
            await client.discard()
            await self._rebuild()
            log.warning("connected to %s again", self.url)

    async def _rebuild(self) -> None:
        delay, said = FIRST_RETRY_SECONDS, ""
        while True:
            try:
                return await self._connect()
            except SuiteError as error:
                if error.message != said:
                    log.warning("%s; tried again until it works", error.message)
                    said = error.message
            await anyio.sleep(delay)
            delay = min(2 * delay, LAST_RETRY_SECONDS)

    def _lose(self, client: _Client) -> None:
        log.warning("the connection to %s is lost (%s)", self.url, client.last_error or client.failure)
        self._client = None
        self._connected = anyio.Event()
        for answer, _ in list(self._waiting.values()):
            if not answer.done():
                answer.set_result(self._gone())
        for stream in self._streams:
            stream.fail(self._gone())

    async def _on_reply(self, msg: Msg) -> None:
        waiter = self._waiting.get(msg.subject[len(self._replies) :])
        if waiter is not None and not waiter[0].done():
            waiter[0].set_result(msg)

    def _on_error(self, client: _Client, error: Exception) -> None:
        client.failure = error
        violation = _violation(str(error).lower())
        if violation is None:
            level = logging.ERROR if isinstance(error, nats.errors.SlowConsumerError) else logging.DEBUG
            log.log(level, "nats: %r", error)
            return
        verb, subject = violation.groups()
        log.error("this user may not use %s: permissions violation for %s", subject, verb)
        if verb == "subscription":
            self._denied.add(subject)
        for answer, asked in list(self._waiting.values()):
            if verb == "publish" and asked.lower() == subject and not answer.done():
                answer.set_result(AccessDenied(f"this user may not send to {asked}: use one that may"))

    async def _close(self) -> None:
        client, self._client = self._client, None
        if client is None:
            return
        if client.is_connected:
            with anyio.move_on_after(CLOSE_SECONDS, shield=True):
                try:
                    await client.flush()
                except nats.errors.Error as error:
                    log.debug("not flushed at the end: %s", error)
        await client.discard()


def _expire(answer: asyncio.Future[Msg | SuiteError], subject: str, timeout: float) -> None:
    if not answer.done():
        answer.set_result(RequestTimeout(f"no answer on {subject} within {timeout:g} s: allow more time"))


def header_lines(headers: Mapping[str, str]) -> str:
    """Headers as they stand on the wire (ADR-4 of NATS). Raises InvalidRequest for a line break in one."""
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    if not lines.count("\r") == lines.count("\n") == len(headers):
        raise InvalidRequest("a header holds a line break")
    return lines


def _bare(url: str) -> str:
    parts = urlsplit(url if "://" in url else f"nats://{url}")
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
