"""Who takes part in a replay: policies, keep-alives and Belady's bound, each with each budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from suite.errors import InvalidRequest
from suite.prediction.eviction.policies import DEFAULT, POLICIES
from suite.prediction.eviction.recency import LeastRecentlyUsed
from suite.prediction.replay.belady import Belady
from suite.prediction.replay.history import History
from suite.prediction.replay.outcome import Outcome
from suite.prediction.replay.recommendation import Recommendation, choose, recommend
from suite.prediction.replay.run import Budget, Run
from suite.prediction.replay.workers import outcomes_of

TTLS: Final = (300.0, 600.0, 3_600.0)
"""The times to live, in seconds, that are always beside."""


class Contest:
    """Policies, budgets and times to live, to be compared on one history."""

    def __init__(
        self,
        policies: Sequence[str],
        budgets: Sequence[Budget],
        *,
        ttls: Sequence[float] = TTLS,
        with_bets: bool = False,
        instant: bool = False,
    ) -> None:
        """``policies`` are names, ``all``, or ``module:Class`` for one of somebody's own.

        Raises InvalidRequest for a name that nothing has.
        """
        self._policies = _names(policies)
        self._budgets = tuple(dict.fromkeys(budgets))
        self._ttls = tuple(dict.fromkeys(ttls))
        self._with_bets = with_bets
        self._instant = instant

    @property
    def remarks(self) -> tuple[str, ...]:
        """What a person should know of what is compared."""
        if None not in self._budgets:
            return ()
        return ("with unlimited memory nobody has to leave for others: there, no policy is compared",)

    def outcomes(
        self, history: History, *, progress: Callable[[float], None] = lambda _: None, apart: bool = True
    ) -> list[Outcome]:
        """What came of each policy with each budget, with LRU, plain TTLs and Belady's bound beside.

        `apart`: whether much work is done by other processes.

        Raises InvalidRequest for a budget that is smaller than every model, a class that is no policy, or if
        there is nothing to compare.
        """
        smallest = min(history.candidates.values(), key=lambda each: each.footprint.ram)
        for budget in self._budgets:
            if budget is not None and budget < smallest.footprint.ram:
                raise InvalidRequest(
                    f"a budget of {budget / 1e9:g} GB has room for none of the models: the smallest, "
                    f"{smallest.model_id}, takes {smallest.footprint.ram / 1e9:g} GB"
                )
        runs = [run for budget in self._budgets for run in self._runs(budget)]
        if not runs:
            raise InvalidRequest(
                "there is nothing to compare: with unlimited memory only a time to live makes models leave; "
                "give one with --keep-alive"
            )
        return outcomes_of(runs, history, progress=progress, apart=apart)

    def recommendation(
        self,
        history: History,
        outcomes: list[Outcome],
        *,
        progress: Callable[[float], None] = lambda _: None,
        apart: bool = True,
    ) -> Recommendation:
        """What would have served best. The times to live of the best policy are replayed, and added."""
        best = choose(outcomes)
        if not best.keep_alive and best.memory_gb is not None:
            runs = [
                self._run(best.policy, round(best.memory_gb * 1e9), ttl_seconds=ttl, with_bets=best.with_bets)
                for ttl in self._ttls
            ]
            outcomes += outcomes_of(runs, history, progress=progress, apart=apart)
        return recommend(outcomes)

    def _runs(self, budget: Budget) -> list[Run]:
        """All runs with one budget, in the order in which they are shown."""
        if budget is None:
            return [
                self._run(LeastRecentlyUsed.name, None, ttl_seconds=ttl, is_learned=is_learned)
                for ttl in self._ttls
                for is_learned in (True, False)
            ]
        bets = [self._run(DEFAULT, budget, with_bets=True)] if self._with_bets else []
        return [
            *(self._run(each, budget) for each in self._policies),
            *bets,
            *(self._run(LeastRecentlyUsed.name, budget, ttl_seconds=ttl) for ttl in self._ttls),
            self._run(Belady.name, budget),
        ]

    def _run(
        self,
        policy: str,
        budget: Budget,
        *,
        ttl_seconds: float | None = None,
        is_learned: bool = False,
        with_bets: bool = False,
    ) -> Run:
        return Run(
            policy=policy,
            budget=budget,
            ttl_seconds=ttl_seconds,
            is_learned=is_learned,
            with_bets=with_bets,
            instant=self._instant,
        )


def _names(policies: Sequence[str]) -> tuple[str, ...]:
    wanted = [each for name in policies for each in (POLICIES if name == "all" else (name,))]
    for name in wanted:
        if name not in POLICIES and ":" not in name:
            raise InvalidRequest(
                f"there is no policy {name!r}: use {', '.join(POLICIES)}, all, or module:Class for your own"
            )
    return tuple(dict.fromkeys((*wanted, LeastRecentlyUsed.name)))
