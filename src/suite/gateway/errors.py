"""Errors of the service as HTTP answers: the status, the headers, and the body in the dialect of the path.

A dialect that has error bodies of its own registers them with the beginning of its paths::

    error_bodies["/api/"] = ollama_error
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any, Final, TypeAlias

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from suite.bus.decoding import explained
from suite.errors import (
    Cancelled,
    ExpiredApiKey,
    InvalidApiKey,
    InvalidRequest,
    ModelLoading,
    ModelNotFound,
    NotEnoughMemory,
    Overloaded,
    PromptTooLong,
    Quarantined,
    RateLimited,
    SuiteError,
    TooLarge,
    UnknownPath,
    WrongMethod,
)
from suite.gateway.context import context_of
from suite.gateway.encoding import encode
from suite.messages.broken_json import refusal

ErrorBody: TypeAlias = Callable[[SuiteError], dict[str, Any]]

LONGEST_RETRY_SECONDS: Final = 120
"""Clients of OpenAI's API give up when they are told to wait for longer."""

_STATUS: Final[dict[type[SuiteError], int]] = {PromptTooLong: 400}
"""Where OpenAI's API has another status than the service."""
_CODES: Final[dict[type[SuiteError], str]] = {PromptTooLong: "context_length_exceeded"}
_PARAMS: Final[dict[type[SuiteError], str]] = {ModelNotFound: "model", PromptTooLong: "messages"}
_field: Final = re.compile("field '([^']+)'").search
_TYPES: Final = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


def openai_error(error: SuiteError) -> dict[str, Any]:
    """The body of an error in OpenAI's API."""
    status = status_of(error)
    kind = _TYPES.get(status) or ("invalid_request_error" if status < 500 else "server_error")
    body: dict[str, Any] = {
        "error": {
            "message": error.message,
            "type": kind,
            "param": _param(error),
            "code": _CODES.get(type(error), error.code),
        }
    }
    if isinstance(error, ModelLoading):
        body["loading"] = error.loading
    return body


error_bodies: Final[dict[str, ErrorBody]] = {"/": openai_error}
"""How errors are written, by the beginning of the path; the longest beginning counts."""


def status_of(error: SuiteError) -> int:
    """The HTTP status of an error."""
    return _STATUS.get(type(error), error.status)


def error_response(error: SuiteError, path: str) -> Response:
    """The answer to a request that is refused, or failed before its answer had begun."""
    beginning = max((each for each in error_bodies if path.startswith(each)), key=len)
    return Response(
        encode(error_bodies[beginning](error)),
        status_code=status_of(error),
        headers=_headers(error),
        media_type="application/json",
    )


async def answer_error(request: Request, error: Exception) -> Response:
    """Starlette's handler of the exceptions that are no bugs, also of its own."""
    context_of(request.scope).error = told = _as_suite_error(error)
    response = error_response(told, request.url.path)
    if told.node:
        context_of(request.scope).node = told.node
    if isinstance(error, HTTPException):
        response.headers.update(error.headers or {})
    return response


def bug() -> SuiteError:
    """What is told of an error in the gateway itself, which has to be logged."""
    return SuiteError("an error in the gateway itself: its log has the cause")


def invalid(body: bytes, error: Exception) -> SuiteError:
    """The refusal of a body that is no JSON, or not of its type, in the words of the service."""
    if isinstance(error, msgspec.ValidationError):
        return InvalidRequest(explained(error))
    return refusal(body, error)


def _param(error: SuiteError) -> str | None:
    """The parameter that is wrong, where one is."""
    if error.status >= 500:
        return None
    named = _field(error.message)
    return named[1] if named else _PARAMS.get(type(error))


def _headers(error: SuiteError) -> dict[str, str]:
    match error:
        case InvalidApiKey() | ExpiredApiKey():
            return {"www-authenticate": "Bearer"}
        case ModelLoading() | Overloaded() | Quarantined() | RateLimited():
            seconds = min(math.ceil(error.retry_after_ms / 1000), LONGEST_RETRY_SECONDS)
            return {"retry-after": str(max(seconds, 1))}
        case NotEnoughMemory():
            return {"x-should-retry": "false"}  # the model would not fit in a minute either
        case TooLarge():
            return {"connection": "close"}  # the rest of the body is not read
        case _:
            return {}


def _as_suite_error(error: Exception) -> SuiteError:
    match error:
        case SuiteError():
            return error
        case HTTPException(status_code=404):
            return UnknownPath()
        case HTTPException(status_code=405):
            return WrongMethod()
        case ClientDisconnect():
            return Cancelled("the client closed the connection")
        case HTTPException():
            return InvalidRequest(error.detail)
        case _:
            return bug()
