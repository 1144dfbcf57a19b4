"""The errors of a node, grouped and counted, as few events for many errors.

The first error of a kind is told at once, and those of each minute after it are counted in one event. So an
error that comes a thousand times a second fills neither the log nor the screen of who reads it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from suite.messages.events import ErrorReported, Severity

GROUP_SECONDS: Final = 60.0
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
    """When it was made. Errors after that are not in it."""


class _Group:
    """The errors of one kind since the last event about them."""

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
        return self.count > 0 and (self.told_at is None or now - self.told_at >= GROUP_SECONDS)

    def is_over(self, now: float) -> bool:
        return not self.count and self.told_at is not None and now - self.told_at >= GROUP_SECONDS

    def told(self, count: int, at: float) -> None:
        self.told_at, self.since = at, at
        self.count -= count


class ErrorGroups:
    """The errors of one node that are not in the log yet."""

    def __init__(self, node: str) -> None:
        self._node = node
        self._groups: dict[Kind, _Group] = {}

    def add(self, kind: Kind, message: str, now: float) -> bool:
        """Count an error. Returns whether there was room for its kind."""
        if kind not in self._groups and len(self._groups) >= MOST_KINDS:
            return False
        self._groups.setdefault(kind, _Group()).add(message, now)
        return True

    def due(self, now: float, *, is_last: bool = False) -> Iterator[Due]:
        """Events that are due now, until they are `told`. `is_last`: the node stops."""
        for kind, group in tuple(self._groups.items()):
            if group.is_due(now) or (is_last and group.count):
                yield Due(kind, self._event(kind, group, now), now)
            elif group.is_over(now):
                del self._groups[kind]

    def told(self, due: Due) -> None:
        """Note that an event is in the log."""
        self._groups[due.kind].told(due.event.count, due.at)

    def _event(self, kind: Kind, group: _Group, now: float) -> ErrorReported:
        return ErrorReported(
            node=self._node,
            error_type=kind.error_type,
            severity=kind.severity,
            model_id=kind.model_id,
            message=group.message,
            count=group.count,
            within_seconds=round(now - group.since, 3) if group.count > 1 else 0.0,
        )
