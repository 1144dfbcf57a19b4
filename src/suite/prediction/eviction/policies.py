"""The eviction policies by their names, and those of somebody's own."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

from suite.domain.footprint import Footprint
from suite.errors import InvalidRequest
from suite.prediction.eviction.best_lately import BestLately
from suite.prediction.eviction.frequency import DecayedFrequency
from suite.prediction.eviction.greedy_dual import GreedyDual
from suite.prediction.eviction.guarded import Guarded, PolicyLoops, Watch, told
from suite.prediction.eviction.policy import EvictionPolicy, OwnPolicy
from suite.prediction.eviction.recency import LeastRecentlyUsed
from suite.prediction.eviction.relaxed_belady import RelaxedBelady

Make: TypeAlias = Callable[[Footprint], EvictionPolicy]
"""Makes a policy for a budget."""

POLICIES: Final[Mapping[str, Make]] = {
    BestLately.name: BestLately,
    RelaxedBelady.name: lambda _: RelaxedBelady(),
    GreedyDual.name: lambda _: GreedyDual(),
    DecayedFrequency.name: lambda _: DecayedFrequency(),
    LeastRecentlyUsed.name: lambda _: LeastRecentlyUsed(),
}
DEFAULT: Final = BestLately.name


def policy(name: str, limit_bytes: Footprint, watch: Watch) -> EvictionPolicy:
    """The policy of this name; ``module:Class`` is one of somebody's own, made without arguments.

    That one is guarded, and interrupted while `watch` is armed. Raises InvalidRequest for a name that nothing
    has, and for a class that cannot be made.
    """
    if name in POLICIES:
        return POLICIES[name](limit_bytes)
    if ":" not in name:
        raise InvalidRequest(
            f"there is no policy {name!r}: use {', '.join(POLICIES)}, or module:Class for your own"
        )
    kind = _imported(name)
    try:
        with watch.call():
            own = _made(name, kind)
    except PolicyLoops:
        raise InvalidRequest(f"the policy {name} does not end being made") from None
    return Guarded(own, POLICIES[DEFAULT](limit_bytes), watch, name=name)


def _imported(name: str) -> Callable[[], OwnPolicy]:
    module, _, attribute = name.partition(":")
    try:
        kind: Callable[[], OwnPolicy] = getattr(importlib.import_module(module), attribute)
    except BaseException as error:
        raise InvalidRequest(f"the policy {name} cannot be imported: {told(error)}") from error
    return kind


def _made(name: str, kind: Callable[[], OwnPolicy]) -> OwnPolicy:
    try:
        own = kind()
    except PolicyLoops:
        raise
    except BaseException as error:
        raise InvalidRequest(f"the policy {name} cannot be made without arguments: {told(error)}") from error
    for method in ("fold", "worth"):
        if not callable(getattr(own, method, None)):
            raise InvalidRequest(f"the policy {name} has no method {method}")
    return own
