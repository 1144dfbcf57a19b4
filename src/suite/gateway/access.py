"""Who asks, and what they may do: the one point at which a request is let in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import msgspec
from starlette.types import ASGIApp, Receive, Scope, Send

from suite.errors import SuiteError
from suite.gateway.errors import error_response

_REQUESTER = "suite.requester"
OPEN_PATHS = frozenset(("/", "/health", "/livez", "/readyz", "/openapi.json"))
"""What may be asked for by everybody: it tells nothing about models or use."""


class Requester(msgspec.Struct, frozen=True, kw_only=True):
    """Who sent a request, with what it may do."""

    id: str | None = None
    """The id of its key, for the log; None: keys are off."""

    def check_model(self, model: str) -> None:
        """Raise the refusal of a model that it may not use."""
        del model


class Access(Protocol):
    """Decides who is let in."""

    def admit(self, headers: Mapping[str, str], path: str) -> Requester:
        """Say who sends a request with these headers. Raises the SuiteError that refuses it."""


class Everybody:
    """Lets everybody in: for a gateway that only this machine reaches."""

    def admit(self, headers: Mapping[str, str], path: str) -> Requester:
        """Let a request in, without a name."""
        del headers, path
        return Requester()


class AccessMiddleware:
    """Admits requests before anything of them is read, and keeps who sent them in their scope."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle an ASGI request."""
        if scope["type"] == "http" and scope["path"] not in OPEN_PATHS:
            headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
            try:
                scope[_REQUESTER] = self._access.admit(headers, scope["path"])
            except SuiteError as error:
                return await error_response(error, scope["path"])(scope, receive, send)
        return await self._app(scope, receive, send)


def requester(scope: Scope) -> Requester:
    """Who sent the request of this scope."""
    found: Requester = scope[_REQUESTER]
    return found
