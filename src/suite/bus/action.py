"""Declares actions, which clients call by name: each is a typed function.

@action("health_check")
async def health_check(node: Node, request: HealthCheckRequest, call: Call) -> HealthCheckReply: ...
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from functools import cached_property
from typing import Any, Generic, Literal, TypeAlias, TypeVar, get_type_hints

import anyio
import msgspec

from suite.bus.absence import Absence
from suite.bus.connection import Connection
from suite.bus.decoding import Shape
from suite.identity import NewId
from suite.messages.actions.base import CLIENT_HEADER
from suite.messages.signals import Signal

T = TypeVar("T")
R = TypeVar("R", bound=msgspec.Struct)

Commit: TypeAlias = Callable[[str, str], Awaitable[None]]
"""Says that the process of an instance is about to answer a generation, both by their ids."""

Route: TypeAlias = Literal["any", "model", "each"]
"""Who serves a request: any node, the one that is best for its model, or each, and one gathers it all."""

_NAME_LIMIT = 100
"""The longest name of a client that is shown."""
_encode = msgspec.json.Encoder().encode


class HandedOver(msgspec.Struct, frozen=True):
    """What a handler returns if something else sends the answer. The service then sends nothing."""


class Call:
    """The context of one request: its reply subject, headers, warnings and id."""

    __slots__ = (
        "_absence",
        "_connection",
        "_new_id",
        "_receipt",
        "_request_id",
        "commit",
        "given",
        "gone",
        "headers",
        "is_of_node",
        "reply",
        "warnings",
    )

    def __init__(
        self,
        connection: Connection,
        reply: str,
        headers: Mapping[str, str],
        warnings: tuple[str, ...],
        new_id: NewId,
        given: Collection[str] = (),
        receipt: str = "",
        *,
        commit: Commit | None = None,
        is_of_node: bool = False,
    ) -> None:
        """`receipt`: the subject on which the server says that nobody received a signal."""
        self._connection = connection
        self._new_id = new_id
        self._request_id = ""
        self._receipt = receipt
        self._absence = Absence()
        self.reply = reply
        """The subject that the answer goes to; empty if nobody waits for one."""
        self.headers = headers
        self.warnings = warnings
        """Warnings for the sender about fields that were ignored."""
        self.given = given
        """The names of the fields that the sender sent; all others of the request have their defaults."""
        self.commit = commit
        """What to call before a model's process gets a request that another node has handed over.

        It raises NodeStopping if the request is served elsewhere by now.
        """
        self.is_of_node = is_of_node
        """Whether another node asks for itself, not for a client: then this one answers for itself only."""
        self.gone = anyio.Event()
        """Set when nobody receives the signals any more."""

    @property
    def request_id(self) -> str:
        """An id that the service generates, to correlate everything that this request causes."""
        if not self._request_id:
            self._request_id = self._new_id()
        return self._request_id

    @property
    def client(self) -> str | None:
        """How the requester calls itself, made safe to print; None if it does not."""
        name = self.headers.get(CLIENT_HEADER, "")[:_NAME_LIMIT]
        return "".join(filter(str.isprintable, name)) or None

    def note_unheard(self, at: float) -> None:
        """Note that nobody received a signal (clock time in seconds)."""
        if self._absence.note_unheard(at):
            self.gone.set()

    async def send(self, signal: Signal) -> None:
        """Send a signal before the answer. Raises Unavailable or TooLarge."""
        if self.reply:
            await self._connection.publish(self.reply, _encode(signal), reply=self._receipt)


class Action(Generic[T]):
    """A handler that can be called under a name, with a context of type T."""

    def __init__(
        self,
        name: str,
        handler: Callable[[T, Any, Call], Awaitable[msgspec.Struct]],
        *,
        request_type: type[msgspec.Struct],
        reply_type: type[msgspec.Struct],
        limit: int,
        queue: int,
        aliases: tuple[str, ...] = (),
        wrappers: tuple[str, ...] = (),
        route: Route = "any",
        is_lookup: bool = False,
    ) -> None:
        self.name = name
        self.spellings = tuple(f"{slash}{each}" for each in (name, *aliases) for slash in ("", "/"))
        """Every name that clients may use for it. Older clients put a slash before the name."""
        self.handler = handler
        self.request_type = request_type
        self.reply_type = reply_type
        self.limit = limit
        """How many requests may run at once."""
        self.queue = queue
        """How many more requests may wait. Any above that are refused with `overloaded`."""
        self.route = route
        self.is_lookup = is_lookup
        """Whether it only looks something up: then a request begins no trace, it only continues one."""
        self._wrappers = wrappers
        self.description = (handler.__doc__ or name).strip().partition("\n")[0]

    @cached_property
    def shape(self) -> Shape[Any]:
        """How requests are read. Made for the first one: for all actions it is a tenth of a node's start."""
        return Shape(self.request_type, self._wrappers)

    async def __call__(self, context: T, request: msgspec.Struct, call: Call) -> msgspec.Struct:
        """Call the handler directly, without a service."""
        return await self.handler(context, request, call)


def action(
    name: str,
    *,
    reply: type[msgspec.Struct] | None = None,
    limit: int = 64,
    queue: int = 1024,
    aliases: tuple[str, ...] = (),
    wrappers: tuple[str, ...] = (),
    route: Route = "any",
    is_lookup: bool = False,
) -> Callable[[Callable[[T, R, Call], Awaitable[msgspec.Struct]]], Action[T]]:
    """Turn a handler into an action. Its annotations give the request and reply types.

    ``reply`` is the reply type of a handler that returns `HandedOver`. Up to ``limit`` requests run at once,
    and ``queue`` more wait. ``aliases`` are older names of the action. Older clients put the arguments into
    an object, in the field ``data`` or one of ``wrappers``; they are read as if they were at the top level.
    ``route`` says which node serves it, where there are several. ``is_lookup`` says that it changes nothing:
    probes, dashboards and the command line send such requests all the time, and they would bury all traces
    of work, so only those of a caller with a trace are traced.
    """

    def declare(handler: Callable[[T, R, Call], Awaitable[msgspec.Struct]]) -> Action[T]:
        hints = get_type_hints(handler)
        returned = hints.pop("return")
        _, request_type, _ = hints.values()
        return Action(
            name,
            handler,
            request_type=request_type,
            reply_type=reply or returned,
            limit=limit,
            queue=queue,
            aliases=aliases,
            wrappers=wrappers,
            route=route,
            is_lookup=is_lookup,
        )

    return declare
