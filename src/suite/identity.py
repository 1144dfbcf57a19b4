"""Ids and time, as they are passed in: a test passes its own."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final, TypeAlias

import uuid_utils

NewId: TypeAlias = Callable[[], str]
Now: TypeAlias = Callable[[], datetime]
Clock: TypeAlias = Callable[[], float]
"""Seconds that never go back, for lengths of time."""

_BOOT: Final[int | None] = getattr(time, "CLOCK_BOOTTIME", None)


def boot_clock() -> float:
    """Seconds that go on while the machine is suspended, where the system counts them."""
    return time.clock_gettime(_BOOT) if _BOOT is not None else time.monotonic()


def new_id() -> str:
    """A UUIDv7 (RFC 9562): unique, and ordered by the time of its making."""
    return str(uuid_utils.uuid7())


def utc_now() -> datetime:
    """The time, in UTC."""
    return datetime.now(UTC)
