"""A node's part in the fleet: what it tells and hears, and which requests go to which node (ADR 57)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Final

import anyio
import msgspec

from suite.bus.connection import Connection, Message
from suite.catalogue import Catalogue
from suite.errors import SuiteError, error_from_reply
from suite.identity import Clock
from suite.log import Log
from suite.messages.presence import NodeState
from suite.messages.subjects import Subjects
from suite.node.fleet.peers import Peers
from suite.node.fleet.presence import Presence
from suite.node.fleet.routing import Routing
from suite.node.fleet.state import OwnState
from suite.node.supervisor import Supervisor
from suite.tasks import background

ASK_SECONDS: Final = 2.0
"""How long another node may take to answer for itself."""


class _Refusal(msgspec.Struct, frozen=True):
    """What is read of an answer to see whether it is an error."""

    status: str
    code: str = ""
    message: str = ""


_refusal_of = msgspec.json.Decoder(_Refusal).decode


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
            connection,
            subjects,
            self.own,
            self.peers,
            clock=clock,
            on_lost=self._lose,
            on_left=self._leave,
            on_cut_off=self._withdraw,
        )
        self.routing = Routing(
            node,
            epoch,
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

    async def stop(self) -> None:
        """Take no new work: the node stops. What it has goes on."""
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
        states = {**self.others}
        names = {name for name, state in states.items() if state.is_draining}
        return tuple(sorted(names | ({self._node} if self.own.is_draining else set())))

    @property
    def others(self) -> Mapping[str, NodeState]:
        """What the other nodes have told of themselves last, by name."""
        return self.peers.states

    async def ask(self, node: str, action: str, request: msgspec.Struct, *, seconds: float) -> bytes:
        """Have another node answer a request for itself. Raises its error, NoService or RequestTimeout."""
        subject = self._subjects.node(node, f"action.{action}")
        answer = await self._connection.request(subject, msgspec.json.encode(request), timeout=seconds)
        refusal = _refusal_of(answer.data)
        if refusal.status == "error":
            raise error_from_reply(refusal.code, refusal.message)
        return answer.data

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

    def _lose(self, node: str) -> None:
        self.routing.lose(node)

    def _leave(self, node: str) -> None:
        self.routing.leave(node)

    def _withdraw(self) -> None:
        self.routing.withdraw()
