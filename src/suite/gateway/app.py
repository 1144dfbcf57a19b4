"""The ASGI application: the operations of all dialects behind what is the same for each."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from email.utils import formatdate
from typing import Final
from urllib.parse import quote

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from suite.errors import SuiteError
from suite.gateway import health
from suite.gateway.access import AccessMiddleware
from suite.gateway.anthropic import endpoints as anthropic
from suite.gateway.context import Context, context_of, put_context
from suite.gateway.dashboard import endpoints as dashboard
from suite.gateway.documents import with_documents
from suite.gateway.errors import answer_error, bug, error_response
from suite.gateway.gateway import Gateway
from suite.gateway.ollama import endpoints as ollama
from suite.gateway.openai import endpoints as openai
from suite.gateway.service_breaker import ServiceBreakerMiddleware
from suite.gateway.tracing import tracing

logger = logging.getLogger("suite.gateway")

SESSION_HEADERS: Final = (
    "session_id",
    "session-id",
    "x-session-id",
    "conversation_id",
    "x-conversation-id",
    "x-claude-code-session-id",
    "x-openwebui-chat-id",
)
"""How clients send what they call the conversation."""
_LONGEST_ID: Final = 200
_PREFLIGHT_SECONDS: Final = 600
_EXPOSED: Final = (
    "retry-after",
    "x-request-id",
    *(
        f"x-ratelimit-{what}-{of}"
        for what in ("limit", "remaining", "reset")
        for of in ("requests", "tokens")
    ),
)
"""The headers that a page may read, beside those that any may."""
_CLIENT_GONE: Final = 499
"""The status by which a request counts that got no answer."""


def application(gateway: Gateway, *, cors_origins: Sequence[str] = ()) -> Starlette:
    """The application that serves all dialects, also to pages of these origins."""
    operations = with_documents(
        [
            *openai.operations(gateway),
            *anthropic.operations(gateway),
            *ollama.operations(gateway),
            *health.operations(gateway),
        ]
    )
    app = Starlette(
        routes=[each.route for each in (*operations, *dashboard.operations(gateway))],
        middleware=[
            Middleware(ContextMiddleware, gateway=gateway),
            *([_cors(cors_origins)] if cors_origins else []),
            Middleware(BugMiddleware),
            Middleware(AccessMiddleware, access=gateway.access),
            Middleware(ServiceBreakerMiddleware, breaker=gateway.breaker),
        ],
        exception_handlers={
            SuiteError: answer_error,
            HTTPException: answer_error,
            ClientDisconnect: answer_error,
        },
    )
    app.router.redirect_slashes = False
    return app


def _cors(origins: Sequence[str]) -> Middleware:
    """Tells browsers what a page of another origin may do. Keys are no cookies, so pages may send them."""
    return Middleware(
        CORSMiddleware,
        allow_origins=origins,
        allow_methods=("GET", "POST", "DELETE"),
        allow_headers=("*",),
        expose_headers=_EXPOSED,
        max_age=_PREFLIGHT_SECONDS,
    )


class ContextMiddleware:
    """Gives each request its context and its trace, and its answer the headers that tell of it; counts it."""

    def __init__(self, app: ASGIApp, gateway: Gateway) -> None:
        self._app = app
        self._gateway = gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle an ASGI request."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        headers, clock = Headers(scope=scope), self._gateway.clock
        context = Context(_request_id(headers) or self._gateway.new_id(), began=clock())
        context.note_session(*map(headers.get, SESSION_HEADERS))
        put_context(scope, context)
        scope["path"] = scope["path"].rstrip("/") or "/"  # a slash at the end means nothing

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                context.begin_answer(message["status"], clock())
                message["headers"] = [*message["headers"], *self._headers(context)]
            await send(message)

        self._gateway.metrics.running.add(1)
        try:
            with tracing(scope, headers, context):
                await self._app(scope, receive, send_with_headers)
        finally:
            self._gateway.metrics.running.add(-1)
            self._count(scope, context)
        return None

    def _headers(self, context: Context) -> Iterable[tuple[bytes, bytes]]:
        yield b"date", formatdate(usegmt=True).encode()
        yield b"x-request-id", context.request_id.encode()
        yield b"openai-processing-ms", b"%d" % round(1000 * (context.first_byte_seconds or 0))
        if context.node is not None:
            yield b"x-suite-node", quote(context.node).encode()
        if context.model is not None and (digest := self._gateway.digests.of(context.model)) is not None:
            yield b"x-suite-model-digest", b"sha256:" + digest.encode()

    def _count(self, scope: Scope, context: Context) -> None:
        endpoint = scope.get("endpoint")
        self._gateway.metrics.count(
            "none" if endpoint is None else endpoint.__name__,
            context.status or _CLIENT_GONE,
            key=context.requester,
            seconds=self._gateway.clock() - context.began,
            first_byte_seconds=context.first_byte_seconds,
        )


class BugMiddleware:
    """Answers requests that a bug has made fail, and logs it.

    Starlette would do that outside of all middleware, so without the headers that each answer has.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle an ASGI request."""
        try:
            await self._app(scope, receive, send)
        except Exception:
            logger.exception("a request failed by a bug")
            if context_of(scope).status is None:  # else the server closes the connection
                await error_response(bug(), scope["path"])(scope, receive, send)


def _request_id(headers: Headers) -> str | None:
    """The id that the client has given its request, if it can be sent back as it is."""
    given = headers.get("x-request-id", "")
    return given if 0 < len(given) <= _LONGEST_ID and given.isascii() and given.isprintable() else None
