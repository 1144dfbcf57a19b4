"""The bodies of requests, up to a limit."""

from __future__ import annotations

from starlette.requests import ClientDisconnect, Request

from suite.errors import Cancelled, TooLarge


async def body_of(request: Request, most_bytes: int) -> bytes:
    """Read the body of a request.

    Raises TooLarge, as soon as that shows, and Cancelled if the client is gone before its end.
    """
    length = request.headers.get("content-length", "0")
    if length.isdigit() and int(length) > most_bytes:
        raise _too_large(most_bytes)
    parts, total = [], 0
    try:
        async for part in request.stream():
            total += len(part)
            if total > most_bytes:
                raise _too_large(most_bytes)
            parts.append(part)
    except ClientDisconnect:
        raise Cancelled("the client closed the connection") from None
    return b"".join(parts)


def _too_large(most_bytes: int) -> TooLarge:
    return TooLarge(
        f"the body has over {most_bytes} bytes: send less, or raise http.max_body_mb of the gateway"
    )
