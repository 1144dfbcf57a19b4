"""What is going to happen when, in virtual time."""

from __future__ import annotations

import math
from collections.abc import Callable
from heapq import heappop, heappush


class Agenda:
    """Calls actions in the order of their times; of those at the same time, the first that was added."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Callable[[float], None]]] = []
        self._added = 0

    def add(self, at: float, action: Callable[[float], None]) -> None:
        """Have an action called with its time."""
        self._added += 1
        heappush(self._heap, (at, self._added, action))

    @property
    def next_at(self) -> float:
        """When something is due; infinite if nothing is."""
        return self._heap[0][0] if self._heap else math.inf

    def run(self, until: float) -> None:
        """Call what is due up to a time, and what that adds."""
        heap = self._heap
        while heap and heap[0][0] <= until:
            at, _, action = heappop(heap)
            action(at)
