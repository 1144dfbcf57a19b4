"""Which models to load before they are asked for: bets, each with what it may save and what it costs.

A bet saves the seconds of a load if the model is used within the horizon. It costs the work of the load, and
what the models that have to leave for it would have saved. So it is only taken into memory that nobody
is likelier to need, and only where it is expected to save more than it costs. After a restart all memory
is free.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final

import msgspec

from suite.prediction.eviction.policy import Candidate

WORK_SHARE: Final = 0.01
"""What a second of loading in vain costs, in seconds of somebody's waiting: it is done while nobody waits."""


class Bet(msgspec.Struct, frozen=True, kw_only=True):
    """A load before anybody asked for it."""

    candidate: Candidate
    chance: float
    """That the model is used within the horizon."""
    saves_seconds: float
    """Expected: the chance times the seconds of a load."""
    costs_seconds: float
    """The work of the load, and what is expected to be lost with the models that leave for it."""
    evicting: tuple[str, ...] = ()


def bets(
    absent: Collection[Candidate],
    idle: Collection[Candidate],
    free_bytes: int,
    chance: Callable[[str], float],
) -> list[Bet]:
    """The bets to take now, the best first.

    ``absent`` are the models that could be loaded, ``idle`` those in memory that may leave, and
    ``free_bytes`` is what nobody uses.
    """
    chances = {each.model_id: chance(each.model_id) for each in (*absent, *idle)}

    def density(candidate: Candidate) -> float:
        return chances[candidate.model_id] * candidate.density

    leaving = sorted(idle, key=density)
    taken: list[Bet] = []
    for candidate in sorted(absent, key=lambda each: (-density(each), each.model_id)):
        chosen = _leave(leaving, candidate.bytes - free_bytes)
        if chosen is None:
            continue
        told = chances[candidate.model_id]
        lost = sum(chances[each.model_id] * each.reload_seconds for each in chosen)
        bet = Bet(
            candidate=candidate,
            chance=told,
            saves_seconds=told * candidate.reload_seconds,
            costs_seconds=WORK_SHARE * candidate.reload_seconds + lost,
            evicting=tuple(each.model_id for each in chosen),
        )
        if bet.saves_seconds > bet.costs_seconds:
            taken.append(bet)
            free_bytes += sum(each.bytes for each in chosen) - candidate.bytes
            leaving = leaving[len(chosen) :]
    return taken


def _leave(leaving: list[Candidate], missing: int) -> list[Candidate] | None:
    """The first of those that may leave, as many as it takes; None if all are not enough."""
    chosen = []
    for each in leaving:
        if missing <= 0:
            break
        chosen.append(each)
        missing -= each.bytes
    return chosen if missing <= 0 else None
