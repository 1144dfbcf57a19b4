"""Hands requests over to other nodes, and takes those that they hand over (ADR 57).

A forwarded request goes out with a reply subject of the node's own, on which the other node tells how it
goes, and with the client's reply subject in a header, to which the other node answers itself. Until it tells
that a model's process is about to have the request, the first node can still have it served elsewhere: when
nobody listens, when the model is not there any more, and when the other node is lost. After that it only sees
to it that the request has an end: when the node is lost, it asks the model's process, and when that is gone
too, the client gets `node_lost` (ADR 59).

What the other node tells may be lost. So of requests that have been there for a while the first node asks now
and then which of them the other still has, and forgets the rest.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Container, Coroutine, Iterable, Mapping
from itertools import count
from typing import Any, Final, Literal, NamedTuple, TypeAlias

import anyio
import anyio.abc
import msgspec

from suite import telemetry
from suite.bus.absence import NO_RESPONDERS
from suite.bus.action import Action
from suite.bus.arrival import Arrival
from suite.bus.connection import Connection, Message
from suite.bus.refusal import error_reply
from suite.client.replies import error_of
from suite.errors import NodeLost, NodeStopping, NoService, Overloaded, RequestTimeout, SuiteError
from suite.messages.actor import ProgressReply
from suite.messages.presence import Forwarded, GetArrivals, KnownArrivals
from suite.messages.subjects import Subjects, escape, unescape
from suite.telemetry import instruments

logger = logging.getLogger("suite.fleet")

REPLY: Final = "Suite-Reply"
"""The header with the subject that the client waits on."""
SEQ: Final = "Suite-Seq"
"""The header with the newest event that the first node knows of: the other one must see at least that."""
INSTANCE: Final = "Suite-Instance"
"""The header with the instance that the request is for; without it, the model is to be loaded first."""
DIGEST: Final = "Suite-Digest"
"""The header with the digest of the model's file."""
EPOCH: Final = "Suite-Epoch"
"""The header with the life of the node that it is for: another process of that name leaves it alone."""
MODEL: Final = "Suite-Model"
"""The header with the escaped id of the model: its alias may be known to the first node only."""
_OWN: Final = (REPLY, SEQ, INSTANCE, DIGEST, EPOCH, MODEL)

ARRIVALS: Final = "arrivals"
"""The operation by which a node is asked which requests of others it has."""
ASK_SECONDS: Final = 1.0
"""How long the process of a model may take to say what it generates, and how often it is asked."""
MOST_SILENT: Final = 3
"""A process that does not answer so often in a row is lost with its node."""
HAND_BACK_SECONDS: Final = 3.0
"""How long the first node may take to take a request back."""
LOOK_SECONDS: Final = 10.0
"""After so long without news of a request its node is asked whether it still has it, and then as often."""
LOOK_PATIENCE_SECONDS: Final = 2.0
"""How long a node may take to say which requests it has, or the connection to come back before."""
LOOK_TOKENS: Final = 1000
"""About so many requests a node is asked at a time: that fits into a message."""
UNCONFIRMED_SECONDS: Final = 120.0
"""What its node has not confirmed for so long is not sent again: it may have been answered long ago."""
MOST_SENT: Final = 16_384
"""So many requests other nodes may have from this one at a time."""

_encode = msgspec.json.Encoder().encode
_told = msgspec.json.Decoder(Forwarded).decode
_progress = msgspec.json.Decoder(ProgressReply).decode
_known = msgspec.json.Decoder(KnownArrivals).decode
_UNKNOWN: Final = Forwarded(state="handed_over")
_MISPLACED: Final = Forwarded(state="misplaced")


class Sent(NamedTuple):
    """A request that another node has."""

    message: Message
    """As the client sent it."""
    action: Action[Any]
    request: msgspec.Struct
    node: str
    tried: frozenset[str]
    """The nodes that have had it, with this one."""
    answered_by: Forwarded | None = None
    """Whose process may answer it; None while it can still be served elsewhere."""
    confirmed_at: float = 0.0
    """When its node was last known to have it, or it was sent (clock time in seconds)."""

    @property
    def may_be_sent_again(self) -> bool:
        """Whether nobody can have answered it."""
        return self.answered_by is None and self.silent_seconds < UNCONFIRMED_SECONDS

    @property
    def silent_seconds(self) -> float:
        """For how long nothing was heard of it."""
        return anyio.current_time() - self.confirmed_at


