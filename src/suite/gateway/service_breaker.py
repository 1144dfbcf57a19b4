"""Refuses requests at once while the service does not answer, instead of having each wait (ADR 65)."""

from __future__ import annotations

import math
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from suite.circuit_breaker import CircuitBreaker
from suite.domain.breaker import SERVICE_POLICY
from suite.errors import NodeLost, NoService, RequestTimeout, Unavailable
from suite.gateway.access import endpoint_of
from suite.gateway.context import Context, context_of
from suite.gateway.errors import error_response
from suite.identity import Clock

_AWAY: Final = (NodeLost, NoService, RequestTimeout, Unavailable)
"""The errors by which a client tells that nobody has answered it."""
_ALONE: Final = frozenset(("/api/version",))
"""What the gateway answers by itself."""
_WATCHING: Final = frozenset(("view", "admin"))
"""The rights of those who look at the service, also while it does not answer."""


def service_breaker(*, node: str, clock: Clock) -> CircuitBreaker:
    """The breaker around the service that a gateway is for; `node` is the one that it runs beside."""
    return CircuitBreaker("service", "nodes", SERVICE_POLICY, node=node, clock=clock)


class ServiceBreakerMiddleware:
    """Lets requests for models through while the service answers; one at a time to see if it does again."""

    def __init__(self, app: ASGIApp, breaker: CircuitBreaker) -> None:
        self._app = app
        self._breaker = breaker

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle an ASGI request."""
        path = scope["path"]
        if scope["type"] != "http" or path in _ALONE or endpoint_of(path) in _WATCHING:
            return await self._app(scope, receive, send)
        if not self._breaker.try_use():
            return await self._refuse(scope, receive, send)
        context = context_of(scope)
        context.on_heard = self._breaker.succeeded

        async def send_and_note(message: Message) -> None:
            is_answer = message["type"] == "http.response.start" and message["status"] < 400
            if is_answer and not context.is_stream:
                context.hear()
            await send(message)

        try:
            return await self._app(scope, receive, send_and_note)
        finally:
            self._note_end(context)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = error_response(Unavailable(self._breaker.refusal), scope["path"])
        response.headers["retry-after"] = str(max(1, math.ceil(self._breaker.wait_seconds)))
        await response(scope, receive, send)

    def _note_end(self, context: Context) -> None:
        error = context.error
        if error is not None and error.node:  # a node has said it, of whatever
            context.hear()
        if context.is_heard:
            return
        if isinstance(error, _AWAY):
            self._breaker.failed(error.message)
        else:
            self._breaker.withdrawn()
