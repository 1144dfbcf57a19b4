"""Serves the clients of the older services: forwards their ZeroMQ requests to NATS and returns the answers.

    ports = await tasks.start(
        partial(
            serve_old_clients, connection, subjects, ACTIONS,
            health=partial(health, node), host="127.0.0.1", port=7011, health_check_port=7111,
        )
    )

A request is one JSON object with a field ``action``, sent by a REQ socket. Its reply is what a NATS client
would get, from any node. Every message to the health port is answered with the health of this node.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeAlias

import anyio
import msgspec
from anyio.abc import TaskStatus

from suite.bus.accounts import FOR_OPERATORS
from suite.bus.action import Action
from suite.bus.connection import Connection
from suite.bus.decoding import parse
from suite.errors import AccessDenied, InvalidRequest, NodeLost, TooLarge, UnknownAction
from suite.legacy.router import Router
from suite.legacy.sockets import CONNECTION_LIMIT, opened_sockets
from suite.messages.signals import HEARTBEAT_SECONDS
from suite.messages.subjects import Subjects

Health: TypeAlias = Callable[[], msgspec.Struct]
"""Returns the health_check reply of this node. A request over NATS could reach another node."""

LIMIT = 256
"""How many requests of older clients are handled at once, on each port."""
REPLY_SECONDS = 900.0
"""Time limit of an action that sends no signals. It is long because an unload may drain for ten minutes."""
SILENCE_SECONDS = 30 * HEARTBEAT_SECONDS
"""How long an action that does send signals may be silent."""
_NAME_LIMIT = 80

_encode = msgspec.json.Encoder().encode


class Ports(msgspec.Struct, frozen=True, kw_only=True):
    """The ports on which older clients are served."""

    port: int
    health_check_port: int


async def serve_old_clients(
    connection: Connection,
    subjects: Subjects,
    actions: Sequence[Action[Any]],
    *,
    health: Health,
    host: str,
    port: int,
    health_check_port: int,
    limit: int = LIMIT,
    connection_limit: int = CONNECTION_LIMIT,
    task_status: TaskStatus[Ports] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until cancelled. Port 0 picks a free port.

    ``actions`` are the actions of the service, and ``health`` returns the health of this node. Each port
    handles up to ``limit`` requests at once and accepts up to ``connection_limit`` connections. Raises
    PortTaken, and InvalidConfiguration if ZeroMQ is not installed.
    """
    async with opened_sockets(connection_limit=connection_limit) as sockets:
        requests, port = await sockets.bind_router(host, port, setting="legacy.port")
        checks, health_check_port = await sockets.bind_router(
            host, health_check_port, setting="legacy.health_check_port"
        )
        bridge = _Bridge(connection, subjects, actions)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(Router(requests, bridge.act, limit=limit).run)
            tasks.start_soon(Router(checks, partial(_tell, health), limit=limit).run)
            task_status.started(Ports(port=port, health_check_port=health_check_port))


class _Bridge:
    """Turns a request of an older client into a NATS request, and returns the answer."""

    def __init__(self, connection: Connection, subjects: Subjects, actions: Sequence[Action[Any]]) -> None:
        self._connection = connection
        self._subjects = subjects
        self._actions = {name: each for each in actions for name in each.spellings}

    async def act(self, parts: Sequence[bytes]) -> bytes:
        """Run the requested action and return its reply.

        Raises SuiteError if the request is wrong or NATS fails.
        """
        if len(parts) != 1 or not parts[0]:
            raise InvalidRequest(f"the message has {_counted(parts)}: send one JSON object with an action")
        limit = self._connection.max_payload
        if len(parts[0]) > limit:
            raise TooLarge(f"the request has {len(parts[0])} bytes: at most {limit} are taken, send less")
        fields = parse(parts[0])
        action = self._action(fields)
        fields, clash = action.shape.flattened(fields)
        if clash is not None:
            raise clash
        # Older clients send null for fields that the service should fill in.
        fields = {name: value for name, value in fields.items() if value is not None}
        return await self._ask(action, fields)

    def _action(self, fields: dict[str, Any]) -> Action[Any]:
        name = fields.get("action")
        if name is None:
            raise InvalidRequest("field 'action' is missing: send it")
        if not isinstance(name, str):
            raise InvalidRequest(f"field 'action': expected `str`, got `{type(name).__name__}`")
        if name in FOR_OPERATORS:
            raise AccessDenied(f"{name} is for operators, whom NATS knows: run it with the suite command")
        action = self._actions.get(name)
        if action is None:
            raise UnknownAction(f"Unknown action: {name[:_NAME_LIMIT]}")
        return action

    async def _ask(self, action: Action[Any], fields: dict[str, Any]) -> bytes:
        """Return the answer from NATS. An action that can stream has no time limit while it sends signals."""
        subject = self._subjects.action(action.name)
        if "stream" not in action.shape.fields:
            return (await self._connection.request(subject, _encode(fields), timeout=REPLY_SECONDS)).data
        body = _encode(fields | {"stream": True})
        async with self._connection.request_many(subject, body, idle_timeout=SILENCE_SECONDS) as answers:
            async for answer in answers:
                if msgspec.json.decode(answer.data, type=_Answer).status:
                    return answer.data
        raise NodeLost(f"{subject} ended without a reply: send the request again")


async def _tell(health: Health, _: Sequence[bytes]) -> bytes:
    return _encode(health())


class _Answer(msgspec.Struct, frozen=True, kw_only=True):
    """The field that distinguishes a final reply from a signal: only a reply has a status."""

    status: str = ""


def _counted(parts: Sequence[bytes]) -> str:
    return f"{len(parts)} parts" if len(parts) != 1 else "no content"
