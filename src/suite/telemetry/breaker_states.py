"""The states of circuit breakers, as metrics tell of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple, get_args

from suite.circuit_breaker import CircuitBreaker
from suite.domain.breaker import Position
from suite.telemetry import instruments
from suite.telemetry.instrument import Attributes

_POSITIONS: Final[tuple[Position, ...]] = get_args(Position)


class BreakerState(NamedTuple):
    """A breaker, and the state that it is in."""

    kind: str
    name: str
    position: Position


def states_of(breakers: Iterable[CircuitBreaker]) -> Iterator[BreakerState]:
    """The states that these are in."""
    for each in breakers:
        yield BreakerState(each.of.kind, each.of.name, each.state.position)


def observed(states: Iterable[BreakerState]) -> Iterator[tuple[float, Attributes]]:
    """A series for each state that a breaker can be in: 1 for that which it is in, 0 for the others."""
    for kind, name, current in states:
        for position in _POSITIONS:
            attributes = {
                instruments.BREAKER_KIND: kind,
                instruments.BREAKER_NAME: name,
                instruments.BREAKER_POSITION: position,
            }
            yield float(position == current), attributes
