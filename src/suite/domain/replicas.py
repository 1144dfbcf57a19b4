"""Whether a model that is asked for more than its nodes can serve gets a copy on one more, and when a copy
goes (ADR 62)::

    replicas = Replicas(Rule())
    for decision in replicas.decide(nodes, here="box1", now=clock()): ...    # once a second

Who waits is what counts: generations beyond the slots of a model, averaged, for each copy. A copy may take
memory that is free, and that of models whose loads together are worth less than its own; so nothing leaves
that is hotter. It goes when the other copies would have half of their slots left, for a minute on
average: between that and somebody waiting there is so much room that a steady load changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final, TypeAlias

import msgspec

from suite.domain.nodes import Hosted, Nodes, NodeView
from suite.domain.placement import Wanted, eviction, lot, place

LEAST_LEFT: Final = 0.5
"""A copy goes when the others would have this part of their slots left."""
_HARDLY_WAITING: Final = 0.01
"""An average that is as good as nothing."""
AGAIN_SECONDS: Final = 60.0
"""For so long a node is asked for no copy of a model that it could not load."""


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """When copies come and go."""

    max_copies: int = 0
    """On how many nodes a model may be loaded for its load; 0: on all."""
    waiting: float = 1.0
    """So many requests must wait for each copy on average."""
    add_seconds: float = 5.0
    """The time over which those who wait are averaged."""
    remove_seconds: float = 60.0
    """The time over which use is averaged before a copy goes, and the least time that it stays."""


class Add(msgspec.Struct, frozen=True, kw_only=True):
    """Load a model on one more node."""

    model_id: str
    node: str
    evicting: tuple[str, ...] = ()
    """The models that may leave for it."""


class Remove(msgspec.Struct, frozen=True, kw_only=True):
    """Unload a copy that was loaded because of the load."""

    model_id: str
    node: str


Decision: TypeAlias = Add | Remove


class _Load(msgspec.Struct, frozen=True, kw_only=True):
    """How a model with several copies, or with somebody who waits, was used lately."""

    at: float
    copies: int
    copies_since: float
    """Since when there are so many."""
    waiting: float = 0.0
    """Who waits, for each copy, averaged over `add_seconds`."""
    used: float = 0.0
    """Generations that run or wait, averaged over `remove_seconds`."""


class Replicas:
    """Follows how models are used in the fleet, and decides about copies."""

    def __init__(self, rule: Rule) -> None:
        self._rule = rule
        self._loads: dict[str, _Load] = {}
        self._refused: dict[tuple[str, str], float] = {}
        """Until when a node is asked for no copy of a model."""

    def decide(self, nodes: Nodes, *, here: str, now: float) -> list[Decision]:
        """What is to be done at this moment (clock time in seconds): one thing for a model, one on a node."""
        self._refused = {key: until for key, until in self._refused.items() if until > now}
        self._loads = {
            model_id: self._followed(model_id, hosts, now)
            for model_id in _replicated_or_waited_for(nodes).union(self._waited_for())
            if (hosts := _taking(nodes, model_id))
        }
        decisions: list[Decision] = []
        for model_id in sorted(self._loads, key=lambda id: (-self._loads[id].waiting, id)):
            busy = {each.node for each in decisions}
            decision = self._decision(nodes, model_id, busy, here, now)
            if decision is not None:
                decisions.append(decision)
                self._begin_again(model_id, now)
        return decisions

    def note_refused(self, model_id: str, node: str, *, now: float) -> None:
        """Note that a node could not load a copy."""
        self._refused[model_id, node] = now + AGAIN_SECONDS

    # --- how a model is used --------------------------------------------------------------------------------

    def _followed(self, model_id: str, hosts: list[NodeView], now: float) -> _Load:
        copies = len(hosts)
        hosted = [each.hosted[model_id] for each in hosts]
        used = float(sum(each.holds for each in hosted))
        before = self._loads.get(model_id)
        if before is None or before.copies != copies:
            return _Load(at=now, copies=copies, copies_since=now, used=used)
        passed = now - before.at
        return _Load(
            at=now,
            copies=copies,
            copies_since=before.copies_since,
            waiting=_average(before.waiting, _waiting(hosted) / copies, passed, self._rule.add_seconds),
            used=_average(before.used, used, passed, self._rule.remove_seconds),
        )

    def _waited_for(self) -> set[str]:
        """The models for which somebody waited lately."""
        return {model_id for model_id, load in self._loads.items() if load.waiting > _HARDLY_WAITING}

    def _begin_again(self, model_id: str, now: float) -> None:
        """Wait as long again before the next decision about a model."""
        load = self._loads[model_id]
        self._loads[model_id] = msgspec.structs.replace(load, copies_since=now, waiting=0.0)

    # --- decisions ------------------------------------------------------------------------------------------

    def _decision(
        self, nodes: Nodes, model_id: str, busy: set[str], here: str, now: float
    ) -> Decision | None:
        load, hosts = self._loads[model_id], _taking(nodes, model_id)
        if load.waiting >= self._rule.waiting:
            return self._addition(nodes, model_id, hosts, busy, here)
        if load.copies > 1 and now - load.copies_since >= self._rule.remove_seconds:
            return self._removal(model_id, hosts, busy, load)
        return None

    def _addition(
        self, nodes: Nodes, model_id: str, hosts: list[NodeView], busy: set[str], here: str
    ) -> Add | None:
        most = self._rule.max_copies or math.inf
        if len(hosts) >= most or not all(each.hosted[model_id].is_ready for each in hosts):
            return None
        refused = {node for id, node in self._refused if id == model_id}
        out = refused.union(busy, [each.node for each in nodes.hosting(model_id)])
        placed = place(Wanted(model_id=model_id, excluded=frozenset(out)), nodes, here=here)
        if placed is None or placed.reason not in ("fits", "evicts"):
            return None
        if not any(_is_same(each.hosted[model_id].sha256, placed.sha256) for each in hosts):
            return None
        view = nodes[placed.node]
        found = eviction(view, view.need_of(model_id))
        worth = max(each.hosted[model_id].loss for each in hosts)
        if found is None or (found[1] and found[0] >= worth):
            return None
        return Add(model_id=model_id, node=placed.node, evicting=found[1])

    def _removal(self, model_id: str, hosts: list[NodeView], busy: set[str], load: _Load) -> Remove | None:
        """The copy on the node where others wait for memory, or else by lot, so that nodes agree."""
        able = [each for each in hosts if each.node not in busy and _may_go(each.hosted[model_id])]
        copy = max(able, key=lambda each: (each.waiting, lot(each, model_id)), default=None)
        if copy is None:
            return None
        left = sum(each.hosted[model_id].slots for each in hosts if each is not copy)
        is_needed = load.used > left * (1 - LEAST_LEFT)
        return None if is_needed else Remove(model_id=model_id, node=copy.node)


def _taking(nodes: Nodes, model_id: str) -> list[NodeView]:
    """The nodes that have a model and take new work."""
    return [each for each in nodes.hosting(model_id) if not each.is_draining]


def _replicated_or_waited_for(nodes: Nodes) -> set[str]:
    return {
        model_id
        for view in nodes.values()
        for model_id, each in view.hosted.items()
        if each.is_replica or each.holds > each.slots
    }


def _waiting(hosted: Iterable[Hosted]) -> int:
    """How many generations wait for a slot, beyond those that run."""
    return sum(max(0, each.holds - each.slots) for each in hosted if each.is_ready)


def _may_go(hosted: Hosted) -> bool:
    """Whether it is a copy that nobody uses now, and that is not pinned."""
    return hosted.is_replica and hosted.may_leave


def _is_same(one: str, other: str) -> bool:
    return one == other or not one or not other


def _average(before: float, value: float, passed: float, seconds: float) -> float:
    """An average in which what is older than so many seconds counts little (exponential smoothing)."""
    return value + (before - value) * math.exp(-passed / seconds)
