"""Which models to load before they are asked for: bets, each with what it may save and what it costs.

A bet saves the seconds of a load if the model is used within the horizon. It costs the work of the load, and
what the models that have to leave for it would have saved. So it is only taken into memory that nobody
is likelier to need, and only where it is expected to save more than it costs. After a restart all memory
is free.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable
from typing import Final

import msgspec

from suite.domain.footprint import Footprint, total_of
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
    def gain(self) -> float:
        """What it is expected to save, less what it costs, in seconds; none if there is no room for it."""
        return -math.inf if self.costs_seconds is None else self.saves_seconds - self.costs_seconds

    @property
    def pays(self) -> bool:
        """Whether it is expected to save more than it costs."""
        return self.gain > 0.0


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
    free_bytes: Footprint,
    chance: Callable[[str], float],
) -> list[Bet]:
    """The bets to take now, the best first. The arguments are those of `weigh`."""
    return list(weigh(absent, idle, free_bytes, chance).taken)


def weigh(
    absent: Collection[Candidate],
    idle: Collection[Candidate],
    free_bytes: Footprint,
    chance: Callable[[str], float],
) -> Round:
    """Weigh a bet on each model.

    ``absent`` are the models that could be loaded, ``idle`` those in memory that may leave, and
    ``free_bytes`` is what nobody uses.
    """
    chances = {each.model_id: chance(each.model_id) for each in (*absent, *idle)}

    def density(candidate: Candidate) -> float:
        return chances[candidate.model_id] * candidate.density

    def order(memory: str) -> list[Candidate]:
        return sorted(idle, key=lambda each: density(each.in_memory(memory)))

    orders: dict[str, list[Candidate]] = {}
    """In which models leave for one that is short of a memory: those first that are worth the least there."""
    gone: set[str] = set()
    taken: list[Bet] = []
    passed: list[Bet] = []
    for candidate in sorted(absent, key=lambda each: (-density(each), each.model_id)):
        memory = candidate.footprint.scarcest(free_bytes)
        leaving = orders[memory] = orders.get(memory) or order(memory)
        chosen = _leave((each for each in leaving if each.model_id not in gone), candidate, free_bytes)
        bet = _bet(candidate, chosen, chances)
        if chosen is not None and bet.pays:
            taken.append(bet)
            free_bytes += total_of(each.footprint for each in chosen) - candidate.footprint
            gone.update(bet.evicting)
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


def _leave(leaving: Iterable[Candidate], candidate: Candidate, room: Footprint) -> list[Candidate] | None:
    """The first of those that may leave, as many as it takes; None if all are not enough."""
    chosen: list[Candidate] = []
    need_bytes = candidate.footprint
    missing = need_bytes.beyond(room)
    for each in leaving:
        if not missing:
            break
        if each.footprint.eases(missing):
            chosen.append(each)
            room += each.footprint
            missing = need_bytes.beyond(room)
    return None if missing else chosen
