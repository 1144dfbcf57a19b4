"""Who takes part in a replay: policies, keep-alives and Belady's bound, each with each budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

import msgspec

from suite.errors import InvalidRequest
from suite.prediction.eviction.guarded import Guarded, Watch
from suite.prediction.eviction.policies import POLICIES, Make, maker, policy
from suite.prediction.eviction.recency import LeastRecentlyUsed
from suite.prediction.keep_alive import KeepAlive, LearnedKeepAlive, TimeToLive
from suite.prediction.replay.belady import Belady
from suite.prediction.replay.history import History
from suite.prediction.replay.node import VirtualNode
from suite.prediction.replay.outcome import Outcome

Budget: TypeAlias = int | None
"""In bytes; None: no limit, so that only a keep-alive makes models leave."""

TTLS: Final = (300.0, 600.0, 3_600.0)
"""The times to live, in seconds, that are always beside."""
CALL_SECONDS: Final = 2.0
"""How long one call of a policy of one's own may take."""


class Contestant(msgspec.Struct, frozen=True, kw_only=True):
    """One policy that takes part."""

    name: str
    make: Make


def contestants(names: Sequence[str]) -> list[Contestant]:
    """The policies of these names, all if one is ``all``; LRU is always among them.

    ``module:Class`` is a policy of one's own. Raises InvalidRequest for a name that nothing has.
    """
    wanted = [each for name in names for each in (POLICIES if name == "all" else (name,))]
    wanted.append(LeastRecentlyUsed.name)
    return [Contestant(name=name, make=maker(name)) for name in dict.fromkeys(wanted)]


def replay(
    history: History,
    policies: Sequence[Contestant],
    budgets: Sequence[Budget],
    *,
    progress: Callable[[float], None] = lambda _: None,
) -> list[Outcome]:
    """What came of each policy with each budget, with plain TTLs and Belady's bound beside.

    Raises InvalidRequest for a budget that is smaller than every model.
    """
    smallest = min(history.candidates.values(), key=lambda each: each.bytes)
    for budget in budgets:
        if budget is not None and budget < smallest.bytes:
            raise InvalidRequest(
                f"a budget of {budget / 1e9:g} GB has room for none of the models: the smallest, "
                f"{smallest.model_id}, takes {smallest.bytes / 1e9:g} GB"
            )
    runs = [run for budget in budgets for run in _runs(history, policies, budget)]
    outcomes = []
    for done, run in enumerate(runs, 1):
        outcomes.append(run())
        progress(done / len(runs))
    return outcomes


def _runs(history: History, policies: Sequence[Contestant], budget: Budget) -> list[Callable[[], Outcome]]:
    if budget is None:
        keep_alives = [make(ttl) for ttl in TTLS for make in (LearnedKeepAlive, TimeToLive)]
        return [_keeping_alive(history, each, None) for each in keep_alives]
    return [
        *(_evicting(history, each, budget) for each in policies),
        *(_keeping_alive(history, TimeToLive(ttl), budget) for ttl in TTLS),
        lambda: VirtualNode(history, Belady(history.requests), limit_bytes=budget).run(Belady.name),
    ]


def _evicting(history: History, contestant: Contestant, budget: int) -> Callable[[], Outcome]:
    if contestant.name in POLICIES:
        return lambda: VirtualNode(history, contestant.make(budget), limit_bytes=budget).run(contestant.name)

    def run() -> Outcome:
        watch = Watch(CALL_SECONDS)
        with watch.armed():
            own = policy(contestant.name, budget, watch)
            outcome = VirtualNode(history, own, limit_bytes=budget).run(contestant.name)
        failure = own.failure if isinstance(own, Guarded) else None
        return msgspec.structs.replace(outcome, remark=failure or "")

    return run


def _keeping_alive(history: History, keep_alive: KeepAlive, budget: Budget) -> Callable[[], Outcome]:
    return lambda: VirtualNode(history, LeastRecentlyUsed(), limit_bytes=budget, keep_alive=keep_alive).run(
        keep_alive.name
    )
