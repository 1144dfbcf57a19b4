"""Converts times: from requests, to and from SQL, and for replies."""

from __future__ import annotations

import math
from datetime import UTC, datetime

from suite.errors import InvalidRequest


def parse_time(value: str | float, field: str) -> datetime:
    """Parse RFC 3339, ``YYYY-MM-DD HH:MM:SS`` (UTC if it has no offset), or seconds since 1970, into UTC.

    Raises InvalidRequest, which names the field.
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
        f"field '{field}': {str(value)[:40]!r} is not a time: send 2026-01-31T12:00:00Z, "
        "'2026-01-31 12:00:00' in UTC, or seconds since 1970"
    )


def to_sql(time: datetime) -> str:
    """Format a time as text that sorts by time, and that SQL readers accept as a TIMESTAMP."""
    return time.astimezone(UTC).replace(tzinfo=None).isoformat(sep=" ", timespec="microseconds")


def from_sql(text: str) -> datetime:
    """Parse the time of a row."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def rfc3339(time: datetime) -> str:
    """Format a time for replies."""
    return time.astimezone(UTC).isoformat(timespec="microseconds")
