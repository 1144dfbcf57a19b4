"""Finds the node that serves a request, and hands it over if that is another one (ADR 57)."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import anyio.abc
import msgspec

from suite.bus.arrival import Arrival
from suite.bus.connection import Connection, Message
from suite.bus.refusal import terminate
from suite.bus.service import Action
from suite.bus.subscription import Subscription
from suite.catalogue import Catalogue
from suite.domain.placement import NodeView, Placement, Wanted, place
from suite.errors import NodeLost, NodeNotFound, SuiteError
from suite.log import Log
from suite.messages.actions.base import Query
from suite.messages.presence import ForwardedState
from suite.messages.subjects import Subjects
from suite.node.fleet.forwarding import Forwarding, Sent, arrived, tell
from suite.node.fleet.peers import Peers, conversation_hash
from suite.node.fleet.presence import Presence
from suite.node.supervisor import Supervisor

logger = logging.getLogger("suite.fleet")

MOST_TRIES: Final = 3
"""On so many nodes a request is tried, before its client gets `node_lost`."""


class Routing:
    """Who serves what: the `Router` of a node's service."""

    def __init__(
        self,
        node: str,
        connection: Connection,
        subjects: Subjects,
        log: Log,
        *,
        catalogue: Catalogue,
        supervisor: Supervisor,
        peers: Peers,
        presence: Presence,
        tasks: anyio.abc.TaskGroup,
    ) -> None:
        self._node = node
        self._connection = connection
        self._subjects = subjects
        self._log = log
        self._catalogue = catalogue
        self._supervisor = supervisor
        self._peers = peers
        self._presence = presence
        self._forwarding = Forwarding(connection, subjects, tasks, self._again)
        self._serve: Callable[[Message], Awaitable[None]]
        self._arrivals: Subscription

    async def listen(self, serve: Callable[[Message], Awaitable[None]]) -> None:
        """Take requests from other nodes, and have them served as those of clients are."""
        self._serve = serve
        await self._forwarding.listen()
        prefix = self._subjects.node(self._node, "action.")

        async def arrive(message: Message) -> None:
            await serve(arrived(message, self._subjects.action(message.subject[len(prefix) :])))

        self._arrivals = await self._connection.listen(f"{prefix}>", arrive)

    async def stop(self) -> None:
        """Take no more requests from other nodes: they have them served elsewhere."""
        if hasattr(self, "_arrivals"):
            await self._arrivals.drain()

    def lose(self, node: str) -> None:
        """Have what a lost node had served elsewhere."""
        self._forwarding.lose(node)

    async def route(self, action: Action[Any], request: msgspec.Struct, message: Message) -> bool:
        """Hand a request over if another node serves it better, or is named in it. Returns whether it did.

        Raises NodeNotFound for a name that no node has, Unavailable and TooLarge.
        """
        if isinstance(message, Arrival):
            return await self._is_misplaced(action, request, message)
        named = getattr(request, "node", None)
        if named is not None and named != self._node:
            if named not in self._peers.states:
                raise NodeNotFound(self._unknown(named))
            await self._send(message, action, request, Placement(node=named, reason="named"))
            return True
        if not self._peers.states:
            return False
        if isinstance(request, Query):
            await self._log.catch_up()
        if action.route != "model" or named is not None:
            return False
        placement = self._placement(request)
        if placement is None or placement.node == self._node:
            self._note_conversation(request)
            self._presence.change()
            return False
        await self._send(message, action, request, placement)
        return True

    async def rescue(self, action: Action[Any], request: msgspec.Struct, message: Message) -> bool:
        """Hand a request over that this node cannot serve because it stops. Returns whether it did."""
        if isinstance(message, Arrival):
            await self._tell(message, "misplaced")
            return bool(message.token)
        if action.route != "model" or getattr(request, "node", None) is not None:
            return False
        placement = self._placement(request, excluded=frozenset({self._node}))
        if placement is None:
            return False
        await self._send(message, action, request, placement)
        return True

    async def end(self, message: Message, *, is_handed_over: bool) -> None:
        """Tell the node that a request came from that it is handed over, or has ended."""
        self._presence.change()
        if isinstance(message, Arrival):
            await self._tell(message, "handed_over" if is_handed_over else "ended")

    def views(self) -> Mapping[str, NodeView]:
        """All nodes that may get work, as they are decided about."""
        return self._peers.views(self._presence.view)

    def _placement(self, request: msgspec.Struct, excluded: frozenset[str] = frozenset()) -> Placement | None:
        asked = getattr(request, "model_id", None)
        if asked is None:
            return None
        model_id = self.id_of(asked)
        conversation_id = getattr(request, "conversation_id", None)
        holder = (
            self._peers.conversation_node(conversation_hash(model_id, conversation_id))
            if conversation_id is not None
            else ""
        )
        wanted = Wanted(model_id=model_id, conversation_node=holder, excluded=excluded)
        return place(wanted, self.views(), here=self._node)

    def id_of(self, id_or_alias: str) -> str:
        """The id of a model: as it is called here, or else on another node."""
        here = self._catalogue.canonical(id_or_alias)
        if here in self._catalogue.models or here in self._supervisor.instances:
            return here
        return self._peers.id_of(id_or_alias) or id_or_alias

    def _note_conversation(self, request: msgspec.Struct) -> None:
        conversation_id = getattr(request, "conversation_id", None)
        model_id = getattr(request, "model_id", None)
        if conversation_id is not None and model_id is not None:
            self._presence.note_conversation(conversation_hash(self.id_of(model_id), conversation_id))

    async def _send(
        self,
        message: Message,
        action: Action[Any],
        request: msgspec.Struct,
        placement: Placement,
        tried: frozenset[str] = frozenset(),
    ) -> None:
        sent = Sent(message, action, request, placement.node, tried | {placement.node})
        await self._forwarding.send(
            sent, last_seq=self._log.newest, instance_id=placement.instance_id, sha256=placement.sha256
        )
        if (model_id := getattr(request, "model_id", None)) is not None:
            self._peers.note_sent(placement.node, self.id_of(model_id))

    async def _again(self, sent: Sent) -> None:
        """Have a request served elsewhere that another node has not served."""
        try:
            await self._place_again(sent)
        except SuiteError as error:
            stream = getattr(sent.request, "stream", False)
            await terminate(self._connection, sent.message.reply, error, stream=stream, node=self._node)

    async def _place_again(self, sent: Sent) -> None:
        is_bound = sent.action.route != "model" or getattr(sent.request, "node", None) is not None
        if is_bound or len(sent.tried) >= MOST_TRIES:
            raise NodeLost
        placement = self._placement(sent.request, excluded=sent.tried)
        if placement is None or placement.node == self._node:
            # As if it came from another node: it is not routed again.
            await self._serve(Arrival(**msgspec.structs.asdict(sent.message), token=""))
        else:
            await self._send(sent.message, sent.action, sent.request, placement, sent.tried)

    async def _is_misplaced(self, action: Action[Any], request: msgspec.Struct, arrival: Arrival) -> bool:
        """Check whether what a request is for is still here. If not, the first node decides again."""
        self._log.see(arrival.last_seq)
        model_id = getattr(request, "model_id", None)
        if action.route != "model" or model_id is None:
            return False
        id = self._catalogue.canonical(model_id)
        instance, model = self._supervisor.instances.get(id), self._catalogue.models.get(id)
        is_gone = (
            instance is None or instance.instance_id != arrival.instance_id or instance.occupancy.leaving
        )
        known = instance.sha256 if instance is not None else None
        digest = known or (model.sha256 if model is not None else None)
        is_other = bool(arrival.sha256 and digest) and digest != arrival.sha256
        if (is_gone and arrival.instance_id) or is_other:
            await self._tell(arrival, "misplaced")
            return True
        self._note_conversation(request)
        self._presence.change()
        return False

    async def _tell(self, arrival: Arrival, state: ForwardedState) -> None:
        if arrival.token:
            await tell(self._connection, arrival.token, state)

    def _unknown(self, name: str) -> str:
        names = ", ".join(sorted({self._node, *self._peers.states}))
        return f"there is no node {name!r}: there are {names}"
