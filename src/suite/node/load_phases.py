"""The parts of one load, and how long each took."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

LoadPhase: TypeAlias = Literal["wait", "reserve", "evict", "inspect", "spawn", "map", "warm_up"]
"""`wait`: until it is its turn; `reserve`: until its start is in the log; `evict`: until those that leave for
it have left; `inspect`: what its files are, and how they are to be loaded; `spawn`: until its process begins
to load; `map`: until llama.cpp has the weights; `warm_up`: the rest."""

MEASURED: Final[tuple[LoadPhase, ...]] = ("reserve", "evict", "inspect", "spawn", "map", "warm_up")
"""Those of a load that is decided, in order."""


class LoadPhases:
    """The phases of a load that have begun, one after the other."""

    def __init__(self, now: float) -> None:
        self._began: dict[LoadPhase, float] = {"reserve": now}

    def begin(self, phase: LoadPhase, now: float) -> None:
        """A phase begins, unless it has begun already, and ends the one before."""
        self._began.setdefault(phase, now)

    def seconds(self, now: float) -> dict[LoadPhase, float]:
        """How long each took that has begun; the last one until now."""
        begun = [phase for phase in MEASURED if phase in self._began]
        ends = [*(self._began[phase] for phase in begun[1:]), now]
        return {phase: max(0.0, end - self._began[phase]) for phase, end in zip(begun, ends, strict=True)}
