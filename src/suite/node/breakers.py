"""The circuit breakers of a node: what happens to them is in the log, how they are in health (ADR 65)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Final

from suite.circuit_breaker import CircuitBreaker, log_event
from suite.domain.breaker import Policy
from suite.errors import LogNotWritable
from suite.identity import Clock, Now
from suite.messages.actions.status import BreakerInfo
from suite.messages.events import BreakerKind
from suite.messages.times import rfc3339
from suite.node.journal import Journal
from suite.ticks import tick

LOOK_SECONDS: Final = 1.0
"""How soon what has happened to a breaker is in the log."""
_TOLD_ELSEWHERE: Final = frozenset[BreakerKind]({"gateway", "otlp", "service"})
"""Kinds whose outages are logged by who notices them."""


class Breakers:
    """All breakers of one node."""

    def __init__(self, node: str, *, now: Now, clock: Clock) -> None:
        self._node = node
        self._now = now
        self._clock = clock
        self._breakers: list[CircuitBreaker] = []

    def __iter__(self) -> Iterator[CircuitBreaker]:
        return iter(self._breakers)

    def make(self, kind: BreakerKind, name: str, policy: Policy) -> CircuitBreaker:
        """A closed breaker, which belongs to these from now on."""
        breaker = CircuitBreaker(kind, name, policy, node=self._node, clock=self._clock)
        self.add([breaker])
        return breaker

    def add(self, breakers: Iterable[CircuitBreaker]) -> None:
        """Have these belong to them too."""
        self._breakers += breakers

    async def run(self, journal: Journal) -> None:
        """Append what happens to them, until cancelled. Raises Fenced and LogGone."""
        while True:
            for breaker in self._breakers:
                for event in breaker.take_events(for_log=True):
                    if event.kind not in _TOLD_ELSEWHERE:
                        log_event(event)
                    with suppress(LogNotWritable):  # then it is written later
                        await journal.record(event)
            await tick(LOOK_SECONDS)

    def infos(self) -> list[BreakerInfo]:
        """How they are."""
        return [self._info(each) for each in self._breakers]

    def _info(self, breaker: CircuitBreaker) -> BreakerInfo:
        state, now = breaker.state, self._now()
        ago = timedelta(seconds=breaker.seconds_in_position)
        return BreakerInfo(
            **breaker.of._asdict(),
            state=breaker.position,
            failures=state.failures,
            since=rfc3339(now - ago),
            until=_until(now, breaker),
            reason=state.reason,
        )


def _until(now: datetime, breaker: CircuitBreaker) -> str | None:
    if breaker.position != "open":
        return None
    return rfc3339(now + timedelta(seconds=breaker.wait_seconds))
