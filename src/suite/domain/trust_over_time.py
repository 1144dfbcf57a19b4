"""How the trust in a model went: what `suite.domain.trust` says after each thing that has happened to it.

Evaluations that were retracted are left out from the beginning, as the trust of now leaves them out. So the
last point is the trust of now.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence
from datetime import datetime
from operator import attrgetter
from typing import NamedTuple

import msgspec

from suite.domain.trust import RECENT, Evaluated, Evidence, trust
from suite.messages.actions.statistics import TrustCause


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that changes the trust in a model."""

    at: datetime
    seq: int
    """Its place in the log: of evaluations, the last ones there count."""
    cause: TrustCause
    evaluated: Evaluated | None = None
    """The scores, of an evaluation."""


class TrustAt(NamedTuple):
    """The trust after a change."""

    change: Change
    trust: float


def trust_over_time(changes: Sequence[Change], *, begin: int = 0, most: int) -> list[TrustAt]:
    """The trust after each change, from number `begin` on, in the order of time.

    If there are more than `most`, those are told that are evenly spread, the last one among them. Changes
    after which nothing is known are left out.
    """
    told = _spread(len(changes) - begin, most)
    known = _Known()
    points = []
    for number, change in enumerate(sorted(changes, key=attrgetter("at", "seq"))):
        known.apply(change)
        if number - begin in told and (value := trust(known.evidence)) is not None:
            points.append(TrustAt(change, value))
    return points


def _spread(count: int, most: int) -> set[int]:
    if count <= most:
        return set(range(count))
    return {count - 1 - number * count // most for number in range(most)}


class _Known:
    """What was known of a model by some time."""

    def __init__(self) -> None:
        self._since = 0
        """The last change of its files."""
        self._evaluations: list[tuple[int, Evaluated]] = []
        """In the order of the log."""
        self._loads = self._crashes = 0

    def apply(self, change: Change) -> None:
        if change.seq <= self._since:
            return
        if change.cause == "content":
            self._since = change.seq
            self._evaluations = [each for each in self._evaluations if each[0] > change.seq]
            self._loads = self._crashes = 0
        elif change.evaluated is not None:
            insort(self._evaluations, (change.seq, change.evaluated), key=lambda each: each[0])
        else:
            self._loads += change.cause == "load"
            self._crashes += change.cause == "crash"

    @property
    def evidence(self) -> Evidence:
        latest = tuple(evaluated for _, evaluated in reversed(self._evaluations[-RECENT:]))
        return Evidence(evaluations=latest, loads=self._loads, crashes=self._crashes)
