"""The errors of a node, counted by their kind, as few events for many errors.

The first error of a kind is told at once, and those of each minute after it are counted in one event. So an
error that comes a thousand times a second fills neither the log nor the screen of who reads it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from suite.messages.events import ErrorReported, Severity

COUNT_SECONDS: Final = 60.0
"""In each such period, errors of one kind are one event."""
MOST_KINDS: Final = 256
"""So many kinds are counted at once."""


class Kind(NamedTuple):
    """What makes errors the same."""

    error_type: str
    severity: Severity
    model_id: str = ""
    cause: str = ""
    """What was raised, and where; empty where the type says it all."""


class Due(NamedTuple):
    """An event that is to be appended."""

    kind: Kind
    event: ErrorReported
    at: float
    """When it was made, in seconds of the clock. Errors after that are not in it."""


class _Tally:
    """The errors of one kind since the last event about them. Times are seconds of the node's clock."""

    def __init__(self) -> None:
        self.told_at: float | None = None
        self.count = 0
        self.since = 0.0
        self.message = ""

    def add(self, message: str, now: float) -> None:
        if not self.count:
            self.since = now
        self.count += 1
        self.message = message

    def is_due(self, now: float) -> bool:
        return self.count > 0 and (self.told_at is None or now - self.told_at >= COUNT_SECONDS)

    def is_over(self, now: float) -> bool:
        return not self.count and self.told_at is not None and now - self.told_at >= COUNT_SECONDS

    def told(self, count: int, at: float) -> None:
        self.told_at, self.since = at, at
        self.count -= count


class ErrorCounts:
    """The errors of one node that are not in the log yet."""

    def __init__(self, node: str) -> None:
        self._node = node
        self._counts: dict[Kind, _Tally] = {}

    def add(self, kind: Kind, message: str, now: float) -> bool:
        """Count an error. Returns whether there was room for its kind."""
        if kind not in self._counts and len(self._counts) >= MOST_KINDS:
            return False
        self._counts.setdefault(kind, _Tally()).add(message, now)
        return True

    def due(self, now: float, *, is_last: bool = False) -> Iterator[Due]:
        """Events that are due now, until they are `told`. `is_last`: the node stops."""
        for kind, tally in tuple(self._counts.items()):
            if tally.is_due(now) or (is_last and tally.count):
                yield Due(kind, self._event(kind, tally, now), now)
            elif tally.is_over(now):
                del self._counts[kind]

    def told(self, due: Due) -> None:
        """Note that an event is in the log."""
        self._counts[due.kind].told(due.event.count, due.at)

    def _event(self, kind: Kind, tally: _Tally, now: float) -> ErrorReported:
        return ErrorReported(
            node=self._node,
            error_type=kind.error_type,
            severity=kind.severity,
            model_id=kind.model_id,
            message=tally.message,
            count=tally.count,
            within_seconds=round(now - tally.since, 3) if tally.count > 1 else 0.0,
        )
