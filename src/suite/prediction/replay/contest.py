"""Who takes part in a replay: policies, keep-alives and Belady's bound, each with each budget."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeAlias

import msgspec

from suite.errors import InvalidRequest
from suite.prediction.eviction.best_lately import BestLately
from suite.prediction.eviction.frequency import DecayedFrequency
from suite.prediction.eviction.greedy_dual import GreedyDual
from suite.prediction.eviction.guarded import Guarded, PolicyLoops, Watch
from suite.prediction.eviction.policy import EvictionPolicy
from suite.prediction.eviction.recency import LeastRecentlyUsed
from suite.prediction.eviction.relaxed_belady import RelaxedBelady
from suite.prediction.keep_alive import KeepAlive, LearnedKeepAlive, TimeToLive
from suite.prediction.replay.belady import Belady
from suite.prediction.replay.history import History
from suite.prediction.replay.node import VirtualNode
from suite.prediction.replay.outcome import Outcome

Make: TypeAlias = Callable[[int], EvictionPolicy]
"""Makes a policy for a budget in bytes."""
Budget: TypeAlias = int | None
"""In bytes; None: no limit, so that only a keep-alive makes models leave."""

POLICIES: Final[Mapping[str, Make]] = {
    BestLately.name: BestLately,
    RelaxedBelady.name: lambda _: RelaxedBelady(),
    GreedyDual.name: lambda _: GreedyDual(),
    DecayedFrequency.name: lambda _: DecayedFrequency(),
    LeastRecentlyUsed.name: lambda _: LeastRecentlyUsed(),
}
DEFAULT: Final = BestLately.name
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
    return [Contestant(name=name, make=_maker(name)) for name in dict.fromkeys(wanted)]


def _maker(name: str) -> Make:
    if name in POLICIES:
        return POLICIES[name]
    if ":" not in name:
        raise InvalidRequest(
            f"there is no policy {name!r}: use {', '.join(POLICIES)}, all, or module:Class for your own"
        )
    return _own(name)


def _own(name: str) -> Make:
    """A policy of somebody's own: its class, called without arguments."""
    module, _, attribute = name.partition(":")
    try:
        made = getattr(importlib.import_module(module), attribute)
    except (Exception, SystemExit) as error:
        raise InvalidRequest(
            f"the policy {name} cannot be imported: {type(error).__name__}: {error}"
        ) from error

    def make(_: int) -> EvictionPolicy:
        try:
            policy: EvictionPolicy = made()
        except (Exception, SystemExit) as error:
            raise InvalidRequest(
                f"the policy {name} cannot be made without arguments: {type(error).__name__}: {error}"
            ) from error
        for method in ("fold", "worth"):
            if not callable(getattr(policy, method, None)):
                raise InvalidRequest(f"the policy {name} has no method {method}")
        return policy

    return make


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
            try:
                with watch.call():
                    own = contestant.make(budget)
            except PolicyLoops:
                raise InvalidRequest(f"the policy {contestant.name} does not end being made") from None
            guarded = Guarded(own, BestLately(budget), watch, name=contestant.name)
            outcome = VirtualNode(history, guarded, limit_bytes=budget).run(contestant.name)
        return msgspec.structs.replace(outcome, remark=guarded.failure or "")

    return run


def _keeping_alive(history: History, keep_alive: KeepAlive, budget: Budget) -> Callable[[], Outcome]:
    return lambda: VirtualNode(history, LeastRecentlyUsed(), limit_bytes=budget, keep_alive=keep_alive).run(
        keep_alive.name
    )