Again: TypeAlias = Callable[[Sent, SuiteError], Coroutine[Any, Any, None]]
GiveUp: TypeAlias = Callable[[Sent], Coroutine[Any, Any, None]]


class Forwarding:
    """The requests that this node has handed over to others."""

    def __init__(
        self,
        connection: Connection,
        subjects: Subjects,
        tasks: anyio.abc.TaskGroup,
        again: Again,
        give_up: GiveUp,
    ) -> None:
        """`again` has a request served elsewhere, or ends it with an error; `give_up` with `node_lost`."""
        self._connection = connection
        self._subjects = subjects
        self._tasks = tasks
        self._again = again
        self._give_up = give_up
        self._inbox = connection.new_inbox()
        self._numbers = count()
        self._sent: dict[str, Sent] = {}
        self._watched: set[str] = set()
        self._forwards = instruments.FORWARDS.create()
        self._forwards.add(0)
        self._changed = anyio.Event()
        self._doubted = anyio.Event()

    async def listen(self) -> None:
        """Listen to what other nodes tell of requests that they got from here, and ask where they do not."""
        await self._connection.listen(f"{self._inbox}.*", self._on_news)
        self._tasks.start_soon(self._keep_looking)

    async def send(
        self,
        sent: Sent,
        *,
        epoch: int,
        last_seq: int,
        instance_id: str = "",
        sha256: str = "",
        model_id: str = "",
    ) -> None:
        """Hand a request over to its node.

        `epoch`: the life of that node. `last_seq`: the newest event that this one knows of. `instance_id` and
        `sha256`: what it is for. `model_id`: what its model is called, if the client calls it otherwise.
        Raises Unavailable, TooLarge if it has no room for the headers, and Overloaded at `MOST_SENT`.
        """
        if len(self._sent) >= MOST_SENT:
            raise Overloaded(f"other nodes have {MOST_SENT} requests from here: try again in about 1 s")
        token = f"{self._inbox}.{next(self._numbers)}"
        headers = {name: value for name, value in sent.message.headers.items() if name not in _OWN}
        given = {
            REPLY: sent.message.reply,
            SEQ: str(last_seq),
            INSTANCE: instance_id,
            DIGEST: sha256,
            EPOCH: str(epoch),
            MODEL: escape(model_id) if model_id else "",
        }
        headers |= {name: value for name, value in given.items() if value}
        operation = f"action.{sent.action.name}"
        subject = self._subjects.node(sent.node, operation)
        self._sent[token] = sent._replace(confirmed_at=anyio.current_time())
        try:
            with telemetry.sending("forward", self._subjects.every_node(operation), subject):
                headers |= telemetry.trace_headers()
                await self._connection.publish(subject, sent.message.data, headers=headers, reply=token)
        except BaseException:
            self._forget(token)
            raise
        self._forwards.add(1, {instruments.DESTINATION: sent.action.name, instruments.PEER: sent.node})

    def lose(self, node: str) -> None:
        """Have what waited on a lost node served elsewhere, and see to the end of what it generates."""
        for token, sent in self._sent_to(node):
            if sent.may_be_sent_again:
                self._retry(token, NodeLost(f"node {node} was lost: send the request again"))
            elif token not in self._watched:
                self._watched.add(token)
                self._tasks.start_soon(self._watch, token)

    def leave(self, node: str) -> None:
        """Have what waited on a node that stops served elsewhere. What it generates, it ends in order."""
        for token, sent in self._sent_to(node):
            if sent.may_be_sent_again:
                self._retry(token, NodeStopping(f"node {node} has stopped: send the request again"))
            else:
                self._forget(token)

    def doubt(self) -> None:
        """Send nothing again: this node was cut off, and may have missed that others have begun to answer.

        They are asked for that as soon as they can be reached.
        """
        for token, sent in self._sent.items():
            self._sent[token] = sent._replace(answered_by=sent.answered_by or _UNKNOWN)
        self._changed.set()
        self._doubted.set()

    async def settle(self) -> None:
        """Wait until no other node can give anything back that this one has forwarded."""
        while any(sent.may_be_sent_again for sent in self._sent.values()):
            self._changed = anyio.Event()
            await self._changed.wait()

    def _sent_to(self, node: str) -> list[tuple[str, Sent]]:
        return [(token, sent) for token, sent in self._sent.items() if sent.node == node]

    def _forget(self, token: str) -> Sent | None:
        self._changed.set()
        return self._sent.pop(token, None)

    def _retry(self, token: str, error: SuiteError) -> None:
        """Have a request served elsewhere. `error`: why its node does not serve it."""
        if (sent := self._forget(token)) is not None:
            self._tasks.start_soon(self._again, sent, error)

    # --- requests that nothing is heard of ----------------------------------------------------------------

    async def _keep_looking(self) -> None:
        """Ask, now and then, for requests of which nothing was heard for long, or something was missed."""
        while True:
            with anyio.move_on_after(LOOK_SECONDS):
                await self._doubted.wait()
            self._doubted = anyio.Event()
            await self.look()

    async def look(self, after_seconds: float = LOOK_SECONDS) -> None:
        """Ask each node for those of its requests that nothing was heard of for so long, in seconds."""
        silent: dict[str, list[str]] = {}
        for token, sent in self._sent.items():
            if sent.answered_by is _UNKNOWN or sent.silent_seconds >= after_seconds:
                silent.setdefault(sent.node, []).append(token)
        async with anyio.create_task_group() as tasks:
            for node, tokens in silent.items():
                tasks.start_soon(self._look_at, node, tokens)

    async def _look_at(self, node: str, tokens: list[str]) -> None:
        try:
            for begin in range(0, len(tokens), LOOK_TOKENS):
                asked = tokens[begin : begin + LOOK_TOKENS]
                self._compare(asked, await self._known_to(node, asked))
        except (SuiteError, msgspec.MsgspecError) as error:
            logger.debug("node %s does not say which requests it has: %s", node, error)

    async def _known_to(self, node: str, tokens: Iterable[str]) -> Mapping[str, Forwarded | None]:
        """Those of the requests that a node has. Raises SuiteError if it does not say so."""
        await self._connection.wait_connected(LOOK_PATIENCE_SECONDS)
        subject, question = self._subjects.node(node, ARRIVALS), _encode(GetArrivals(tokens=tuple(tokens)))
        answer = await self._connection.request(subject, question, timeout=LOOK_PATIENCE_SECONDS)
        return _known(answer.data).requests

    def _compare(self, asked: Iterable[str], known: Mapping[str, Forwarded | None]) -> None:
        """Forget what its node does not have, and note whose process may answer the rest."""
        for token in asked:
            if token not in known:
                self._forget(token)
            elif (sent := self._sent.get(token)) is not None:
                told = known[token]
                if told is None and sent.answered_by is not _UNKNOWN:
                    told = sent.answered_by  # it was told while the node was asked
                self._sent[token] = sent._replace(answered_by=told, confirmed_at=anyio.current_time())

    # --- generations on a lost node -----------------------------------------------------------------------

    async def _watch(self, token: str) -> None:
        """See to it that a generation ends whose node is lost."""
        try:
            while (sent := self._sent.get(token)) is not None:
                match await self._fate(sent):
                    case "generated":
                        await anyio.sleep(ASK_SECONDS)
                    case "ended":  # its client has the last message: that is sent first
                        self._forget(token)
                    case "lost":
                        self._forget(token)
                        await self._give_up(sent)
        finally:
            self._watched.discard(token)

    async def _fate(self, sent: Sent) -> Literal["generated", "ended", "lost"]:
        """What the process that answers a request says of it. One that says nothing is lost."""
        told = sent.answered_by or _UNKNOWN
        for _ in range(MOST_SILENT if told.instance_id else 0):
            try:
                generations = await self._generations_of(sent.node, told.instance_id)
            except NoService:
                break
            except RequestTimeout:
                continue
            except SuiteError:  # this node cannot reach NATS itself
                return "generated"
            return "generated" if told.generation_id in generations else "ended"
        return "lost"

    async def _generations_of(self, node: str, instance_id: str) -> Container[str]:
        subject = self._subjects.actor(node, instance_id, "progress")
        answer = await self._connection.request(subject, timeout=ASK_SECONDS)
        return _progress(answer.data).generations

    # --- what the other nodes tell ------------------------------------------------------------------------

    async def _on_news(self, message: Message) -> None:
        if message.headers.get("Status") == NO_RESPONDERS:
            self._retry(message.subject, NodeStopping())
            return
        try:
            told = _told(message.data)
        except msgspec.MsgspecError as error:
            logger.debug("another node tells what nobody understands: %s", error)
            return
        match told.state:
            case "misplaced":
                self._retry(message.subject, _reason(told))
            case "handed_over":
                self._hand_over(message.subject, told)
            case "ended":
                self._forget(message.subject)
        if message.reply:
            await tell(self._connection, message.reply, told)

    def _hand_over(self, token: str, told: Forwarded) -> None:
        if (sent := self._sent.get(token)) is not None:
            self._sent[token] = sent._replace(answered_by=told, confirmed_at=anyio.current_time())
            self._changed.set()


