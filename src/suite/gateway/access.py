"""Who asks, and what they may do: the one point at which a request is let in."""

from __future__ import annotations

from typing import Final, Protocol

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from suite.errors import SuiteError
from suite.gateway.context import context_of
from suite.gateway.errors import error_response

OPEN_PATHS: Final = frozenset(("/", "/health", "/livez", "/readyz", "/openapi.json"))
"""What everybody may ask for: it tells nothing about models or their use."""


class Access(Protocol):
    """Decides who is let in."""

    def admit(self, headers: Headers, path: str) -> str | None:
        """The id of the key of a request; None: keys are off. Raises the error that refuses the request."""

    def check_model(self, requester: str | None, model: str) -> None:
        """Raise the error that refuses a model to a requester."""


class Everybody:
    """Lets everybody in, with all rights: for a gateway that only this machine reaches."""

    def admit(self, headers: Headers, path: str) -> str | None:
        """Let a request in."""
        del headers, path
        return None

    def check_model(self, requester: str | None, model: str) -> None:
        """Refuse nothing."""
        del requester, model


class AccessMiddleware:
    """Admits requests before their bodies are read."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle an ASGI request."""
        if scope["type"] == "http" and scope["path"] not in OPEN_PATHS:
            try:
                context_of(scope).requester = self._access.admit(Headers(scope=scope), scope["path"])
            except SuiteError as error:
                return await error_response(error, scope["path"])(scope, receive, send)
        return await self._app(scope, receive, send)
