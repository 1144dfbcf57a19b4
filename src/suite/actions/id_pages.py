"""Pages of what is sorted by id. A page begins after the last id of the page before, wherever that is now."""

from __future__ import annotations

import base64
import binascii
from bisect import bisect_right
from collections.abc import Sequence

from suite.errors import InvalidRequest


def ids_after(ids: Sequence[str], cursor: str | None) -> Sequence[str]:
    """The sorted ids that come after those of the page that gave the cursor. Raises InvalidRequest."""
    return ids if cursor is None else ids[bisect_right(ids, _last_id(cursor)) :]


def cursor_of(last_id: str) -> str:
    """The cursor of the page after the one that ends with this id."""
    return base64.urlsafe_b64encode(last_id.encode()).decode().rstrip("=")


def _last_id(cursor: str) -> str:
    try:
        return base64.b64decode(cursor + "=" * (-len(cursor) % 4), b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        raise InvalidRequest(
            f"field 'cursor': {cursor[:40]!r} is none: send the next_cursor of the page before"
        ) from None
