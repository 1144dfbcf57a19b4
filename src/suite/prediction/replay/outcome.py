"""What came of a replay: cold starts, waiting, and memory that was used."""

from __future__ import annotations

from typing import Final

import msgspec

from suite.prediction.replay.history import History, Request

DAY_SECONDS: Final = 86_400


class Day(msgspec.Struct):
    """The sums of one day of a history."""

    requests: int = 0
    cold_starts: int = 0
    waited_seconds: float = 0.0

    @property
    def cold_percent(self) -> float:
        """Cold starts per 100 requests."""
        return 100 * self.cold_starts / self.requests


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """One policy with one budget."""

    policy: str
    memory_gb: float | None
    """The budget; None: no limit."""
    requests: int
    cold_starts: int
    """Requests whose model had to be loaded first."""
    refused: int
    """Requests for models that are larger than the budget. They count as cold starts, and do not wait."""
    loads: int
    evictions: int
    idle_unloads: int
    """Models that left because they were not used, not for room."""
    waited_p50_seconds: float
    waited_p95_seconds: float
    waited_seconds: float
    """All waiting for loads, together."""
    gb_hours: float
    """The memory of resident models over time."""
    model_hours: float
    days: tuple[Day, ...]
    remark: str = ""
    """What went wrong in a policy of one's own."""

    @property
    def cold_percent(self) -> float:
        """Cold starts per 100 requests."""
        return 100 * self.cold_starts / self.requests


class Tally:
    """Sums up requests while they are replayed."""

    def __init__(self, history: History) -> None:
        self.cold_starts = self.refused = self.loads = self.evictions = self.idle_unloads = 0
        self.byte_seconds = self.model_seconds = 0.0
        self._began_at = history.requests[0].at
        self._serving = len(history.requests)
        self._waits: list[float] = []
        self._days: dict[int, Day] = {}

    @property
    def is_serving(self) -> bool:
        """Whether any request has not ended."""
        return self._serving > 0

    def begin(self, request: Request, at: float) -> None:
        """A request came to use its model."""
        waited = at - request.at
        self._waits.append(waited)
        day = self._day(request)
        day.requests += 1
        day.waited_seconds += waited

    def end(self) -> None:
        """A request is over."""
        self._serving -= 1

    def cold_start(self, request: Request) -> None:
        """A load was begun for a request."""
        self.cold_starts += 1
        self._day(request).cold_starts += 1

    def refuse(self, request: Request, at: float) -> None:
        """A request was refused."""
        self.refused += 1
        self.cold_start(request)
        self.begin(request, at)
        self.end()

    def stay(self, bytes_: int, seconds: float) -> None:
        """Count the memory of a model from its load until it left."""
        self.byte_seconds += bytes_ * seconds
        self.model_seconds += seconds

    def _day(self, request: Request) -> Day:
        number = int((request.at - self._began_at) // DAY_SECONDS)
        day = self._days.get(number)
        if day is None:
            day = self._days[number] = Day()
        return day

    def outcome(self, policy: str, memory_bytes: int | None, remark: str = "") -> Outcome:
        """All of it."""
        waits = sorted(self._waits)
        return Outcome(
            policy=policy,
            memory_gb=None if memory_bytes is None else memory_bytes / 1e9,
            requests=len(waits),
            cold_starts=self.cold_starts,
            refused=self.refused,
            loads=self.loads,
            evictions=self.evictions,
            idle_unloads=self.idle_unloads,
            waited_p50_seconds=waits[len(waits) // 2],
            waited_p95_seconds=waits[min(int(len(waits) * 0.95), len(waits) - 1)],
            waited_seconds=sum(waits),
            gb_hours=self.byte_seconds / 1e9 / 3600,
            model_hours=self.model_seconds / 3600,
            days=tuple(self._days.values()),
            remark=remark,
        )
