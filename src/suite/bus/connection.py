"""A connection to NATS that reconnects by itself and never waits for an answer that cannot come.

    async with Connection.open(access, name="box1") as connection:
        await connection.subscribe("greet", answer)
        reply = await connection.request("suite.action.health_check", b"{}", timeout=2)

All use of nats-py goes through here. On most protocol errors nats-py closes its client for ever, and it keeps
unsent messages to send them later. This class handles every loss in one way: waiting calls fail at once, a
new client is built, subscriptions are made again, and nothing is sent twice or late.
"""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TypeAlias
from urllib.parse import urlsplit

import anyio
import anyio.lowlevel
import anyio.to_thread
import nats.errors
from anyio.abc import TaskGroup

from suite.bus.nats_client import CLOSE_SECONDS, ROOM_SECONDS, NatsClient
from suite.bus.replies import Replies
from suite.bus.stream import Stream, nobody
from suite.bus.subscription import Receive, Subscription
from suite.bus.wire import Message, frame, header_lines, message_of
from suite.errors import (
    AccessDenied,
    CredentialsRefused,
    InvalidRequest,
    NodeLost,
    RequestTimeout,
    SuiteError,
    Unavailable,
)
from suite.identity import new_id
from suite.messages.actor import NatsAccess
from suite.tasks import background

__all__ = ["Connection", "Message", "Receive", "Subscription", "header_lines"]

log = logging.getLogger("suite.bus")

FIRST_RETRY_SECONDS = 0.02
LAST_RETRY_SECONDS = 1.0
LAST_REFUSED_SECONDS = 5.0
"""The longest pause while the credentials are refused, which takes a person to mend."""

REPLACED_SECONDS = 1.0
"""How long the server and connection.json may differ while a password is replaced."""
REPLACED_PAUSE_SECONDS = 0.1
REGAIN_SECONDS = 5.0
"""The pause before a subscription is tried again that the server has denied."""
CUT_ATTEMPTS = 4
"""How often a server is asked that greets and hangs up, before it counts as unreachable."""

Rediscover: TypeAlias = Callable[[], NatsAccess]
"""Says how the service can be reached now. It may read a file. Raises SuiteError if there is no service."""

_violation = re.compile(r'permissions violation for (publish|subscription) to "([^"]*)"').search


class _CutShort(Unavailable):
    """The server has hung up in the middle of the greeting.

    It does so after a refusal, and what it said may be lost: the client was still writing. It also does so
    when its users are changed in that moment.
    """


