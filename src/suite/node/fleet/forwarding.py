"""Hands requests over to other nodes, and takes those that they hand over (ADR 57).

A forwarded request goes out with a reply subject of the node's own, on which the other node tells how it
goes, and with the client's reply subject in a header, to which the other node answers itself. Until it tells
that the request has been handed over to a model's process or has ended, the first node can still have it
served elsewhere: when nobody listens, when the model is not there any more, and when the other node is lost.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from itertools import count
from typing import Any, Final, NamedTuple, TypeAlias

import anyio.abc
import msgspec

from suite import telemetry
from suite.bus.absence import NO_RESPONDERS
from suite.bus.action import Action
from suite.bus.arrival import Arrival
from suite.bus.connection import Connection, Message
from suite.errors import SuiteError
from suite.messages.presence import Forwarded, ForwardedState
from suite.messages.subjects import Subjects

logger = logging.getLogger("suite.fleet")

REPLY: Final = "Suite-Reply"
"""The header with the subject that the client waits on."""
SEQ: Final = "Suite-Seq"
"""The header with the newest event that the first node knows of: the other one must see at least that."""
INSTANCE: Final = "Suite-Instance"
"""The header with the instance that the request is for; without it, the model is to be loaded first."""
DIGEST: Final = "Suite-Digest"
"""The header with the digest of the model's file."""
_OWN: Final = (REPLY, SEQ, INSTANCE, DIGEST)

_encode = msgspec.json.Encoder().encode
_told = msgspec.json.Decoder(Forwarded).decode


class Sent(NamedTuple):
    """A request that another node has."""

    message: Message
    """As the client sent it."""
    action: Action[Any]
    request: msgspec.Struct
    node: str
    tried: frozenset[str]
    """The nodes that have had it, with this one."""


Again: TypeAlias = Callable[[Sent], Coroutine[Any, Any, None]]


class Forwarding:
    """The requests that this node has handed over to others."""

    def __init__(
        self, connection: Connection, subjects: Subjects, tasks: anyio.abc.TaskGroup, again: Again
    ) -> None:
        """`again` has a request served elsewhere, or ends it."""
        self._connection = connection
        self._subjects = subjects
        self._tasks = tasks
        self._again = again
        self._inbox = connection.new_inbox()
        self._numbers = count()
        self._sent: dict[str, Sent] = {}

    async def listen(self) -> None:
        """Listen to what other nodes tell of requests that they got from here."""
        await self._connection.listen(f"{self._inbox}.*", self._on_news)

    async def send(self, sent: Sent, *, last_seq: int, instance_id: str = "", sha256: str = "") -> None:
        """Hand a request over to its node. Raises Unavailable, or TooLarge if it has no room for the headers.

        `last_seq`: the newest event that this node knows of. `instance_id` and `sha256`: what it is for.
        """
        token = f"{self._inbox}.{next(self._numbers)}"
        headers = {name: value for name, value in sent.message.headers.items() if name not in _OWN}
        if (traceparent := telemetry.traceparent()) is not None:
            headers["traceparent"] = traceparent
        given = {REPLY: sent.message.reply, SEQ: str(last_seq), INSTANCE: instance_id, DIGEST: sha256}
        headers |= {name: value for name, value in given.items() if value}
        subject = self._subjects.node(sent.node, f"action.{sent.action.name}")
        self._sent[token] = sent
        try:
            await self._connection.publish(subject, sent.message.data, headers=headers, reply=token)
        except BaseException:
            self._sent.pop(token, None)
            raise

    def lose(self, node: str) -> None:
        """Have what a lost node had served elsewhere."""
        for token in [token for token, sent in self._sent.items() if sent.node == node]:
            self._retry(token)

    def _retry(self, token: str) -> None:
        if (sent := self._sent.pop(token, None)) is not None:
            self._tasks.start_soon(self._again, sent)

    async def _on_news(self, message: Message) -> None:
        if message.headers.get("Status") == NO_RESPONDERS:
            self._retry(message.subject)
            return
        try:
            state = _told(message.data).state
        except msgspec.MsgspecError as error:
            logger.debug("another node tells what nobody understands: %s", error)
            return
        if state == "misplaced":
            self._retry(message.subject)
        else:
            self._sent.pop(message.subject, None)


def arrived(message: Message, subject: str) -> Arrival:
    """Read a request that another node has handed over. `subject`: of the action, for clients."""
    seq, is_for_client = message.headers.get(SEQ, ""), SEQ in message.headers
    return Arrival(
        subject=subject,
        data=message.data,
        headers={name: value for name, value in message.headers.items() if name not in _OWN},
        # A node that asks for itself, and not for a client, gets the answer where it waits.
        reply=message.headers.get(REPLY, "") if is_for_client else message.reply,
        token=message.reply if is_for_client else "",
        last_seq=int(seq) if seq.isascii() and seq.isdigit() else 0,
        instance_id=message.headers.get(INSTANCE, ""),
        sha256=message.headers.get(DIGEST, ""),
    )


async def tell(connection: Connection, token: str, state: ForwardedState) -> None:
    """Tell the node that a request came from what becomes of it. What cannot be told is logged."""
    try:
        await connection.publish(token, _encode(Forwarded(state=state)))
    except SuiteError as error:
        logger.debug("what became of a request from another node is not told: %s", error)
