"""Recognizes copies of events: the log may have an event more than once, with the same id (ADR 20)."""

from __future__ import annotations

from collections import deque
from typing import Final

REMEMBERED: Final = 20_000
"""So many ids take a few MB. Read models remember all; of a copy that comes later than this something is
learned twice, which decays."""


class RecentIds:
    """Remembers the last ids, to tell which event is a copy of one before it."""

    def __init__(self, remembered: int = REMEMBERED) -> None:
        self._remembered = remembered
        self._order: deque[str] = deque()
        self._ids: set[str] = set()

    def __contains__(self, id: str) -> bool:
        """Whether this id was seen before."""
        return id in self._ids

    def add(self, id: str) -> None:
        """Remember an id."""
        if id in self._ids:
            return
        self._ids.add(id)
        self._order.append(id)
        if len(self._order) > self._remembered:
            self._ids.remove(self._order.popleft())

    def is_copy(self, id: str) -> bool:
        """Whether this id was seen before; from now on it was."""
        is_known = id in self._ids
        self.add(id)
        return is_known
