"""Brings each request to the node that serves it, and on to the next if that does not (ADR 57)."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, suppress
from typing import Any, Final

import anyio.abc
import msgspec

from suite.bus.arrival import Arrival
from suite.bus.connection import Connection, Message
from suite.bus.refusal import terminate
from suite.bus.service import Action
from suite.domain.placement import Placement
from suite.errors import NodeLost, NoService, Overloaded, SuiteError, TooLarge, Unavailable
from suite.log import Log
from suite.messages.actions.base import Query
from suite.messages.signals import Heartbeat
from suite.messages.subjects import Subjects
from suite.node.fleet.forwarding import Forwarding, Sent
from suite.node.fleet.model_names import ModelNames
from suite.node.fleet.peers import Peers
from suite.node.fleet.placements import Placements
from suite.node.fleet.presence import Presence
from suite.node.fleet.receiving import Receiving

logger = logging.getLogger("suite.fleet")

RECONNECT_SECONDS: Final = 2.0
"""How long a request that was read late waits for the connection to come back."""
ABANDONED_SECONDS: Final = 0.5
"""Within this time the server says that nobody waits for an answer."""

_HEARTBEAT: Final = msgspec.json.encode(Heartbeat())


class Routing:
    """Who serves what: the `Router` of a node's service."""

    def __init__(
        self,
        node: str,
        connection: Connection,
        subjects: Subjects,
        log: Log,
        *,
        names: ModelNames,
        placements: Placements,
        receiving: Receiving,
        peers: Peers,
        presence: Presence,
        tasks: anyio.abc.TaskGroup,
    ) -> None:
        self._node = node
        self._connection = connection
        self._log = log
        self._names = names
        self._placements = placements
        self._receiving = receiving
        self._peers = peers
        self._presence = presence
        self._forwarding = Forwarding(connection, subjects, tasks, self._again, self._give_up)
        self._serve: Callable[[Message], Awaitable[None]]

    async def listen(self, serve: Callable[[Message], Awaitable[None]]) -> None:
        """Take requests from other nodes, and have them served as those of clients are."""
        self._serve = serve
        await self._forwarding.listen()
        await self._receiving.listen(serve)

    async def stop(self) -> None:
        """Take no more requests from other nodes: they have them served elsewhere."""
        await self._receiving.stop()

    async def settle(self) -> None:
        """Wait until no other node can give anything back that this one has forwarded."""
        await self._forwarding.settle()

    def lose(self, node: str) -> None:
        """Have what waited on a lost node served elsewhere."""
        self._forwarding.lose(node)

    def leave(self, node: str) -> None:
        """Have what waited on a node that stops served elsewhere."""
        self._forwarding.leave(node)

    def withdraw(self) -> None:
        """Give back what other nodes have sent and nobody answers yet: by now they have it served elsewhere.

        This node was cut off, so it does not send again either what it has sent to them.
        """
        self._forwarding.doubt()
        self._receiving.withdraw()

    def resolve(self, action: Action[Any], request: msgspec.Struct) -> msgspec.Struct:
        """A client's request with the model that it means, under the name that every node understands.

        Raises VersionNotFound, and VersionGone for one that would need the content of a version.
        """
        return self._names.resolved(action, request, self._placements.views)

    async def route(self, action: Action[Any], request: msgspec.Struct, message: Message) -> bool:
        """Hand a request over if another node serves it better, or is named in it. Returns whether it did.

        Raises NodeNotFound for a name that no node has, NodeLost for one that is lost, Unavailable, TooLarge
        and Overloaded.
        """
        if isinstance(message, Arrival):
            return await self._receiving.return_misplaced(action, request, message)
        if self._presence.is_cut_off and await self._is_abandoned(request, message):
            return True
        named = getattr(request, "node", None)
        elsewhere: str = named if named is not None and named != self._node else ""
        if elsewhere and elsewhere not in self._peers.states:
            raise self._peers.refusal(elsewhere)
        if not self._peers.states and self._presence.is_acquainted:
            return False
        if isinstance(request, Query):
            await self._log.catch_up()
        if elsewhere:
            await self._send(message, action, request, Placement(node=elsewhere, reason="named"))
            return True
        if action.route == "model":
            return await self._is_placed_elsewhere(action, request, message)
        return False

    async def _is_abandoned(self, request: msgspec.Struct, message: Message) -> bool:
        """Whether nobody waits for the answer of a request any more that was read late.

        It is asked by a signal, so only of who gets signals. The connection may have to come back first.
        """
        with suppress(Unavailable):
            await self._connection.wait_connected(RECONNECT_SECONDS)
        if not getattr(request, "stream", False) or not message.reply:
            return False
        try:
            await self._connection.request(message.reply, _HEARTBEAT, timeout=ABANDONED_SECONDS)
        except NoService:
            return True
        except SuiteError:
            return False  # who is there does not answer a signal
        return False

    async def _is_placed_elsewhere(
        self, action: Action[Any], request: msgspec.Struct, message: Message
    ) -> bool:
        """Hand a request over if another node serves its model better. Returns whether it did."""
        is_bound = getattr(request, "node", None) is not None
        placement = None if is_bound else await self._placements.first(request)
        if placement is not None and placement.node != self._node:
            try:
                await self._send(message, action, request, placement)
            except (TooLarge, Overloaded):
                if not self._is_here(request):
                    raise
            else:
                return True
        self._presence.change()
        return False

    def _is_here(self, request: msgspec.Struct) -> bool:
        """Whether this node has the model of a request."""
        model_id = getattr(request, "model_id", None)
        return model_id is not None and self._names.is_here(model_id)

    async def rescue(
        self, action: Action[Any], request: msgspec.Struct, message: Message, error: SuiteError
    ) -> bool:
        """Hand a request over that this node cannot serve, though another may. Returns whether it did."""
        if isinstance(message, Arrival) and not message.tried:
            return await self._receiving.hand_back(message, error)
        tried = message.tried if isinstance(message, Arrival) else frozenset[str]()
        return await self._is_sent_on(action, request, message, tried | {self._node})

    async def _is_sent_on(
        self, action: Action[Any], request: msgspec.Struct, message: Message, tried: frozenset[str]
    ) -> bool:
        """Hand a client's request over that these nodes could not serve. Returns whether it did."""
        placement = self._placements.next(action, request, tried)
        if placement is None:
            return False
        try:
            await self._send(message, action, request, placement, tried)
        except SuiteError as error:
            logger.debug("a request cannot be sent on: %s", error)
            return False
        return True

    async def pass_on(self, message: Message) -> bool:
        """Have a request that nobody has begun taken by another node, since this one takes none any more.

        Returns whether there is one. A request of another node is given back to that instead.
        """
        if isinstance(message, Arrival) or all(each.is_draining for each in self._peers.states.values()):
            return False
        try:
            await self._connection.publish(
                message.subject, message.data, headers=message.headers, reply=message.reply
            )
        except SuiteError as error:
            logger.debug("a request cannot be passed on: %s", error)
            return False
        return True

    async def give_back(self, message: Message) -> bool:
        """Give a request that is broken off back to the node that it came from, without waiting for that.

        Returns whether that node has it served elsewhere, so that its client must hear nothing from here.
        """
        return await self._receiving.give_back(message)

    def serving(self, arrival: Arrival) -> AbstractContextManager[None]:
        """A block in which this node works on another node's request.

        Raises NodeStopping if that one has it served elsewhere by now.
        """
        return self._receiving.serving(arrival)

    async def commit(self, message: Message, instance_id: str = "", generation_id: str = "") -> None:
        """Say that a request is answered now, or that the process of an instance is about to answer it.

        Raises NodeStopping for one that another node may have by now.
        """
        await self._receiving.commit(message, instance_id, generation_id)

    async def end(self, message: Message, *, is_handed_over: bool) -> None:
        """Tell the node that a request came from that it has ended, unless a model's process answers it."""
        await self._receiving.end(message, is_handed_over=is_handed_over)

    # --- what goes to other nodes ---------------------------------------------------------------------------

    async def _send(
        self,
        message: Message,
        action: Action[Any],
        request: msgspec.Struct,
        placement: Placement,
        tried: frozenset[str] = frozenset(),
    ) -> None:
        node, asked = placement.node, getattr(request, "model_id", None)
        model_id = self._names.id_of(asked) if asked is not None else ""
        sent = Sent(message, action, request, node, tried | {node})
        try:
            await self._forwarding.send(
                sent,
                epoch=self._peers.states[node].epoch,
                last_seq=self._log.newest,
                instance_id=placement.instance_id,
                sha256=placement.sha256,
                model_id=self._names.sent_name(asked),
            )
        except TooLarge as error:
            raise TooLarge(
                f"with what is added to send it on to node {node}, {error.message}: send less, or send it to "
                "a node that has the model"
            ) from None
        if model_id:
            self._peers.note_sent(node, model_id)

    async def _again(self, sent: Sent, reason: SuiteError) -> None:
        """Have a request served elsewhere that another node has not served, for this reason."""
        try:
            await self._place_again(sent, reason)
        except SuiteError as error:
            await self._refuse(sent, error)

    async def _place_again(self, sent: Sent, reason: SuiteError) -> None:
        """Have a request served by another node. Raises the reason if there is none."""
        placement = self._placements.next(sent.action, sent.request, sent.tried)
        if placement is None:
            raise reason
        if placement.node == self._node:
            await self._serve_here(sent)
        else:
            await self._send(sent.message, sent.action, sent.request, placement, sent.tried)

    async def _serve_here(self, sent: Sent) -> None:
        """Serve a request that others could not. As if it came from another node, it is not routed again."""
        message, asked = sent.message, getattr(sent.request, "model_id", None)
        await self._serve(
            Arrival(
                subject=message.subject,
                data=message.data,
                headers=message.headers,
                reply=message.reply,
                is_for_client=True,
                token="",
                model_id=asked if asked is not None else "",
                tried=sent.tried,
            )
        )

    async def _give_up(self, sent: Sent) -> None:
        """End a request that was lost with its node while that answered it."""
        await self._refuse(
            sent, NodeLost(f"node {sent.node} was lost while it answered: send the request again")
        )

    async def _refuse(self, sent: Sent, error: SuiteError) -> None:
        stream = getattr(sent.request, "stream", False)
        await terminate(self._connection, sent.message.reply, error, stream=stream, node=self._node)
