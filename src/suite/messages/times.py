"""Times as clients send them, as read models keep them, and as replies tell them."""

from __future__ import annotations

import math
from datetime import UTC, datetime

from suite.errors import InvalidRequest


def parse_time(value: str | float, field: str) -> datetime:
    """A time in UTC from RFC 3339, ``YYYY-MM-DD HH:MM:SS`` (UTC if it says no other), or seconds since 1970.

    Raises InvalidRequest that names the field.
    """
    try:
        if isinstance(value, str):
            time = datetime.fromisoformat(value.strip())
            return (time if time.tzinfo else time.replace(tzinfo=UTC)).astimezone(UTC)
        if math.isfinite(value):
            return datetime.fromtimestamp(value, UTC)
    except (ValueError, OverflowError, OSError):
        pass
    raise InvalidRequest(
        f"field '{field}': {str(value)[:40]!r} is no time: send 2026-01-31T12:00:00Z, '2026-01-31 12:00:00' "
        "in UTC, or seconds since 1970"
    )


def to_sql(time: datetime) -> str:
    """Text that sorts as the time does, and that SQL readers take for a TIMESTAMP."""
    return time.astimezone(UTC).replace(tzinfo=None).isoformat(sep=" ", timespec="microseconds")


def from_sql(text: str) -> datetime:
    """The time of a row."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def rfc3339(time: datetime) -> str:
    """A time as replies have it."""
    return time.astimezone(UTC).isoformat(timespec="microseconds")
