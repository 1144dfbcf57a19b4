"""What the gateway can be asked for: each operation is a route, and stands in the OpenAPI document."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Literal

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from suite.gateway.encoding import encode
from suite.gateway.sse import EVENT_STREAM


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """One method of one path."""

    path: str
    method: Literal["GET", "POST"] = "GET"
    answer: Callable[[Request], Awaitable[ASGIApp]]
    summary: str
    """What it is for, in one line."""
    request: type[msgspec.Struct] | None = None
    """What its body is; None: it has none."""
    reply: type[msgspec.Struct] | None = None
    """What its answer is; None: ``media_type`` says all that can be said."""
    event: type[msgspec.Struct] | None = None
    """What the events or lines of a streamed answer are; None: it is never streamed."""
    error: type[msgspec.Struct] | None = None
    """What a refusal is; None: as OpenAI's API has it."""
    media_type: str = "application/json"
    """That of an answer that is not streamed."""
    stream_type: str = EVENT_STREAM
    """That of one that is."""

    @property
    def name(self) -> str:
        """Its name in metrics and documents: that of the function which answers it."""
        return self.answer.__name__

    @property
    def route(self) -> Route:
        """The route of the application."""
        return Route(self.path, self.answer, methods=[self.method], name=self.name)


def json_response(body: object, *, status: int = 200) -> Response:
    """An answer that is one JSON object."""
    return Response(encode(body), status_code=status, media_type="application/json")
