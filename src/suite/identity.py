"""Ids and time, as they are passed in: a test passes its own."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import TypeAlias

import uuid_utils

NewId: TypeAlias = Callable[[], str]
Now: TypeAlias = Callable[[], datetime]
Clock: TypeAlias = Callable[[], float]
"""Seconds that never go back, for lengths of time."""


def new_id() -> str:
    """A UUIDv7 (RFC 9562): unique, and ordered by the time of its making."""
    return str(uuid_utils.uuid7())


def utc_now() -> datetime:
    """The time, in UTC."""
    return datetime.now(UTC)
