"""Sends the requests of actions, and waits for the replies."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import copy
from functools import lru_cache
from typing import Self, TypeVar

import msgspec

from suite.bus.connection import Connection
from suite.bus.liveness import answers
from suite.client.replies import read_answer, read_reply, read_unread
from suite.errors import InvalidRequest, NodeLost
from suite.messages.actions.base import CLIENT_HEADER, Reply, Request
from suite.messages.broken_json import half_character
from suite.messages.signals import Signal
from suite.messages.subjects import Subjects
from suite.telemetry import instruments, recording, sending, trace_headers
from suite.telemetry.instrument import Timed

R = TypeVar("R", bound=Reply)
T = TypeVar("T")
S = TypeVar("S", bound=Signal)


def encoded(request: Request | Mapping[str, object]) -> bytes:
    """The body of a request. Raises InvalidRequest for a text that is none."""
    try:
        return msgspec.json.encode(request)
    except UnicodeEncodeError as error:
        raise half_character(msgspec.to_builtins(request)) or InvalidRequest(str(error)) from None


class Asking:
    """The base of the client: sends requests over a connection, with time limits."""

    def __init__(
        self, connection: Connection, *, subjects: Subjects, request_seconds: float, silence_seconds: float
    ) -> None:
        self._connection = connection
        self._subjects = subjects
        self._request_seconds = request_seconds
        self._silence_seconds = silence_seconds
        self._node: str | None = None
        recording.adopt_application()
        self._duration = instruments.CLIENT_OPERATION.create()

    def on_node(self, node: str) -> Self:
        """The same client, whose requests this node of a fleet is to answer, if they name no other."""
        named = copy(self)
        named._node = node
        return named

    async def is_answered(self) -> bool:
        """Whether NATS answers, or is known to be away, so that the connection is made again by itself."""
        return await answers(self._connection, outages_count=False)

    async def _ask(self, action: str, request: Request, kind: type[R], *, seconds: float | None = None) -> R:
        """Request an action that sends one reply."""
        return await self._request(action, request, lambda data: read_reply(data, kind), seconds=seconds)

    async def _request(
        self,
        action: str,
        request: Request | Mapping[str, object],
        read: Callable[[bytes], T],
        *,
        seconds: float | None,
    ) -> T:
        subject = self._subjects.action(action)
        with sending("send", subject):
            with Timed(self._duration, _attributes(subject)):
                message = await self._connection.request(
                    subject,
                    encoded(self._addressed(request)),
                    headers=self._headers(),
                    timeout=seconds or self._request_seconds,
                )
            return read(message.data)

    async def forward(
        self, action: str, fields: Mapping[str, object], *, seconds: float | None = None
    ) -> msgspec.Raw:
        """Send the fields of an action that has one reply as they are, and return that as it is.

        For programs that stand between the service and others, such as the dashboard.
        """
        return await self._request(action, fields, read_unread, seconds=seconds)

    async def _exchange(
        self,
        action: str,
        request: Request | Mapping[str, object],
        kind: type[R],
        hear: Callable[[Signal], None],
    ) -> R:
        """Request an action that sends signals before its reply; `hear` is called with each."""
        subject = self._subjects.action(action)
        with sending("send", subject):
            async with self._connection.request_many(
                subject,
                encoded(self._addressed(request)),
                headers=self._headers(),
                idle_timeout=self._silence_seconds,
            ) as messages:
                async for message in messages:
                    answer = read_answer(message.data, kind)
                    if isinstance(answer, kind):
                        return answer  # the first terminal message wins
                    if isinstance(answer, Signal):
                        hear(answer)
            raise NodeLost(f"the answer of {action} ended without a reply: send the request again")

    def _addressed(self, request: Request | Mapping[str, object]) -> Request | Mapping[str, object]:
        """The request, for the node of this client unless the request names one itself."""
        if self._node is None:
            return request
        if isinstance(request, Request):
            return request if request.node is not None else msgspec.structs.replace(request, node=self._node)
        return request if request.get("node") is not None else {**request, "node": self._node}

    def _headers(self) -> dict[str, str]:
        name = " ".join(self._connection.name.split())  # a header is one line
        return {CLIENT_HEADER: name, **trace_headers()}


def told(kind: type[S], on_signal: Callable[[S], None] | None) -> Callable[[Signal], None]:
    """What hears signals, and calls ``on_signal``, if there is one, with those of one kind."""

    def hear(signal: Signal) -> None:
        if on_signal is not None and isinstance(signal, kind):
            on_signal(signal)

    return hear


@lru_cache
def _attributes(subject: str) -> dict[str, str]:
    return instruments.of_messages("request", "send", subject)
