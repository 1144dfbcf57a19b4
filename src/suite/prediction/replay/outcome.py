"""What came of a replay: cold starts, waiting, and memory that was used."""

from __future__ import annotations

from typing import Final

import msgspec

from suite.prediction.eviction.recency import LeastRecentlyUsed
from suite.prediction.replay.history import History, Request

BETS: Final = "bets"


class Period(msgspec.Struct, kw_only=True):
    """The sums of one period of a history, of the requests that came in it."""

    number: int
    """0: the first."""
    requests: int = 0
    cold_starts: int = 0
    waited_seconds: float = 0.0

    @property
    def cold_percent(self) -> float:
        """Cold starts per 100 requests."""
        return _percent(self.cold_starts, self.requests)


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """One policy with one budget."""

    policy: str
    """Who decided which model leaves."""
    keep_alive: str = ""
    """How long a model stayed after a use; empty: as long as nobody needed its memory."""
    with_bets: bool = False
    """Whether models were loaded before anybody asked for them."""
    memory_gb: float | None
    """The budget; None: no limit."""
    requests: int
    cold_starts: int
    """Requests for whose model a load was begun."""
    refused: int
    """Requests for models that are larger than the budget, or that waited for memory for too long. They count
    as cold starts."""
    loads: int
    evictions: int
    idle_unloads: int
    """Models that left because they were not used, not for room."""
    bets_won: int
    """Models that were used within the horizon after they had been loaded before anybody asked."""
    bets_lost: int
    waited_p50_seconds: float
    waited_p95_seconds: float
    waited_seconds: float
    """All waiting for memory and loads, together."""
    gb_hours: float
    """The memory of resident models over time."""
    model_hours: float
    period_seconds: float
    periods: tuple[Period, ...]
    """Those in which there were requests, in order."""
    remark: str = ""
    """What went wrong in a policy of one's own."""

    @property
    def name(self) -> str:
        """What it is called in tables. A plain time to live is LRU with it."""
        is_plain = self.keep_alive and self.policy == LeastRecentlyUsed.name
        parts = ("" if is_plain else self.policy, self.keep_alive, BETS if self.with_bets else "")
        return "+".join(filter(None, parts))

    @property
    def cold_percent(self) -> float:
        """Cold starts per 100 requests."""
        return _percent(self.cold_starts, self.requests)


class Tally:
    """Sums up requests while they are replayed."""

    def __init__(self, history: History) -> None:
        self.cold_starts = self.refused = self.loads = self.evictions = self.idle_unloads = 0
        self.bets_won = self.bets_lost = 0
        self.byte_seconds = self.model_seconds = 0.0
        self._began_at = history.requests[0].at
        self._serving = len(history.requests)
        self._waits: list[float] = []
        self._period_seconds = history.period_seconds
        self._periods: dict[int, Period] = {}

    @property
    def is_serving(self) -> bool:
        """Whether any request has not ended."""
        return self._serving > 0

    def begin(self, request: Request, at: float) -> None:
        """A request came to use its model."""
        waited = at - request.at
        self._waits.append(waited)
        period = self._period(request)
        period.requests += 1
        period.waited_seconds += waited

    def end(self) -> None:
        """A request is over."""
        self._serving -= 1

    def cold_start(self, request: Request) -> None:
        """A load was begun for a request."""
        self.cold_starts += 1
        self._period(request).cold_starts += 1

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

    def outcome(self, policy: str, memory_bytes: int | None) -> Outcome:
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
            bets_won=self.bets_won,
            bets_lost=self.bets_lost,
            waited_p50_seconds=waits[len(waits) // 2],
            waited_p95_seconds=waits[min(int(len(waits) * 0.95), len(waits) - 1)],
            waited_seconds=sum(waits),
            gb_hours=self.byte_seconds / 1e9 / 3600,
            model_hours=self.model_seconds / 3600,
            period_seconds=self._period_seconds,
            periods=tuple(self._periods[number] for number in sorted(self._periods)),
        )

    def _period(self, request: Request) -> Period:
        number = int((request.at - self._began_at) // self._period_seconds)
        period = self._periods.get(number)
        if period is None:
            period = self._periods[number] = Period(number=number)
        return period


def _percent(part: int, whole: int) -> float:
    return 100 * part / whole if whole else 0.0
