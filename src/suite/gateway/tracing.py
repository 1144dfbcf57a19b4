"""The span of an HTTP request, as OpenTelemetry's conventions for HTTP servers have it (version 1.45)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Final

from opentelemetry.trace import SpanKind
from starlette.datastructures import Headers
from starlette.types import Scope

from suite import telemetry
from suite.gateway.context import Context

_SERVER_ERROR: Final = 500


def tracing(scope: Scope, headers: Headers, context: Context) -> AbstractContextManager[None]:
    """A span around the request, in the trace that the client has begun (W3C Trace Context) if it has."""
    if not telemetry.recording.is_on:
        return telemetry.continuing(headers)
    return _recorded(scope, headers, context)


@contextmanager
def _recorded(scope: Scope, headers: Headers, context: Context) -> Iterator[None]:
    method = scope["method"]
    with telemetry.span(
        method,
        {
            "http.request.method": method,
            "url.scheme": scope.get("scheme", "http"),
            "url.path": scope["path"],
            "suite.request.id": context.request_id,
        },
        kind=SpanKind.SERVER,
        headers=headers,
    ):
        try:
            yield
        finally:
            _note_answer(scope, context)


def _note_answer(scope: Scope, context: Context) -> None:
    """Say what became of it: which route it has taken, and its status."""
    if (route := _route(scope)) is not None:
        telemetry.rename(f"{scope['method']} {route}")
        telemetry.annotate({"http.route": route})
    if context.status is None:
        telemetry.annotate({"error.type": "client_gone"})
        return
    telemetry.annotate({"http.response.status_code": context.status})
    if context.status >= _SERVER_ERROR:
        telemetry.fail(str(context.status))


def _route(scope: Scope) -> str | None:
    """The path with names for what stands in it; None if no operation has it."""
    if "endpoint" not in scope:
        return None
    path: str = scope["path"]
    for name, value in scope.get("path_params", {}).items():
        before, _, after = path.rpartition(str(value))  # names stand behind what is fixed
        path = f"{before}{{{name}}}{after}"
    return path
