"""Tells a requester that is gone from one that connects again, by the signals that nobody received."""

from __future__ import annotations

from suite.messages.signals import HEARTBEAT_SECONDS

AWAY_SECONDS = 2 * HEARTBEAT_SECONDS
"""A requester is gone when nobody has received its signals for so long."""
SILENCE_SECONDS = 5 * HEARTBEAT_SECONDS
"""Signals that were not received are not of one absence when they are further apart."""

NO_RESPONDERS = "503"
"""The status by which the server says that nobody received a message."""


class Absence:
    """How long nobody has received the signals of one request.

    A requester that connects again misses a few, and lives.
    """

    def __init__(self) -> None:
        self._unheard: tuple[float, float] | None = None

    def note_unheard(self, at: float) -> bool:
        """Note that nobody received a signal (clock time in seconds). Returns whether the requester is gone.

        It is when it has missed those of `AWAY_SECONDS`.
        """
        first, last = self._unheard or (at, at)
        if at - last > SILENCE_SECONDS:
            first = at  # it was there meanwhile
        self._unheard = (first, at)
        return at - first >= AWAY_SECONDS
