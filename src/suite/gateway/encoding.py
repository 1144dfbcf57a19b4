"""JSON as it goes out."""

from __future__ import annotations

import msgspec
from starlette.responses import Response

encode = msgspec.json.Encoder().encode


def json_response(body: object) -> Response:
    """An answer that is one JSON object."""
    return Response(encode(body), media_type="application/json")
