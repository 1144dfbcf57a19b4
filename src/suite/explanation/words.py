"""Lists, counts, spans and times in sentences.

A time stands in a sentence as RFC 3339 in UTC, to the second: a program can read it, and `suite explain`
shows it in the local time zone.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

_MINUTE = 60
_HOUR = 3600
_DAY = 86_400


def listed(words: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last


def counted(count: int, one: str, many: str | None = None) -> str:
    """``1 request``, ``2 requests``."""
    return f"{count:,} {one if count == 1 else many or f'{one}s'}"


def asked(requested_by: str) -> str:
    """``, as ci asked``; empty if it is not known who did."""
    return f", as {requested_by} asked" if requested_by else ""


def moment(time: datetime) -> str:
    """A time in a sentence."""
    return time.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def before(time: datetime, seconds: float) -> str:
    """The time so many seconds before another, as `moment` says it."""
    return moment(time - timedelta(seconds=seconds))


def span(seconds: float) -> str:
    """How long something took, to two units: ``0.25 s``, ``45 s``, ``2 min 3 s``, ``3 h 5 min``."""
    if seconds < 10:
        return f"{seconds:.2g} s" if seconds < 1 else f"{seconds:.1f} s"
    whole = round(seconds)
    for unit, name, smaller, smaller_name in (
        (_DAY, "d", _HOUR, "h"),
        (_HOUR, "h", _MINUTE, "min"),
        (_MINUTE, "min", 1, "s"),
    ):
        if whole >= unit:
            rest = whole % unit // smaller
            return f"{whole // unit} {name}" + (f" {rest} {smaller_name}" if rest else "")
    return f"{whole} s"