class Connection:
    """A connection to NATS that is made again whenever it is lost."""

    connections: int = 0
    """How often the connection was made. When this changes, messages that were in transit are lost."""

    def __init__(
        self, access: NatsAccess, *, name: str, connect_timeout: float, rediscover: Rediscover | None
    ) -> None:
        self._access = access
        self._rediscover = rediscover
        self._refusal: str | None = None
        self._outage_level = logging.WARNING
        self._name = name
        self._connect_timeout = connect_timeout
        self._tasks: TaskGroup
        self._client: NatsClient | None = None
        self._connected = anyio.Event()
        self._given_up = False
        self._staying = anyio.CancelScope()
        self._subscriptions: set[Subscription] = set()
        self._streams: set[Stream] = set()
        self._denied: set[str] = set()
        self._told: set[str] = set()
        self._is_regaining = False
        self._replies = Replies(self.new_inbox())
        self.max_payload = 0
        """The server's limit for payload and headers together, in bytes."""
        self.server_version = ""
        self.is_clustered = False
        """Whether the server is one of a cluster."""

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        access: NatsAccess,
        *,
        name: str,
        connect_timeout: float = 5.0,
        wait: bool = False,
        rediscover: Rediscover | None = None,
        tell_outages: bool = True,
    ) -> AsyncIterator[Connection]:
        """Connect, and stay connected until the block is left.

        ``connect_timeout`` is in seconds, for each attempt. Raises Unavailable if nothing listens there;
        with ``wait`` it keeps trying instead. Raises AccessDenied if the credentials are refused. A later
        loss is logged, and the connection is made again, to where ``rediscover`` says that the service is
        by then; while that raises, nothing is connected to, since whoever listens at the old address by then
        would get the password. With ``tell_outages`` false only refused credentials are logged, for a second
        connection to the same server. While the credentials are refused, everything that needs the
        connection raises CredentialsRefused at once.
        """
        connection = cls(access, name=name, connect_timeout=connect_timeout, rediscover=rediscover)
        connection._outage_level = logging.WARNING if tell_outages else logging.DEBUG
        async with background() as tasks:
            connection._tasks = tasks
            if wait:
                await connection._connect_patiently(Unavailable)
            else:
                await connection._connect_first()
            tasks.start_soon(connection._stay_connected)
            try:
                yield connection
            finally:
                await connection._close()

    @property
    def name(self) -> str:
        """What this connection is called by the server."""
        return self._name

    @property
    def is_connected(self) -> bool:
        """Whether something can be sent now."""
        return self._client is not None and self._client.is_usable

    @property
    def refusal(self) -> CredentialsRefused | None:
        """Why the server does not let this user in at the moment; None while it does, or does not answer."""
        return None if self._refusal is None else CredentialsRefused(self._refusal)

    @property
    def url(self) -> str:
        """The server's address, without credentials."""
        return ",".join(_bare(url) for url in self._access.url.split(","))

    def new_inbox(self) -> str:
        """A new, unique subject that this connection may listen to."""
        return f"{self._access.inbox_prefix}.{new_id().replace('-', '')}"

    # --- sending ------------------------------------------------------------------------------------------

    async def publish(
        self, subject: str, data: bytes = b"", *, headers: Mapping[str, str] | None = None, reply: str = ""
    ) -> None:
        """Send a message. It may get lost if the connection is lost.

        Raises Unavailable, TooLarge, or InvalidRequest for an invalid subject or header.
        """
        client = self._client
        if client is None or client.is_full or not client.is_usable:
            client = await self._ready()
        client.write(frame(subject, reply, data, header_lines(headers) if headers else "", self.max_payload))

    async def publish_all(self, messages: Iterable[tuple[str, bytes, str]]) -> None:
        """Send messages, given as subject, payload and header lines, in one write.

        This costs a fraction of publishing each by itself. Each header line ends with CR LF. Raises the same
        errors as publish; then no message is sent.
        """
        client = await self._ready()
        frames = [frame(subject, "", data, lines, self.max_payload) for subject, data, lines in messages]
        client.write(b"".join(frames))

    async def request(
        self,
        subject: str,
        data: bytes = b"",
        *,
        headers: Mapping[str, str] | None = None,
        timeout: float,
    ) -> Message:
        """Send a message and wait up to ``timeout`` seconds for its answer.

        Raises NoService if nobody listens, RequestTimeout, AccessDenied, and TooLarge. Raises Unavailable as
        soon as the connection is lost; it is then unknown whether the request was carried out.
        """
        client = await self._ready()
        inbox = self._replies.new_inbox()
        lines = header_lines(headers) if headers else ""
        client.write(frame(subject, inbox, data, lines, self.max_payload))
        msg = await self._replies.wait(inbox, subject, timeout)
        if msg.headers and not msg.data and msg.headers.get("Status") == "503":
            raise nobody(subject)
        return message_of(msg)

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

        The iterator raises NoService if nobody listens, NodeLost when nothing comes for ``idle_timeout``
        seconds or the connection is lost, and Overloaded when too many answers wait unread.
        Leaving the block early removes the inbox, which the sender can notice.
        """
        client = await self._ready()
        inbox = self.new_inbox()
        sent = frame(subject, inbox, data, header_lines(headers) if headers else "", self.max_payload)
        stream = Stream(subject, idle_timeout)
        subscription = await client.subscribe(inbox, cb=stream.deliver)
        self._streams.add(stream)
        try:
            client.write(sent)
            yield stream
        finally:
            self._streams.discard(stream)
            with anyio.CancelScope(shield=True):
                try:
                    await subscription.unsubscribe()
                except nats.errors.Error as error:
                    log.debug("the inbox is gone already: %s", error)

    async def flush(self, timeout: float = 5.0) -> None:
        """Wait until the server has received everything sent so far. Raises Unavailable or RequestTimeout."""
        client = self._live()
        try:
            await client.flush(timeout)  # type: ignore[arg-type]  # any number of seconds will do
        except nats.errors.FlushTimeoutError:
            raise RequestTimeout(f"{self.url} did not answer a ping within {timeout:g} s") from None
        except nats.errors.Error as error:
            raise self._translated(error) from None
        if not client.is_usable:
            raise self._gone()

    # --- listening ----------------------------------------------------------------------------------------

    async def subscribe(self, subject: str, callback: Receive, *, queue: str = "") -> Subscription:
        """Call ``callback`` for each message, one after the other.

        Subscribers with the same ``queue`` share the messages. The subscription is active on the server
        when this returns. If the callback fails, the error is logged and the next message is handled.
        Raises Unavailable or AccessDenied.
        """
        subscription = Subscription(subject, queue, callback, self._subscriptions.discard)
        self._tasks.start_soon(subscription.buffer())
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

        The subscription may not be active on the server yet: flush before you rely on it.
        """
        subscription = Subscription(subject, queue, receive, self._subscriptions.discard)
        await self._add(subscription)
        return subscription

    async def wait_connected(self, timeout: float) -> None:
        """Wait until messages can be sent. Raises Unavailable after ``timeout`` seconds."""
        with anyio.move_on_after(timeout):
            while not (self.is_connected or self._given_up):
                await self._connected.wait()
                await anyio.lowlevel.checkpoint()
            if self._given_up:
                raise self._gone()
            return
        raise Unavailable(f"NATS cannot be reached at {self.url} for {timeout:g} s: check that it runs")

    @property
    def is_given_up(self) -> bool:
        """Whether `give_up` was called, so that no request will be answered any more."""
        return self._given_up

    async def give_up(self) -> None:
        """Stop using NATS: waiting calls fail at once, and the connection is not made again.

        For a process that is ending and cannot wait for a server that does not answer.
        """
        self._given_up = True
        self._staying.cancel()
        client = self._client
        self._forget()
        self._connected.set()
        if client is not None:
            client.abort()
            await client.discard()

    async def _add(self, subscription: Subscription) -> None:
        client = self._live()
        self._subscriptions.add(subscription)
        try:
            await subscription.bind(client)
        except nats.errors.Error as error:
            self._subscriptions.discard(subscription)
            raise self._translated(error) from None

    # --- inner --------------------------------------------------------------------------------------------

    def _live(self) -> NatsClient:
        client = self._client
        if client is None or not client.is_usable:
            if (refusal := self.refusal) is not None:
                raise refusal
            raise Unavailable(f"NATS cannot be reached at {self.url}: check that it runs, then try again")
        return client

    async def _ready(self) -> NatsClient:
        """The client, once its send buffer has room.

        Raises Unavailable without a connection, or if the server does not read what is sent.
        """
        client = self._live()
        if client.is_full:
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

    def _translated(self, error: nats.errors.Error) -> SuiteError:
        if isinstance(error, nats.errors.BadSubjectError):
            return InvalidRequest(f"this is no subject to listen to: {error}")
        return Unavailable(f"NATS at {self.url} cannot be used now: {error}")

    async def _connect(self) -> None:
        """Build a client and make it the current one. Raises Unavailable or AccessDenied."""
        credentials = self._access.credentials_file
        if credentials is not None and not Path(credentials).is_file():  # noqa: ASYNC240
            raise AccessDenied(f"there is no credentials file {credentials}")
        for attempt in range(CUT_ATTEMPTS):
            try:
                await self._connect_once()
                break
            except _CutShort:
                if attempt == CUT_ATTEMPTS - 1:
                    raise

    async def _connect_once(self) -> None:
        client = NatsClient()
        try:
            await self._reach(client)
            await client.subscribe(self._replies.subject, cb=self._replies.deliver)
            self.max_payload = client.max_payload
            self.server_version = str(client._server_info.get("version", ""))
            self.is_clustered = bool(client._server_info.get("cluster"))
            self._denied.clear()
            self._told.clear()
            for subscription in list(self._subscriptions):
                await subscription.bind(client)
            await client.flush(self._connect_timeout)  # type: ignore[arg-type]
        except BaseException as error:
            await client.discard()
            if isinstance(error, nats.errors.Error):
                raise self._translated(error) from None
            raise
        if self._given_up:
            await client.discard()
            raise self._gone()
        self._client = client  # from here on messages can be sent, and all subscriptions are active
        self._refusal = None
        self.connections += 1
        self._connected.set()

    async def _reach(self, client: NatsClient) -> None:
        on_error = partial(self._on_error, client)
        try:
            await client.reach(
                self._access, name=self._name, timeout=self._connect_timeout, on_error=on_error
            )
        except ImportError as error:
            raise AccessDenied(f"a credentials file needs the package {error.name}: install it") from None
        except (OSError, TimeoutError, nats.errors.Error) as error:
            cause = client.failure or error
            if "authorization" in str(cause).lower() or "authentication" in str(cause).lower():
                raise AccessDenied(self._refused()) from None
            cut = isinstance(error, ConnectionError) and client.was_greeted
            raise (_CutShort if cut else Unavailable)(
                f"NATS cannot be reached at {self.url} ({cause or type(cause).__name__}): check that it runs"
            ) from None
        if not client.is_usable:
            raise _CutShort(f"NATS at {self.url} did not finish its greeting: check what listens there")

    async def _connect_first(self) -> None:
        """Connect. A password may be replaced just now, so a refusal counts after REPLACED_SECONDS."""
        until = anyio.current_time() + REPLACED_SECONDS
        while True:
            try:
                return await self._connect()
            except AccessDenied:
                if self._rediscover is None or anyio.current_time() > until:
                    raise
            await anyio.sleep(REPLACED_PAUSE_SECONDS)
            await self._find()

    async def _stay_connected(self) -> None:
        with self._staying:
            while (client := self._client) is not None:
                await client.lost()
                if self._client is not client:
                    return  # the owner closed the connection: it was not lost
                self._lose(client)
                await client.discard()
                await self._connect_patiently(SuiteError)
                log.log(self._outage_level, "connected to %s again", self.url)

    async def _connect_patiently(self, excused: type[SuiteError]) -> None:
        """Retry until connected, however long it takes. Raises errors that are not ``excused`` at once."""
        delay, said = FIRST_RETRY_SECONDS, ""
        while True:
            try:
                await self._find()
                return await self._connect()
            except excused as error:
                self._refusal = error.message if isinstance(error, AccessDenied) else None
                if error.message != said:
                    level = logging.WARNING if self._refusal else self._outage_level
                    log.log(level, "%s; tried again until it works", error.message)
                    said = error.message
            await anyio.sleep(delay)
            delay = min(2 * delay, LAST_REFUSED_SECONDS if self._refusal else LAST_RETRY_SECONDS)

    async def _find(self) -> None:
        """Learn how the service can be reached now. Raises SuiteError if there is no service."""
        if self._rediscover is None:
            return
        access = await anyio.to_thread.run_sync(self._rediscover)
        is_new = access.inbox_prefix != self._access.inbox_prefix
        self._access = access
        if is_new:
            self._replies = Replies(self.new_inbox())

    def _refused(self) -> str:
        """What to do about credentials that are refused. It never has the password."""
        user, file = self._access.user, self._access.credentials_file
        if file is not None:
            return (
                f"NATS at {self.url} refused the credentials in {file}: get new ones from its administrator"
            )
        if user is None:
            return f"NATS at {self.url} wants to know who you are: give it a user and a password"
        if not self._access.password:
            return (
                f"NATS at {self.url} refused the user {user!r}, who has no password here: "
                "set SUITE_NATS_PASSWORD"
            )
        return (
            f"NATS at {self.url} refused the user {user!r}: its password is wrong or was changed, or it was "
            f"revoked; for the service's own server `suite credentials show {user}` has the right one"
        )

    def _lose(self, client: NatsClient) -> None:
        cause = client.last_error or client.failure
        log.log(self._outage_level, "the connection to %s is lost (%s)", self.url, cause)
        self._forget()

    def _forget(self) -> None:
        """Drop the client, and fail every call that waits for an answer: none will come."""
        self._client = None
        if self._connected.is_set():  # otherwise somebody may wait for it already
            self._connected = anyio.Event()
        self._replies.fail(self._gone())
        for stream in self._streams:
            stream.fail(
                NodeLost(f"the connection to {self.url} went while the answer came: send the request again")
            )

    def _on_error(self, client: NatsClient, error: Exception) -> None:
        client.failure = error
        violation = _violation(str(error).lower())
        if violation is None:
            level = logging.ERROR if isinstance(error, nats.errors.SlowConsumerError) else logging.DEBUG
            log.log(level, "nats: %r", error)
            return
        verb, subject = violation.groups()
        if verb == "subscription":
            self._tell_denied(f"this user may not listen to {subject}")
            self._denied.add(subject)
            if not self._is_regaining:
                self._is_regaining = True
                self._tasks.start_soon(self._regain)
        elif not any([self._replies.deny(subject), *(stream.deny(subject) for stream in self._streams)]):
            self._tell_denied(f"this user may not send to {subject}")

    def _tell_denied(self, what: str) -> None:
        """Log once what the server denies, where nobody waits for an answer and so gets the error."""
        if what not in self._told:
            log.error("%s: permissions violation", what)
        self._told.add(what)

    async def _regain(self) -> None:
        """Subscribe again to what is denied until nothing is: the server gives nothing back by itself.

        It takes away when somebody changes its users. A new subscription that is denied is not ours by then.
        """
        while self._denied:
            await anyio.sleep(REGAIN_SECONDS)
            denied, client = set(self._denied), self._client
            self._denied -= denied
            for subscription in [each for each in self._subscriptions if each.subject.lower() in denied]:
                if client is None or self._client is not client:
                    break  # a new connection asks for all of them, and says what it is denied
                await self._rebind(subscription, client)
        self._is_regaining = False

    async def _rebind(self, subscription: Subscription, client: NatsClient) -> None:
        try:
            await subscription.rebind(client)
        except nats.errors.Error as error:
            log.debug("no subscription to %s: %s", subscription.subject, error)
        if subscription not in self._subscriptions:  # it was ended meanwhile
            await subscription.unsubscribe()

    async def _close(self) -> None:
        client, self._client = self._client, None
        if client is None:
            return
        if client.is_usable:
            with anyio.move_on_after(CLOSE_SECONDS, shield=True):
                try:
                    await client.flush()
                except nats.errors.Error as error:
                    log.debug("not flushed at the end: %s", error)
        await client.discard()


def _bare(url: str) -> str:
    parts = urlsplit(url if "://" in url else f"nats://{url}")
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
