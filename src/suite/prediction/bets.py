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

WORK_SHARE: Final = 0.1
"""What a second of loading in vain costs, in seconds of somebody's waiting: nobody waits meanwhile, but
others compute more slowly. A model whose chance is below it is not loaded."""
MOST_LOSERS: Final = 5
"""How many models that no bet was taken on are told of."""


class Bet(msgspec.Struct, frozen=True, kw_only=True):
    """A load before anybody asked for it."""

    candidate: Candidate
    chance: float
    """That the model is used within the horizon."""
    saves_seconds: float
    """Expected: the chance times the seconds of a load."""
    costs_seconds: float | None
    """The work of the load, and what is expected to be lost with the models that leave for it. None: there is
    no room for it, even if all leave that may."""
    evicting: tuple[str, ...] = ()

    @property
    def pays(self) -> bool:
        """Whether it is expected to save more than it costs."""
        return self.costs_seconds is not None and self.saves_seconds > self.costs_seconds


def is_likely(chance: float) -> bool:
    """Whether a model in memory stays though it is unused: with room, it would be loaded again at once."""
    return chance > WORK_SHARE


class Round(msgspec.Struct, frozen=True, kw_only=True):
    """All bets that were weighed at one moment, the best first."""

    taken: tuple[Bet, ...]
    passed: tuple[Bet, ...]
    """The most promising of those that were not taken, `MOST_LOSERS` at most."""


def bets(
    absent: Collection[Candidate],
    idle: Collection[Candidate],
    free_bytes: int,
    chance: Callable[[str], float],
) -> list[Bet]:
    """The bets to take now, the best first. The arguments are those of `weigh`."""
    return list(weigh(absent, idle, free_bytes, chance).taken)


def weigh(
    absent: Collection[Candidate],
    idle: Collection[Candidate],
    free_bytes: int,
    chance: Callable[[str], float],
) -> Round:
    """Weigh a bet on each model.

    ``absent`` are the models that could be loaded, ``idle`` those in memory that may leave, and
    ``free_bytes`` is what nobody uses.
    """
    chances = {each.model_id: chance(each.model_id) for each in (*absent, *idle)}

    def density(candidate: Candidate) -> float:
        return chances[candidate.model_id] * candidate.density

    leaving = sorted(idle, key=density)
    taken: list[Bet] = []
    passed: list[Bet] = []
    for candidate in sorted(absent, key=lambda each: (-density(each), each.model_id)):
        chosen = _leave(leaving, candidate.bytes - free_bytes)
        bet = _bet(candidate, chosen, chances)
        if chosen is not None and bet.pays:
            taken.append(bet)
            free_bytes += sum(each.bytes for each in chosen) - candidate.bytes
            leaving = leaving[len(chosen) :]
        elif bet.chance > 0.0:
            passed.append(bet)
    return Round(taken=tuple(taken), passed=tuple(passed[:MOST_LOSERS]))


def _bet(candidate: Candidate, leaving: list[Candidate] | None, chances: dict[str, float]) -> Bet:
    told = chances[candidate.model_id]
    cost = None
    if leaving is not None:
        lost = sum(chances[each.model_id] * each.reload_seconds for each in leaving)
        cost = WORK_SHARE * candidate.reload_seconds + lost
    return Bet(
        candidate=candidate,
        chance=told,
        saves_seconds=told * candidate.reload_seconds,
        costs_seconds=cost,
        evicting=tuple(each.model_id for each in leaving or ()),
    )


def _leave(leaving: list[Candidate], missing: int) -> list[Candidate] | None:
    """The first of those that may leave, as many as it takes; None if all are not enough."""
    chosen = []
    for each in leaving:
        if missing <= 0:
            break
        chosen.append(each)
        missing -= each.bytes
    return chosen if missing <= 0 else None
