"""The nodes of a fleet as one of them knows them, found by the models that they have::

    nodes = Nodes([view])
    nodes.hosting("tiny")      # the nodes that have it in memory
    nodes.offering("tiny")     # those that could load it, by what their catalogues say of it

A decision about one model looks at the nodes that matter for it, however many there are (ADR 62).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import lru_cache
from typing import NamedTuple, TypeAlias
from zlib import crc32

import msgspec

from suite.domain.footprint import NOTHING, Footprint, total_of


class Hosted(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A model in the memory of a node."""

    instance_id: str = ""
    sha256: str = ""
    is_ready: bool = True
    holds: int = 0
    slots: int = 1
    footprint: Footprint = NOTHING
    may_leave: bool = False
    is_pinned: bool = False
    is_replica: bool = False
    """Whether it was loaded because the load was too much for other nodes."""
    loss: float = 0.0
    """What is lost if it leaves: the seconds that its load takes, less the longer nobody has used it."""

    @property
    def load(self) -> float:
        """How many generations it has for each of its slots."""
        return self.holds / self.slots

    @property
    def density(self) -> float:
        """What is lost for each byte that it frees."""
        return self.loss / max(1, self.footprint.total)


class Offered(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A model that a node could load."""

    sha256: str = ""
    footprint: Footprint = NOTHING
    settings: str = ""
    adapters: frozenset[str] = frozenset()
    """The adapters that it can be computed with, and the names that stand for it with adapters."""
    chats: bool = True
    """Whether it has a chat template, as far as is known."""
    reads_pictures: bool | None = None
    """Whether it has a projector; None: that is not known."""
    has_draft: bool = False
    """Whether it has a draft model."""


class NodeView(msgspec.Struct, frozen=True, kw_only=True):
    """One node, as another knows it."""

    node: str
    limits: Footprint = NOTHING
    free: Footprint = NOTHING
    waiting: int = 0
    """How many requests wait for memory."""
    hosted: Mapping[str, Hosted] = {}
    offered: Mapping[str, Offered] = {}
    """Nodes with the same catalogue have the same object here: it is looked at once for all of them."""
    needs: Mapping[str, Footprint] = {}
    """What models were measured to need here, where that is far from what is offered."""
    paused: frozenset[str] = frozenset()
    """The models that it does not load for a while, because they failed again and again."""
    is_draining: bool = False
    room: Footprint = NOTHING
    """What is free once all models have left that may. This and what follows is made of the rest."""
    least_loss: float = math.inf
    """The loss of the model that is cheapest to unload; infinite if none may leave."""
    least_density: float = 0.0
    """The least that is lost for each byte."""
    is_plain: bool = True
    """Whether it loads what it offers at once: it does not drain, nobody waits for memory, and no model is
    paused or was measured to need something else."""
    seed: int = 0
    """Of the numbers that settle what is equal."""

    def __post_init__(self) -> None:
        """Sum up at once what decisions look at first: a view is made once, and decided about often."""
        leaving = [each for each in self.hosted.values() if each.may_leave]
        made = {
            "room": self.free + total_of([each.footprint for each in leaving]),
            "least_loss": min([each.loss for each in leaving], default=math.inf),
            "least_density": min([each.density for each in leaving], default=0.0),
            "is_plain": not (self.is_draining or self.waiting or self.needs or self.paused),
            "seed": seed_of(self.node),
        }
        for name, value in made.items():
            msgspec.structs.force_setattr(self, name, value)

    def need_of(self, model_id: str) -> Footprint:
        """The memory that a model takes here that it offers."""
        measured = self.needs.get(model_id)
        return measured if measured is not None else self.offered[model_id].footprint


@lru_cache(maxsize=65_536)
def seed_of(name: str) -> int:
    """A number for the name of a node or a model, the same wherever it is asked."""
    return crc32(name.encode())


class Offer(NamedTuple):
    """A model as one catalogue has it, and nodes with this catalogue."""

    offered: Offered
    views: Mapping[str, NodeView]
    are_plain: bool
    """Whether all of them are (`NodeView.is_plain`), else none is: those need not be looked at one by one."""


_Group: TypeAlias = tuple[int, bool]
"""What the nodes have in common that are kept together: the identity of what they offer, which their views
keep alive, and whether they are plain."""


class Nodes(Mapping[str, NodeView]):
    """Nodes by name, with an index by what they have loaded and one by their catalogues."""

    def __init__(self, views: Iterable[NodeView] = ()) -> None:
        self._views: dict[str, NodeView] = {}
        self._hosts: dict[str, set[str]] = {}
        self._groups: dict[_Group, dict[str, NodeView]] = {}
        for each in views:
            self.put(each)

    def __getitem__(self, node: str) -> NodeView:
        return self._views[node]

    def __iter__(self) -> Iterator[str]:
        return iter(self._views)

    def __len__(self) -> int:
        return len(self._views)

    def hosting(self, model_id: str) -> list[NodeView]:
        """The nodes that have a model in memory, or on its way there."""
        return [self._views[node] for node in self._hosts.get(model_id, ())]

    def offering(self, model_id: str) -> list[Offer]:
        """The nodes that could load a model, together where they have the same catalogue."""
        return [
            Offer(offered, views, are_plain)
            for (_, are_plain), views in self._groups.items()
            if (offered := _any(views).offered.get(model_id)) is not None
        ]

    @property
    def catalogues(self) -> Iterable[Mapping[str, Offered]]:
        """What nodes could load, once for all with the same catalogue."""
        return {key: _any(views).offered for (key, _), views in self._groups.items()}.values()

    def knows(self, model_id: str) -> bool:
        """Whether any node has a model, or could load it."""
        return model_id in self._hosts or bool(self.offering(model_id))

    @property
    def hosted(self) -> Collection[str]:
        """The models that any node has in memory, or on their way there."""
        return self._hosts.keys()

    def put(self, view: NodeView) -> None:
        """Know a node by this view from now on."""
        before = self._views.get(view.node)
        self._views[view.node] = view
        if before is not None and _group(before) != _group(view):
            self._forget_group(before)
        self._groups.setdefault(_group(view), {})[view.node] = view
        had = before.hosted.keys() if before is not None else set[str]()
        if had != view.hosted.keys():
            self._move(view.node, had - view.hosted.keys(), view.hosted.keys() - had)

    def remove(self, node: str) -> None:
        """Forget a node, if it is known."""
        view = self._views.pop(node, None)
        if view is not None:
            self._forget_group(view)
            self._move(node, view.hosted.keys(), ())

    def _forget_group(self, view: NodeView) -> None:
        views = self._groups[_group(view)]
        del views[view.node]
        if not views:
            del self._groups[_group(view)]

    def _move(self, node: str, gone: Iterable[str], come: Iterable[str]) -> None:
        for model_id in gone:
            hosts = self._hosts[model_id]
            hosts.discard(node)
            if not hosts:
                del self._hosts[model_id]
        for model_id in come:
            self._hosts.setdefault(model_id, set()).add(node)


def _group(view: NodeView) -> _Group:
    return id(view.offered), view.is_plain


def _any(views: Mapping[str, NodeView]) -> NodeView:
    return next(iter(views.values()))
