"""A node's part in the fleet: what it tells and hears, and which requests go to which node (ADR 57)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Final, TypeVar

import anyio
import msgspec

from suite.bus.connection import Connection, Message
from suite.catalogue import Catalogue
from suite.client.replies import read_reply
from suite.domain.nodes import Nodes
from suite.errors import SuiteError
from suite.identity import Clock
from suite.log import Log
from suite.messages.actions.base import Reply
from suite.messages.presence import NodeState
from suite.messages.subjects import Subjects
from suite.node.fleet.peers import Peers
from suite.node.fleet.presence import Presence
from suite.node.fleet.routing import Routing
from suite.node.fleet.state import OwnState
from suite.node.supervisor import Supervisor
from suite.tasks import background

R = TypeVar("R", bound=Reply)

ASK_SECONDS: Final = 2.0
"""How long another node may take to answer for itself."""


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
        supervisor: Supervisor,
        tasks: anyio.abc.TaskGroup,
        clock: Clock,
    ) -> None:
        self._node = node
        self._connection = connection
        self._subjects = subjects
        self.own = OwnState(node, epoch, supervisor, catalogue)
        self.peers = Peers(node, clock)
        self.presence = Presence(
            connection, subjects, self.own, self.peers, clock=clock, on_lost=self._lose, on_frozen=self._thaw
        )
        self.routing = Routing(
            node,
            connection,
            subjects,
            log,
            catalogue=catalogue,
            supervisor=supervisor,
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

    async def withdraw(self) -> None:
        """Take no new work: the node stops. What it has goes on."""
        self.own.is_draining = True
        self.presence.change()
        await self.routing.stop()

    @property
    def others(self) -> Mapping[str, NodeState]:
        """What the other nodes have told of themselves last, by name."""
        return self.peers.states

    async def ask_each(
        self, action: str, request: msgspec.Struct, *, seconds: float = ASK_SECONDS
    ) -> dict[str, bytes | SuiteError]:
        """Have each other node answer a request for itself. An error stands in the place of its answer."""
        answers: dict[str, bytes | SuiteError] = {}
        body = msgspec.json.encode(request)

        async def ask(node: str) -> None:
            subject = self._subjects.node(node, f"action.{action}")
            try:
                answers[node] = (await self._connection.request(subject, body, timeout=seconds)).data
            except SuiteError as error:
                answers[node] = error

        async with anyio.create_task_group() as tasks:
            for node in self.others:
                tasks.start_soon(ask, node)
        return answers

    async def ask(
        self,
        node: str,
        action: str,
        request: msgspec.Struct,
        kind: type[R],
        *,
        seconds: float = ASK_SECONDS,
    ) -> R:
        """Have one node, which may be this one, answer a request.

        Raises its error, or NoService, RequestTimeout, Unavailable where it does not answer.
        """
        subject = self._subjects.node(node, f"action.{action}")
        body = msgspec.json.encode(request)
        return read_reply((await self._connection.request(subject, body, timeout=seconds)).data, kind)

    def views(self) -> Nodes:
        """All nodes that may get work, as they are decided about."""
        return self.routing.views()

    def _lose(self, node: str) -> None:
        self.routing.lose(node)

    def _thaw(self) -> None:
        """This process was stopped for so long that others have its work."""