def _reason(told: Forwarded) -> SuiteError:
    """Why a request was given back. Without a word of it, its node stops or was cut off."""
    return NodeStopping() if told.error is None else error_of(told.error)


def arrived(message: Message, subject: str) -> Arrival:
    """Read a request that another node has handed over. `subject`: of the action, for clients."""
    seq, is_for_client = message.headers.get(SEQ, ""), SEQ in message.headers
    return Arrival(
        subject=subject,
        data=message.data,
        headers={name: value for name, value in message.headers.items() if name not in _OWN},
        # A node that asks for itself, and not for a client, gets the answer where it waits.
        reply=message.headers.get(REPLY, "") if is_for_client else message.reply,
        is_for_client=is_for_client,
        token=message.reply if is_for_client else "",
        last_seq=int(seq) if seq.isascii() and seq.isdigit() else 0,
        instance_id=message.headers.get(INSTANCE, ""),
        sha256=message.headers.get(DIGEST, ""),
        model_id=_unescaped(message.headers.get(MODEL, "")),
    )


def _unescaped(model_id: str) -> str:
    try:
        return unescape(model_id)
    except ValueError:
        return ""


def is_for_another_life(message: Message, epoch: int) -> bool:
    """Whether a request is for another process of this node's name, which has begun at another epoch."""
    return message.headers.get(EPOCH, str(epoch)) != str(epoch)


async def tell(connection: Connection, token: str, told: Forwarded) -> None:
    """Tell the node that a request came from what becomes of it. What cannot be told is logged."""
    try:
        await connection.publish(token, _encode(told))
    except SuiteError as error:
        logger.debug("what became of a request from another node is not told: %s", error)


def given_back(error: SuiteError | None, node: str) -> Forwarded:
    """What a node tells of a request that it gives back. `error`: why, if it is not for want of its model."""
    return Forwarded(state="misplaced", error=None if error is None else error_reply(error, node=node))


async def hand_back(connection: Connection, token: str, told: Forwarded = _MISPLACED) -> bool:
    """Give a request back to the node that it came from. Returns whether it is not this node's any more.

    It still is if nobody listens for it. A node that does not answer may have it served elsewhere.
    """
    try:
        await connection.wait_connected(HAND_BACK_SECONDS)
        await connection.request(token, _encode(told), timeout=HAND_BACK_SECONDS)
    except NoService:
        logger.debug("nobody takes a request back")
        return False
    except SuiteError as error:
        logger.debug("whether a request is taken back is not known: %s", error)
    return True
