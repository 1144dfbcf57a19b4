"""A node's part in the fleet: what it tells and hears, and which requests go to which node (ADR 57)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Final, TypeVar

import anyio
import msgspec

from suite import telemetry
from suite.bus.connection import Connection, Message
from suite.catalogue import Catalogue
from suite.client.replies import read_reply
from suite.domain.nodes import Nodes
from suite.domain.spreading import spread
from suite.errors import NodeLost, SuiteError
from suite.identity import Clock, NewId
from suite.log import Log
from suite.messages.actions.base import Reply, Request
from suite.messages.presence import NodeState
from suite.messages.subjects import Subjects
from suite.node.fleet.inventory import Inventory
from suite.node.fleet.model_names import ModelNames
from suite.node.fleet.peers import Peers, conversation_hash
from suite.node.fleet.placements import Placements
from suite.node.fleet.presence import Presence
from suite.node.fleet.receiving import Receiving
from suite.node.fleet.routing import Routing
from suite.node.fleet.state import OwnState
from suite.node.supervisor import Supervisor
from suite.node.versions import Names
from suite.tasks import background

ASK_SECONDS: Final = 1.5
"""How long another node may take to answer for itself. Probes of the gateway wait half a second longer."""

R = TypeVar("R", bound=Reply)


class Fleet:
    """The other nodes, as this one works with them."""

    def __init__(
        self,
        node: str,
        epoch: int,
        *,
        connection: Connection,
        subjects: Subjects,
        log: Log,
        catalogue: Catalogue,
        names: Names,
        supervisor: Supervisor,
        tasks: anyio.abc.TaskGroup,
        new_id: NewId,
        clock: Clock,
        has_models: bool = True,
    ) -> None:
        """`has_models`: whether this node serves models at all."""
        self._node = node
        self._connection = connection
        self._subjects = subjects
        self._asking: dict[str, set[anyio.CancelScope]] = {}
        """The requests that each node has not answered."""
        self.own = OwnState(node, epoch, supervisor, catalogue, clock=clock, has_models=has_models)
        self.peers = Peers(node, clock)
        self.inventory = Inventory(node, self.own, self.peers)
        self.presence = Presence(
            connection,
            subjects,
            self.own,
            self.peers,
            on_lost=self._lose,
            on_left=self._leave,
            on_cut_off=self._withdraw,
        )
        self._names = ModelNames(catalogue, names, supervisor, self.peers, new_id)
        self._placements = Placements(node, self._names, self.peers, self.presence)
        receiving = Receiving(
            node,
            epoch,
            connection,
            subjects,
            log,
            catalogue=catalogue,
            supervisor=supervisor,
            placements=self._placements,
            presence=self.presence,
            tasks=tasks,
        )
        self.routing = Routing(
            node,
            connection,
            subjects,
            log,
            names=self._names,
            placements=self._placements,
            receiving=receiving,
            peers=self.peers,
            presence=self.presence,
            tasks=tasks,
        )
        supervisor.admission.on_change = self.presence.change

    @asynccontextmanager
    async def joined(self) -> AsyncIterator[None]:
        """Tell and hear during the block."""
        async with background() as tasks:
            await tasks.start(self.presence.run)
            yield

    async def serve(self, serve: Callable[[Message], Awaitable[None]]) -> None:
        """Take requests from other nodes, and have them served as those of clients are."""
        await self.routing.listen(serve)
        self.own.is_serving = True
        self.presence.change()

    async def stop(self) -> None:
        """Take nothing from other nodes any more: the node stops. What it has goes on."""
        self.own.is_stopping = True
        self.take_work(False)
        await self.routing.stop()

    async def settle(self) -> None:
        """Wait until no other node can give anything back that this one has forwarded."""
        await self.routing.settle()

    def take_work(self, is_taken: bool) -> None:
        """Have the others send new work here, or not."""
        self.own.is_draining = not is_taken
        self.presence.change()

    @property
    def draining(self) -> tuple[str, ...]:
        """The nodes that take no new work, this one too."""
        names = {name for name, state in self.others.items() if state.is_draining}
        return tuple(sorted(names | ({self._node} if self.own.is_draining else set())))

    @property
    def stopping(self) -> tuple[str, ...]:
        """The other nodes that end what they have and answer nothing any more."""
        return tuple(sorted(name for name, state in self.others.items() if state.is_stopping))

    @property
    def answering(self) -> tuple[str, ...]:
        """The other nodes that answer what they are asked: all but those that stop."""
        return tuple(name for name, state in self.others.items() if not state.is_stopping)

    @property
    def others(self) -> Mapping[str, NodeState]:
        """What the other nodes have told of themselves last, by name."""
        return self.peers.states

    def former_node(self, model_id: str, conversation_id: str | None) -> str:
        """The other node that a conversation came to last, there or not; empty if it was this one or none."""
        if conversation_id is None:
            return ""
        return self.peers.former_node(conversation_hash(model_id, conversation_id))

    def note_conversation(self, model_id: str, conversation_id: str | None) -> None:
        """Note that a conversation has come here, as a model's process has accepted its next turn."""
        if conversation_id is None:
            return
        conversation = conversation_hash(model_id, conversation_id)
        if self.others or self.peers.former_node(conversation):
            self.presence.note_conversation(conversation)

    def spread(self, model_ids: Iterable[str]) -> dict[str, list[str]]:
        """Which node loads which of these models, by id or alias, so that all are where they are best."""
        asked = {self.canonical(each): each for each in model_ids}
        placed = spread(asked, self.views(), here=self._node)
        return {node: [asked[each] for each in ids] for node, ids in placed.items()}

    def canonical(self, id_or_alias: str) -> str:
        """The id of a model: as it is called here, or else on another node."""
        return self._names.id_of(id_or_alias)

    def has(self, id_or_alias: str) -> bool:
        """Whether this node or another one has a model."""
        return self._names.has(id_or_alias)

    def meant(self, id_or_alias: str) -> str:
        """What a name stands for: the id of a model, or the name of one with adapters, here or elsewhere.

        Models are evaluated under it.
        """
        return self._names.meant(id_or_alias)

    def chats(self, id_or_alias: str) -> bool | None:
        """Whether a model takes chats, as it has a chat template; None: no node could load it."""
        offers = self.views().offering(self.canonical(id_or_alias))
        return any(each.offered.chats for each in offers) if offers else None

    async def ask_each(
        self,
        action: str,
        requests: Mapping[str, Request],
        kind: type[R],
        *,
        headers: Mapping[str, str],
        seconds: float = ASK_SECONDS,
    ) -> dict[str, R | SuiteError]:
        """Have other nodes answer requests for themselves, each its own, by node.

        The error stands in the place of an answer: RequestTimeout after `seconds`, NodeLost, or the node's.
        """
        answers: dict[str, R | SuiteError] = {}

        async def ask(node: str, request: Request) -> None:
            try:
                answers[node] = await self.ask(node, action, request, kind, headers=headers, seconds=seconds)
            except SuiteError as error:
                answers[node] = error

        async with anyio.create_task_group() as tasks:
            for node, request in requests.items():
                tasks.start_soon(ask, node, request)
        return answers

    async def ask(
        self,
        node: str,
        action: str,
        request: Request,
        kind: type[R],
        *,
        headers: Mapping[str, str] = {},
        seconds: float = ASK_SECONDS,
    ) -> R:
        """Have one node, which may be this one, answer a request for itself.

        Raises its error, or NodeLost, NoService, RequestTimeout, Unavailable where it does not answer.
        """
        subject, body = self._subjects.node(node, f"action.{action}"), msgspec.json.encode(request)
        with anyio.CancelScope() as scope:
            scopes = self._asking.setdefault(node, set())
            scopes.add(scope)
            try:
                with telemetry.sending("send", self._subjects.every_node(f"action.{action}"), subject):
                    traced = {**headers, **telemetry.trace_headers()}
                    answer = await self._connection.request(subject, body, headers=traced, timeout=seconds)
            finally:
                scopes.discard(scope)
                if not scopes and self._asking.get(node) is scopes:
                    del self._asking[node]
            return read_reply(answer.data, kind)
        raise NodeLost(f"node {node} was lost before it answered")

    def views(self) -> Nodes:
        """All nodes that may get work, as they are decided about."""
        return self._placements.views()

    def _lose(self, node: str) -> None:
        for scope in self._asking.pop(node, ()):
            scope.cancel()
        self.routing.lose(node)

    def _leave(self, node: str) -> None:
        self.routing.leave(node)

    def _withdraw(self) -> None:
        self.routing.withdraw()
