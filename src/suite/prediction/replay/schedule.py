"""What is due when, in virtual time."""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heappop, heappush


class Schedule:
    """A time for each key; setting a key again replaces its time."""

    def __init__(self) -> None:
        self._times: dict[str, float] = {}
        self._heap: list[tuple[float, str]] = []
        """May also have times that were replaced or dropped since."""

    def set(self, key: str, at: float) -> None:
        """Have a key due at a time."""
        self._times[key] = at
        heappush(self._heap, (at, key))

    def drop(self, key: str) -> None:
        """Have a key due no longer."""
        self._times.pop(key, None)

    def due(self, now: float) -> Iterator[tuple[str, float]]:
        """Take out what is due before ``now``, with its time, in order."""
        while self._heap and self._heap[0][0] < now:
            at, key = heappop(self._heap)
            if self._times.get(key) == at:
                del self._times[key]
                yield key, at
