"""Who asks, and what they may do: the one point at which a request is let in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from ipaddress import ip_address
from typing import Final, Protocol, get_args
from urllib.parse import urlsplit

import msgspec
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from suite.errors import HostNotAllowed, OriginNotAllowed, SuiteError
from suite.gateway.context import context_of
from suite.gateway.errors import error_response
from suite.messages.events import KeyEndpoint

OPEN_PATHS: Final = frozenset(("/", "/health", "/livez", "/readyz", "/openapi.json", "/ui"))
"""What everybody may ask for: it tells nothing about models or their use."""
OPEN_FOLDER: Final = "/ui/static/"
"""The files of the dashboard, which everybody may ask for too."""

_ENDPOINTS: Final[Mapping[str, KeyEndpoint]] = {
    "/v1/chat/completions": "chat",
    "/v1/responses": "chat",
    "/v1/messages": "chat",
    "/v1/messages/count_tokens": "tokens",
    "/v1/completions": "completions",
    "/v1/embeddings": "embeddings",
    "/v1/rerank": "rerank",
    "/v1/models": "models",
    "/api/chat": "chat",
    "/api/generate": "completions",
    "/api/embed": "embeddings",
    "/api/embeddings": "embeddings",
    "/api/tags": "models",
    "/api/show": "models",
    "/api/ps": "models",
    "/api/version": "models",
    "/ui/live": "view",
    "/ui/events": "view",
    "/ui/ask": "view",
    "/ui/model": "view",
    "/ui/trace": "view",
    "/ui/do": "admin",
    "/ui/replay": "admin",
    "/ui/chat": "chat",
}
"""What a key needs for a path, and for those under it. For all others it needs the right of an admin."""

_NOT_IN_HOSTS: Final = frozenset("@/?#\\")
"""What separates a host from other parts of a URL: programs differ on which part is the host then."""


def endpoint_of(path: str) -> KeyEndpoint:
    """What a key has to be made for, so that it may ask for this path."""
    while path not in _ENDPOINTS and path:
        path = path.rpartition("/")[0]
    return _ENDPOINTS.get(path, "admin")


def is_open(path: str) -> bool:
    """Whether everybody may ask for this path."""
    return path in OPEN_PATHS or path.startswith(OPEN_FOLDER)


class Rights(msgspec.Struct, frozen=True, kw_only=True):
    """What a requester may do."""

    key: str | None = None
    """The name of its key; None: keys are off."""
    endpoints: frozenset[str]
    expires_at: datetime | None = None


class Access(Protocol):
    """Decides who is let in."""

    def identify(self, headers: Headers) -> str | None:
        """The id of the key of a request; None: keys are off. Raises the error that refuses the request."""

    def admit(self, requester: str | None, path: str) -> None:
        """Let a requester ask for this path, once. Raises the error that refuses that."""

    def check_model(self, requester: str | None, model: str) -> None:
        """Raise the error that refuses a model to a requester."""

    def check_admin(self, requester: str | None, wish: str) -> None:
        """Raise the error that refuses to a requester what only admins may: ``wish`` says what."""

    def shows(self, requester: str | None, model: str) -> bool:
        """Whether a requester may know that there is this model."""

    def rights(self, requester: str | None) -> Rights:
        """Who a requester is and what it may do now. Raises the error that refuses it, also later on."""

    def limits(self, requester: str | None) -> Mapping[str, str]:
        """The headers that tell a requester what is left of its limits."""

    def charge(self, requester: str | None, tokens: int) -> None:
        """Count tokens that a requester has used, and of which the log will not tell."""


class Everybody:
    """Lets everybody in, with all rights: for a gateway that only this machine reaches.

    A browser on this machine shows pages of strangers, which could send requests here. Those come with an
    origin, or, if a name of theirs leads to this machine, with another host.
    """

    def __init__(self, cors_origins: Sequence[str] = ()) -> None:
        """``cors_origins`` are those of pages that may use the gateway."""
        self._origins = frozenset(cors_origins)

    def identify(self, headers: Headers) -> str | None:
        """Let a request in without a name. Raises HostNotAllowed, OriginNotAllowed."""
        host, origin = headers.get("host", ""), headers.get("origin")
        if not _is_loopback(host):
            raise HostNotAllowed(
                f"the request is for {host[:100]!r}, and without keys only this machine is served: "
                "call it as 127.0.0.1, or start the gateway with --require-keys"
            )
        if origin is not None and not self._may_ask(origin, host):
            raise OriginNotAllowed(
                f"pages of {origin[:100]!r} may not use the gateway: allow it with --cors-origin, or use keys"
            )
        return None

    def admit(self, requester: str | None, path: str) -> None:
        """Refuse nothing."""
        del requester, path

    def check_model(self, requester: str | None, model: str) -> None:
        """Refuse nothing."""
        del requester, model

    def check_admin(self, requester: str | None, wish: str) -> None:
        """Refuse nothing."""
        del requester, wish

    def shows(self, requester: str | None, model: str) -> bool:
        """Show everything."""
        del requester, model
        return True

    def rights(self, requester: str | None) -> Rights:
        """All there are."""
        del requester
        return Rights(endpoints=frozenset(get_args(KeyEndpoint)))

    def limits(self, requester: str | None) -> Mapping[str, str]:
        """There are none."""
        del requester
        return {}

    def charge(self, requester: str | None, tokens: int) -> None:
        """Count nothing."""
        del requester, tokens

    def _may_ask(self, origin: str, host: str) -> bool:
        return not self._origins.isdisjoint((origin, "*")) or origin in (f"http://{host}", f"https://{host}")


def _is_loopback(host: str) -> bool:
    if not _NOT_IN_HOSTS.isdisjoint(host):
        return False
    try:
        name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
        return name == "localhost" or name.endswith(".localhost") or ip_address(name).is_loopback
    except ValueError:
        return False


class AccessMiddleware:
    """Admits requests before their bodies are read, and tells their senders what is left of their limits."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle an ASGI request."""
        if scope["type"] != "http" or is_open(scope["path"]):
            return await self._app(scope, receive, send)
        context = context_of(scope)

        async def send_with_limits(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(raw=message["headers"]).update(self._access.limits(context.requester))
            await send(message)

        try:
            context.requester = self._access.identify(Headers(scope=scope))
            self._access.admit(context.requester, scope["path"])
        except SuiteError as error:
            return await error_response(error, scope["path"])(scope, receive, send_with_limits)
        return await self._app(scope, receive, send_with_limits)
