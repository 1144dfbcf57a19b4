"""Finds the node that serves a request, and hands it over if that is another one (ADR 57)."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, Final

import anyio
import anyio.abc
import msgspec

from suite.bus.arrival import Arrival
from suite.bus.connection import Connection, Message
from suite.bus.refusal import terminate
from suite.bus.service import Action
from suite.bus.subscription import Subscription
from suite.catalogue import Catalogue
from suite.catalogue.variants import choices
from suite.domain.nodes import Nodes
from suite.domain.placement import Placement, Wanted, place
from suite.errors import (
    NodeLost,
    NodeStopping,
    NoService,
    Overloaded,
    SuiteError,
    TooLarge,
    Unavailable,
    VersionGone,
)
from suite.identity import NewId
from suite.log import Log
from suite.messages.actions.base import Query
from suite.messages.actions.generation import GenerateTextRequest
from suite.messages.actions.transfers import PushModelRequest
from suite.messages.presence import Forwarded, GetArrivals, KnownArrivals
from suite.messages.signals import Heartbeat
from suite.messages.subjects import Subjects
from suite.node.fleet.arrivals import Arrivals
from suite.node.fleet.forwarding import (
    ARRIVALS,
    Forwarding,
    Sent,
    arrived,
    given_back,
    hand_back,
    is_for_another_life,
    tell,
)
from suite.node.fleet.peers import Peers, conversation_hash
from suite.node.fleet.presence import Presence
from suite.node.supervisor import Supervisor
from suite.node.versions import Names

logger = logging.getLogger("suite.fleet")

MOST_TRIES: Final = 3
"""On so many nodes a request is tried, before its client gets `node_lost`."""
RECONNECT_SECONDS: Final = 2.0
"""How long a request that was read late waits for the connection to come back."""
ABANDONED_SECONDS: Final = 0.5
"""Within this time the server says that nobody waits for an answer."""

_WORK: Final = frozenset({"generate_text", "embed", "rerank"})
"""The actions of which a version gets its share while it is tried. All else is about what serves."""
_ENDED: Final = Forwarded(state="ended")
_HEARTBEAT: Final = msgspec.json.encode(Heartbeat())
_asked_for = msgspec.json.Decoder(GetArrivals).decode
_encode = msgspec.json.Encoder().encode


class Routing:
    """Who serves what: the `Router` of a node's service."""

    def __init__(
        self,
        node: str,
        epoch: int,
        connection: Connection,
        subjects: Subjects,
        log: Log,
        *,
        catalogue: Catalogue,
        names: Names,
        supervisor: Supervisor,
        peers: Peers,
        presence: Presence,
        tasks: anyio.abc.TaskGroup,
        new_id: NewId,
    ) -> None:
        self._node = node
        self._epoch = epoch
        self._connection = connection
        self._subjects = subjects
        self._log = log
        self._catalogue = catalogue
        self._names = names
        self._supervisor = supervisor
        self._peers = peers
        self._presence = presence
        self._tasks = tasks
        self._new_id = new_id
        self._forwarding = Forwarding(connection, subjects, tasks, self._again, self._give_up)
        self._arrivals = Arrivals()
        supervisor.on_answered = self._answered
        self._serve: Callable[[Message], Awaitable[None]]
        self._listening: Subscription | None = None

    async def listen(self, serve: Callable[[Message], Awaitable[None]]) -> None:
        """Take requests from other nodes, and have them served as those of clients are."""
        self._serve = serve
        await self._forwarding.listen()
        prefix = self._subjects.node(self._node, "action.")

        async def arrive(message: Message) -> None:
            if is_for_another_life(message, self._epoch):
                logger.debug("a request is for another process of this name: %s", message.subject)
                return
            arrival = arrived(message, self._subjects.action(message.subject[len(prefix) :]))
            self._arrivals.take(arrival.token)
            await serve(arrival)

        await self._connection.listen(self._subjects.node(self._node, ARRIVALS), self._tell_arrivals)
        self._listening = await self._connection.listen(f"{prefix}>", arrive)

    async def stop(self) -> None:
        """Take no more requests from other nodes: they have them served elsewhere."""
        if self._listening is not None:
            await self._listening.drain()

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
        self._arrivals.withdraw()

    def resolve(self, action: Action[Any], request: msgspec.Struct) -> msgspec.Struct:
        """A client's request with the model that it means, under the name that every node understands.

        Raises VersionNotFound, and VersionGone for one that would need the content of a version.
        """
        asked = getattr(request, "model_id", None)
        if not isinstance(asked, str):
            return request
        try:
            resolved = self._names.resolved(asked, partial(self._share_key, request, action.name), self.views)
        except VersionGone:
            if action.route == "model":
                raise
            resolved = self._names.model_of(asked)
        return request if resolved == asked else msgspec.structs.replace(request, model_id=resolved)

    async def route(self, action: Action[Any], request: msgspec.Struct, message: Message) -> bool:
        """Hand a request over if another node serves it better, or is named in it. Returns whether it did.

        Raises NodeNotFound for a name that no node has, NodeLost for one that is lost, Unavailable, TooLarge
        and Overloaded.
        """
        if isinstance(message, Arrival):
            return await self._return(action, request, message)
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

    async def _is_placed_elsewhere(
        self, action: Action[Any], request: msgspec.Struct, message: Message
    ) -> bool:
        """Hand a request over if another node serves its model better. Returns whether it did."""
        is_bound = getattr(request, "node", None) is not None
        placement = None if is_bound else await self._settled_placement(request)
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

    async def rescue(
        self, action: Action[Any], request: msgspec.Struct, message: Message, error: SuiteError
    ) -> bool:
        """Hand a request over that this node cannot serve, though another may. Returns whether it did."""
        if isinstance(message, Arrival) and not message.tried:
            return await self._hand_back(message, error)
        tried = message.tried if isinstance(message, Arrival) else frozenset[str]()
        return await self._is_sent_on(action, request, message, tried | {self._node})

    async def _is_sent_on(
        self, action: Action[Any], request: msgspec.Struct, message: Message, tried: frozenset[str]
    ) -> bool:
        """Hand a client's request over that these nodes could not serve. Returns whether it did."""
        placement = self._next_placement(action, request, tried)
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

    async def _hand_back(self, arrival: Arrival, error: SuiteError | None = None) -> bool:
        """Give a request back to the node that it came from. Returns whether it is no more this node's."""
        if not arrival.token:
            return False
        told = given_back(error, self._node)
        is_gone = await hand_back(self._connection, arrival.token, told)
        is_gone = is_gone or self._arrivals.is_withdrawn(arrival.token)
        if is_gone:
            self._arrivals.end(arrival.token)
        return is_gone

    async def give_back(self, message: Message) -> bool:
        """Give a request that is broken off back to the node that it came from, without waiting for that.

        Returns whether that node has it served elsewhere, so that its client must hear nothing from here.
        """
        if not isinstance(message, Arrival) or not message.token:
            return False
        if self._arrivals.is_handed_over(message.token):
            return False
        self._arrivals.end(message.token)
        await tell(self._connection, message.token, given_back(NodeStopping(), self._node))
        return True

    @contextmanager
    def serving(self, arrival: Arrival) -> Iterator[None]:
        """A block in which this node works on another node's request.

        Raises NodeStopping if that one has it served elsewhere by now.
        """
        if not arrival.token:
            yield
            return
        with self._arrivals.withdrawable(arrival.token) as scope:
            yield
        if scope.cancelled_caught:
            raise self._cut_off(arrival)

    async def commit(self, message: Message, instance_id: str = "", generation_id: str = "") -> None:
        """Say that a request is answered now, or that the process of an instance is about to answer it.

        Raises NodeStopping for one that another node may have by now.
        """
        if not isinstance(message, Arrival) or not message.token:
            return
        scope = self._arrivals.close(message.token)
        if scope is not None and (scope.cancel_called or self._presence.is_cut_off):
            raise self._cut_off(message)
        if generation_id:
            told = Forwarded(state="handed_over", instance_id=instance_id, generation_id=generation_id)
            self._arrivals.hand_over(message.token, told)
            await tell(self._connection, message.token, told)

    async def end(self, message: Message, *, is_handed_over: bool) -> None:
        """Tell the node that a request came from that it has ended, unless a model's process answers it."""
        self._presence.change()
        if isinstance(message, Arrival) and message.token and not is_handed_over:
            self._arrivals.end(message.token)
            await tell(self._connection, message.token, _ENDED)

    def _cut_off(self, arrival: Arrival) -> NodeStopping:
        """The error that has a request given up, of which its client must not hear."""
        self._arrivals.note_withdrawn(arrival.token)
        return NodeStopping("this node was cut off: others may have the request by now")

    def _answered(self, generation_id: str) -> None:
        """Tell the node that a generation came from that its client has the last message."""
        if (token := self._arrivals.end_generation(generation_id)) is not None:
            self._tasks.start_soon(tell, self._connection, token, _ENDED)

    async def _tell_arrivals(self, message: Message) -> None:
        """Tell another node which of its requests are here."""
        try:
            known = KnownArrivals(requests=self._arrivals.known(_asked_for(message.data).tokens))
            await self._connection.publish(message.reply, _encode(known))
        except (SuiteError, msgspec.MsgspecError) as error:
            logger.debug("which requests are here is not told: %s", error)

    def views(self) -> Nodes:
        """All nodes that may get work, as they are decided about."""
        return self._peers.views(self._presence.view)

    async def _settled_placement(self, request: msgspec.Struct) -> Placement | None:
        """Where a request is to be served. What nobody seems to have, a node that has just come may have."""
        placement = self._placement(request)
        if placement is None and not self._presence.is_acquainted:
            await self._presence.acquaint()
            placement = self._placement(request)
        return placement

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
        wanted = Wanted(
            model_id=model_id,
            conversation_node=holder,
            continues=getattr(request, "continue_", False),
            excluded=excluded | self._without(model_id, self._needed_names(request)),
            needs_projector=_needs_projector(request),
            needs_draft=isinstance(request, PushModelRequest),
        )
        views = self.views()
        if (version := self._names.version(asked)) is not None:
            others = views.keys() - set(self._names.nodes(version))
            wanted = msgspec.structs.replace(wanted, excluded=wanted.excluded | others)
        return place(wanted, views, here=self._node)

    def _next_placement(
        self, action: Action[Any], request: msgspec.Struct, tried: frozenset[str]
    ) -> Placement | None:
        """Where a request goes that these nodes could not serve. None if it ends here."""
        if getattr(request, "node", None) is not None or len(tried) >= MOST_TRIES:
            return None
        if action.route == "model":
            return self._placement(request, excluded=tried)
        able = (each.node for each in self._peers.states.values() if not each.is_draining)
        other = next((node for node in able if node not in tried), None)
        return Placement(node=other, reason="any") if other is not None else None

    def id_of(self, id_or_alias: str) -> str:
        """The id of a model: as it is called here, or else on another node."""
        asked = self._names.model_of(id_or_alias)
        here = self._catalogue.canonical(asked)
        if self._has(here):
            return here
        return self._peers.id_of(asked) or asked

    def meant(self, id_or_alias: str) -> str:
        """What a name stands for: the id of a model, or the name of one with adapters."""
        if self._says_adapters(id_or_alias):
            return self._names.model_of(id_or_alias)
        return self.id_of(id_or_alias)

    def _share_key(self, request: msgspec.Struct, action: str) -> str:
        """By what it is decided whether a request belongs to a share: a conversation stays where it is."""
        if action not in _WORK:
            return ""
        chosen = getattr(request, "conversation_id", None) or getattr(request, "generation_id", None)
        return chosen or self._new_id()

    def has(self, id_or_alias: str) -> bool:
        """Whether this node or another one has a model."""
        asked = self._names.model_of(id_or_alias)
        return self._has(self._catalogue.canonical(asked)) or self._peers.id_of(asked) is not None

    def _needed_names(self, request: msgspec.Struct) -> frozenset[str]:
        """What a node must have for a request besides its model: adapters, and a name that says them."""
        asked = getattr(request, "model_id", "")
        names = {each.id for each in choices(getattr(request, "adapters", ()))}
        return frozenset(names | {self._names.model_of(asked)} if self._says_adapters(asked) else names)

    def _without(self, model_id: str, names: frozenset[str]) -> frozenset[str]:
        """The nodes that have a model without these adapters."""
        if not names:
            return frozenset()
        return frozenset(
            node
            for node, view in self.views().items()
            if (offered := view.offered.get(model_id)) is None or not names <= offered.adapters
        )

    def _says_adapters(self, asked: str) -> bool:
        """Whether what a request calls its model says adapters too, here or on other nodes."""
        name = self._names.model_of(asked)
        if self._catalogue.variant(name) is not None:
            return True
        here = self._catalogue.canonical(name)
        return here == name and not self._has(here) and self._peers.stands_for(name) is not None

    def _has(self, model_id: str) -> bool:
        return model_id in self._catalogue.models or model_id in self._supervisor.instances

    def _is_here(self, request: msgspec.Struct) -> bool:
        """Whether this node has the model of a request."""
        model_id = getattr(request, "model_id", None)
        return model_id is not None and self._has(self._catalogue.canonical(model_id))

    async def _send(
        self,
        message: Message,
        action: Action[Any],
        request: msgspec.Struct,
        placement: Placement,
        tried: frozenset[str] = frozenset(),
    ) -> None:
        node, asked = placement.node, getattr(request, "model_id", None)
        model_id = self.id_of(asked) if asked is not None else ""
        sent = Sent(message, action, request, node, tried | {node})
        try:
            await self._forwarding.send(
                sent,
                epoch=self._peers.states[node].epoch,
                last_seq=self._log.newest,
                instance_id=placement.instance_id,
                sha256=placement.sha256,
                model_id=self._sent_name(asked, model_id),
            )
        except TooLarge as error:
            raise TooLarge(
                f"with what is added to send it on to node {node}, {error.message}: send less, or send it to "
                "a node that has the model"
            ) from None
        if model_id:
            self._peers.note_sent(node, model_id)

    def _sent_name(self, asked: str | None, model_id: str) -> str:
        """What the model is called where a request is sent on; empty: as the request calls it."""
        if asked is None:
            return ""
        if (version := self._names.version(asked)) is not None:
            return version.name
        return asked if self._says_adapters(asked) else model_id

    async def _again(self, sent: Sent, reason: SuiteError) -> None:
        """Have a request served elsewhere that another node has not served, for this reason."""
        try:
            await self._place_again(sent, reason)
        except SuiteError as error:
            await self._refuse(sent, error)

    async def _give_up(self, sent: Sent) -> None:
        """End a request that was lost with its node while that answered it."""
        await self._refuse(
            sent, NodeLost(f"node {sent.node} was lost while it answered: send the request again")
        )

    async def _refuse(self, sent: Sent, error: SuiteError) -> None:
        stream = getattr(sent.request, "stream", False)
        await terminate(self._connection, sent.message.reply, error, stream=stream, node=self._node)

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

    async def _place_again(self, sent: Sent, reason: SuiteError) -> None:
        """Have a request served by another node. Raises the reason if there is none."""
        placement = self._next_placement(sent.action, sent.request, sent.tried)
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

    def _is_still_best(self, request: msgspec.Struct) -> bool:
        """Whether a request would be served here though the instance that it is for is gone.

        Given back, it would be served anywhere but here, where others that come now are served: twice loaded.
        """
        placement = self._placement(request)
        return placement is not None and placement.node == self._node

    async def _return(self, action: Action[Any], request: msgspec.Struct, arrival: Arrival) -> bool:
        """Give a request back if what it is for is not here any more. Returns whether it did.

        That also holds for what was read late: the first node has it served elsewhere, or will.
        """
        self._log.see(arrival.last_seq)
        if arrival.token and (self._presence.is_cut_off or self._arrivals.is_withdrawn(arrival.token)):
            await self._hand_back(arrival)
            self._arrivals.end(arrival.token)
            return True
        if action.route != "model" or getattr(request, "model_id", None) is None:
            return False
        if self._is_for_something_else(request, arrival):
            return await self._hand_back(arrival)
        self._presence.change()
        return False

    def _is_for_something_else(self, request: msgspec.Struct, arrival: Arrival) -> bool:
        """Whether the instance or the file that a request was sent here for is not here any more."""
        model_id = getattr(request, "model_id", "")
        id = self._catalogue.canonical(model_id)
        instance, model = self._supervisor.instances.get(id), self._catalogue.models.get(id)
        is_gone = (
            instance is None or instance.instance_id != arrival.instance_id or instance.occupancy.leaving
        )
        known = instance.sha256 if instance is not None else None
        digest = known or (model.sha256 if model is not None else None)
        is_other = bool(arrival.sha256 and digest) and digest != arrival.sha256
        is_elsewhere = bool(is_gone and arrival.instance_id) and not self._is_still_best(request)
        return is_elsewhere or is_other


def _needs_projector(request: msgspec.Struct) -> bool:
    """Whether a request brings pictures, or is about all files of a model."""
    if isinstance(request, GenerateTextRequest):
        return any(each.has_pictures for each in request.messages or ())
    return isinstance(request, PushModelRequest)
