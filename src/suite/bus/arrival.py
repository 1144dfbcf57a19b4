"""A request that came from another node, and the interface of what finds nodes for requests (ADR 57)."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Protocol

import msgspec

from suite.bus.wire import Message
from suite.errors import SuiteError


class Arrival(Message, frozen=True, kw_only=True):
    """A request as its client sent it, which another node has handed over."""

    is_for_client: bool
    """Whether a client waits for the answer, and not the other node itself."""
    token: str
    """The subject on which the first node hears what becomes of it; empty if nobody does."""
    last_seq: int = 0
    """The newest event that the first node knows of."""
    instance_id: str = ""
    """The instance that it is for; empty if the model is to be loaded first."""
    sha256: str = ""
    """The digest of the model's file; empty if it is not known."""
    model_id: str = ""
    """The id of the model, where the client has called it by a name that only some nodes know."""
    tried: frozenset[str] = frozenset()
    """Of a client's request that has come back to its first node: the nodes that have not served it."""


class Router(Protocol):
    """Finds the node that serves a request."""

    def resolve(self, action: Any, request: msgspec.Struct) -> msgspec.Struct:
        """A client's request with the model that it means, under the name that every node understands.

        Raises the error for a name that means nothing any more.
        """

    async def route(self, action: Any, request: msgspec.Struct, message: Message) -> bool:
        """Hand a request over to another node if that serves it better. Returns whether it did.

        Raises the error for a request that names a node which is not there.
        """

    async def rescue(self, action: Any, request: msgspec.Struct, message: Message, error: SuiteError) -> bool:
        """Hand a request over that this node cannot serve, though another may. Returns whether it did."""

    async def pass_on(self, message: Message) -> bool:
        """Have a request that nobody has begun taken by another node, since this one takes none any more.

        Returns whether there is one. A request of another node is given back to that instead.
        """

    async def give_back(self, message: Message) -> bool:
        """Give a request that is broken off back to the node that it came from, without waiting for that.

        Returns whether that node has it served elsewhere, so that its client must hear nothing from here.
        """

    def serving(self, arrival: Arrival) -> AbstractContextManager[None]:
        """A block in which this node works on another node's request.

        Raises NodeStopping if that one has it served elsewhere by now.
        """

    async def commit(self, message: Message, instance_id: str = "", generation_id: str = "") -> None:
        """Say that a request is answered now, or that the process of an instance is about to answer it.

        Raises NodeStopping for one that another node may have by now.
        """

    async def end(self, message: Message, *, is_handed_over: bool) -> None:
        """Note that this node has answered a request, or that a model's process answers it."""
