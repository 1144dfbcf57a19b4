"""The ASGI application: routes of all dialects behind what is the same for each."""

from __future__ import annotations

from typing import Final

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from suite.errors import SuiteError
from suite.gateway.access import AccessMiddleware
from suite.gateway.anthropic import endpoints as anthropic
from suite.gateway.context import Context, put_context
from suite.gateway.errors import answer_error
from suite.gateway.gateway import Gateway
from suite.gateway.ollama import endpoints as ollama
from suite.gateway.openai import endpoints as openai

_LONGEST_ID: Final = 200


def application(gateway: Gateway, *, max_body_bytes: int) -> Starlette:
    """The application that serves all dialects."""
    return Starlette(
        routes=[*openai.routes(gateway), *anthropic.routes(gateway), *ollama.routes(gateway)],
        middleware=[
            Middleware(ContextMiddleware, gateway=gateway),
            Middleware(AccessMiddleware, access=gateway.access),
        ],
        exception_handlers={
            SuiteError: answer_error,
            HTTPException: answer_error,
            Exception: answer_error,
        },
        max_body_size=max_body_bytes,
    )


class ContextMiddleware:
    """Gives each request its context, and its answer the headers that tell of it."""

    def __init__(self, app: ASGIApp, gateway: Gateway) -> None:
        self._app = app
        self._gateway = gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle an ASGI request."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        clock = self._gateway.clock
        context = Context(_request_id(scope) or self._gateway.new_id(), began=clock())
        put_context(scope, context)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(raw=message["headers"])
                headers["x-request-id"] = context.request_id
                headers["openai-processing-ms"] = str(round((clock() - context.began) * 1000))
                if context.node is not None:
                    headers["x-suite-node"] = context.node
            await send(message)

        return await self._app(scope, receive, send_with_headers)


def _request_id(scope: Scope) -> str | None:
    """The id that the client has given its request, if it can be sent back as it is."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and 0 < len(value) <= _LONGEST_ID:
            text: str = value.decode("latin-1")
            return text if text.isascii() and text.isprintable() else None
    return None
