"""The states of circuit breakers, as metrics tell of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from suite.domain.breaker import Position
from suite.telemetry.instruments import KIND, NAME

_NUMBERS: Final[Mapping[Position, int]] = {"closed": 0, "half_open": 1, "open": 2}


def breaker_state(kind: str, name: str, position: Position) -> tuple[float, Mapping[str, str]]:
    """What `suite.breaker.state` is of a breaker in this position."""
    return _NUMBERS[position], {KIND: kind, NAME: name}
