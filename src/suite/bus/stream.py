"""Iterates over the answers to one request, until an empty one ends them (NATS ADR-47)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import anyio
from nats.aio.msg import Msg

from suite.bus.wire import Message, message_of
from suite.errors import AccessDenied, NodeLost, NoService, Overloaded, SuiteError

BUFFER_LIMIT = 65_536
"""How many answers may wait to be read."""


def nobody(subject: str) -> NoService:
    """The error for a request that has no responders."""
    return NoService(f"nobody serves {subject}: start the service with `suite serve`")


class Stream:
    """An iterator over the answers to one request."""

    def __init__(self, subject: str, idle_timeout: float) -> None:
        self._subject = subject
        self._idle_timeout = idle_timeout
        self._waiting: asyncio.Queue[Message | SuiteError | None] = asyncio.Queue()
        self._over: SuiteError | StopAsyncIteration | None = None

    async def deliver(self, msg: Msg) -> None:
        """Receive a message from the inbox."""
        if self._waiting.qsize() > BUFFER_LIMIT:
            return
        if self._waiting.qsize() == BUFFER_LIMIT:
            self.fail(Overloaded(f"{BUFFER_LIMIT} answers wait unread: read faster"))
        elif msg.data or (msg.headers and "Status" not in msg.headers):
            self._waiting.put_nowait(message_of(msg))
        elif msg.headers and msg.headers["Status"] == "503":
            self._waiting.put_nowait(nobody(self._subject))
        else:
            self._waiting.put_nowait(None)

    def deny(self, subject: str) -> bool:
        """End the iteration if this is its subject, to which the server did not let this user publish.

        The server reports the subject in lower case. Returns whether it is.
        """
        is_denied = self._subject.lower() == subject
        if is_denied:
            self.fail(AccessDenied(f"this user may not send to {self._subject}: use one that may"))
        return is_denied

    def fail(self, error: SuiteError) -> None:
        """End the iteration with an error, after the answers that have already arrived."""
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
