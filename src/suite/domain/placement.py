"""Which node of a fleet serves a request: a pure decision over what the nodes tell of themselves (ADR 57)::

    placed = place(Wanted(model_id="tiny", conversation_node="box2"), Nodes(views), here="box1")
    placed.node, placed.reason

In this order: the node that has the conversation, else one that has the model and the least to do, else one
where it fits, else where the least is lost by making room, else one where it may wait for its turn. Two nodes
that decide at the same moment decide the same: what is equal is settled by a hash of model and node
(rendezvous hashing, Thaler and Ravishankar 1998), so that a model that nobody has is not loaded twice.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from typing import Final, Literal, NamedTuple, TypeAlias

import msgspec

from suite.domain.footprint import Footprint
from suite.domain.nodes import Hosted, Nodes, NodeView, Offer, Offered, seed_of

Reason: TypeAlias = Literal["named", "any", "conversation", "loaded", "fits", "evicts", "waits"]

CROWDED: Final = 2.0
"""With so many times its slots, a conversation leaves its node for one that has a slot free: reading its
tokens again takes less time than waiting there."""
IDLE_HALF_LIFE_SECONDS: Final = 600.0
"""After so long without a use, the load of a model is worth half of what it took."""

_NEARLY: Final = 1 - 1e-9
"""What is nearly as much counts as much: sums of fractions that should be equal are not quite."""
_MIX: Final = 0x9E3779B97F4A7C15
_MASK: Final = 2**64 - 1


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What a request needs of a node."""

    model_id: str
    conversation_node: str = ""
    """The node that served its conversation last; empty if it has none."""
    continues: bool = False
    """Whether it needs the tokens that are kept where its conversation is: no other node could serve it."""
    excluded: frozenset[str] = frozenset()
    """Nodes on which it has failed already."""
    needs_projector: bool = False
    """Whether only a node with the model's projector serves it: it brings pictures, or copies the model."""
    needs_draft: bool = False
    """Whether only a node with the model's draft model serves it: it copies the model. Answers need none."""


class Placement(msgspec.Struct, frozen=True, kw_only=True):
    """Where a request is to be served."""

    node: str
    reason: Reason
    sha256: str = ""
    """The digest of the model that was decided about; empty if it is not known."""
    instance_id: str = ""
    """The instance that it was decided for; empty where the model has to be loaded first."""
    others: tuple[str, ...] = ()
    """Nodes that have another file under the same id, and were left out."""


class _Host(NamedTuple):
    """A node that has the model in memory, or on its way there."""

    view: NodeView
    hosted: Hosted


class _Open(NamedTuple):
    """Nodes that could load the model, and take new work."""

    need: Footprint
    views: list[NodeView]
    are_plain: bool = False


class _Options(NamedTuple):
    """The nodes that have the content which the model's id stands for."""

    content: str
    """The digest of it; empty if no node knows it."""
    hosts: list[_Host]
    offers: list[Offer]
    closed: frozenset[str]
    """Nodes with such an offer that are left out: they are excluded, or have the model loaded."""
    others: tuple[str, ...]


def place(wanted: Wanted, nodes: Nodes, *, here: str) -> Placement | None:
    """Decide which node serves a request. None if no node has the model.

    `here`: the node that decides, which serves the request where nothing speaks for another.
    """
    if wanted.needs_projector:
        wanted = _narrowed(wanted, nodes, lambda each: each.reads_pictures is False)
    if wanted.needs_draft:
        wanted = _narrowed(wanted, nodes, lambda each: not each.has_draft)
    options = _options(wanted, nodes)
    hosts = _that_continue(options, wanted) or [each for each in options.hosts if not each.view.is_draining]
    opens = [] if hosts else _opens(options, wanted.model_id)
    if not opens:
        hosts = hosts or options.hosts  # all of them drain: what is loaded there still answers
    found = _among(hosts, wanted, here) if hosts else _first(opens, wanted)
    if found is None:
        return None
    view, reason = found
    hosted = view.hosted.get(wanted.model_id)
    return Placement(
        node=view.node,
        reason=reason,
        sha256=_digest(view, wanted.model_id) or options.content,
        instance_id=hosted.instance_id if hosted is not None else "",
        others=options.others,
    )


def lacking(model_id: str, adapters: frozenset[str], nodes: Nodes) -> frozenset[str]:
    """The nodes that could not compute a model with all of these adapters."""
    if not adapters:
        return frozenset()
    return frozenset(
        node
        for node, view in nodes.items()
        if (offered := view.offered.get(model_id)) is None or not adapters <= offered.adapters
    )


def eviction(view: NodeView, need: Footprint) -> tuple[float, tuple[str, ...]] | None:
    """The models of a node that would have to leave for one that needs this, and what is lost with them.

    The cheapest ones for the bytes that they free come first, and none leaves in vain. None if there are not
    enough that may leave.
    """
    short = need.beyond(view.free)
    leaving: list[tuple[str, Hosted]] = []
    room = view.free
    able = [(id, each) for id, each in view.hosted.items() if each.may_leave and each.footprint.eases(short)]
    for id, each in sorted(able, key=lambda pair: pair[1].density):
        if need.is_within(room):
            break
        leaving.append((id, each))
        room += each.footprint
    if not need.is_within(room):
        return None
    for pair in sorted(leaving, key=lambda pair: -pair[1].loss):
        if need.is_within(room - pair[1].footprint):
            leaving.remove(pair)
            room -= pair[1].footprint
    return sum(each.loss for _, each in leaving), tuple(id for id, _ in leaving)


def loss(load_seconds: float, idle_seconds: float) -> float:
    """What is lost when a model leaves: the seconds of its load, less the longer nobody has used it."""
    return load_seconds * math.exp2(-idle_seconds / IDLE_HALF_LIFE_SECONDS)


def _narrowed(wanted: Wanted, nodes: Nodes, lacks: Callable[[Offered], bool]) -> Wanted:
    """Exclude the nodes whose model lacks something; not if all of them do: one says what is missing."""
    offers = nodes.offering(wanted.model_id)
    lacking = {node for each in offers if lacks(each.offered) for node in each.views}
    able = {node for each in offers for node in each.views} - lacking - wanted.excluded
    return msgspec.structs.replace(wanted, excluded=wanted.excluded | lacking) if able else wanted


# --- which file the id stands for ---------------------------------------------------------------------------


def _options(wanted: Wanted, nodes: Nodes) -> _Options:
    model_id, excluded = wanted.model_id, wanted.excluded
    hosting = [each for each in nodes.hosting(model_id) if each.node not in excluded]
    offers = nodes.offering(model_id)
    closed = excluded.union([each.node for each in hosting])
    known = {each.hosted[model_id].sha256 for each in hosting}
    known.update([each.offered.sha256 for each in offers])
    known.discard("")
    others: set[str] = set()
    content = next(iter(known), "")
    if len(known) > 1 or excluded:
        content = _most_frequent(hosting, offers, closed, model_id)
        others = {each.node for each in hosting if not _is_same(_digest(each, model_id), content)}
        for offered, views, _ in offers:
            if not _is_same(offered.sha256, content):
                others |= views.keys() - closed
    return _Options(
        content=content,
        hosts=[_Host(each, each.hosted[model_id]) for each in hosting if each.node not in others],
        offers=[each for each in offers if _is_same(each.offered.sha256, content)],
        closed=closed,
        others=tuple(sorted(others)),
    )


def _is_same(digest: str, content: str) -> bool:
    """Whether it may be the same content: what is not known yet cannot be told apart."""
    return digest == content or not digest or not content


def _most_frequent(
    hosting: Iterable[NodeView], offers: Iterable[Offer], closed: frozenset[str], model_id: str
) -> str:
    """The digest that most nodes have, or would load; empty if none knows it."""
    counts = Counter(_digest(each, model_id) for each in hosting)
    for offered, views, _ in offers:
        counts[offered.sha256] += len(views) - sum(node in views for node in closed)
    del counts[""]
    most = max(counts.values(), default=0)
    return min((digest for digest, count in counts.items() if count == most > 0), default="")


def _digest(view: NodeView, model_id: str) -> str:
    """The digest of what a node has loaded, or would load; empty if it is not known."""
    hosted, offered = view.hosted.get(model_id), view.offered.get(model_id)
    if hosted is not None and hosted.sha256:
        return hosted.sha256
    return offered.sha256 if offered is not None else ""


# --- nodes that have it loaded ------------------------------------------------------------------------------


def _that_continue(options: _Options, wanted: Wanted) -> list[_Host]:
    """The only node that can serve the request, crowded or draining, while the model is loaded there."""
    return [each for each in options.hosts if wanted.continues and each.view.node == wanted.conversation_node]


def _among(hosts: list[_Host], wanted: Wanted, here: str) -> tuple[NodeView, Reason]:
    own = next((each for each in hosts if each.view.node == wanted.conversation_node), None)
    if own is not None and own.hosted.load < CROWDED:
        return own.view, "conversation"
    least = _least_busy(hosts, wanted.model_id, here)
    if own is not None and _stays(own, least):
        return own.view, "conversation"
    return least.view, "loaded"


def _least_busy(hosts: list[_Host], model_id: str, here: str) -> _Host:
    ready = [each for each in hosts if each.hosted.is_ready] or hosts
    loads = [each.hosted.load for each in ready]
    least = min(loads)
    equal = [each for each, load in zip(ready, loads, strict=True) if load == least]
    return min(equal, key=lambda each: (each.view.node != here, lot(each.view, model_id)))


def _stays(own: _Host, least: _Host) -> bool:
    """Whether a conversation goes on where it was, though that is crowded."""
    return own is least or not least.hosted.is_ready or least.hosted.load >= 1


# --- nodes that could load it -------------------------------------------------------------------------------


def _opens(options: _Options, model_id: str) -> list[_Open]:
    closed, opens = options.closed, []
    for offered, all_views, are_plain in options.offers:
        views = list(all_views.values())
        if not closed.isdisjoint(all_views):
            views = [each for each in views if each.node not in closed]
        if not are_plain:
            opens += _as_measured(views, offered.footprint, model_id)
        elif views:
            opens.append(_Open(offered.footprint, views, are_plain=True))
    # If it failed on all of them, the client hears that from one, and when it may be tried again.
    return _without_paused(opens, model_id) or opens


def _as_measured(views: list[NodeView], need: Footprint, model_id: str) -> list[_Open]:
    """Those of the nodes that do not drain, each with what the model was measured to need there."""
    able = [each for each in views if not each.is_draining]
    measured = [_Open(each.need_of(model_id), [each]) for each in able if model_id in each.needs]
    others = [each for each in able if model_id not in each.needs]
    return [*measured, _Open(need, others)] if others else measured


def _without_paused(opens: list[_Open], model_id: str) -> list[_Open]:
    able = [
        each
        if each.are_plain
        else each._replace(views=[one for one in each.views if model_id not in one.paused])
        for each in opens
    ]
    return [each for each in able if each.views]


def _without_waiting(opens: list[_Open]) -> list[_Open]:
    return [
        each if each.are_plain else each._replace(views=[one for one in each.views if not one.waiting])
        for each in opens
    ]


def _first(opens: list[_Open], wanted: Wanted) -> tuple[NodeView, Reason] | None:
    """The first way to load it that there is, in the order that the module tells."""
    at_once = _without_waiting(opens)
    fitting = [view for each in at_once for view in _with_room(each.need, each.views)]
    for view in fitting:
        if view.node == wanted.conversation_node:
            # Its tokens are in a file at best. That is worth a load, but not that others leave.
            return view, "conversation"
    if fitting:
        draws = _lots(fitting, wanted.model_id)
        return fitting[draws.index(min(draws))], "fits"
    if (evicting := _evicting(at_once, wanted.model_id)) is not None:
        return evicting, "evicts"
    if (waiting := _waiting(opens, wanted.model_id)) is not None:
        return waiting, "waits"
    return None


def _with_room(need: Footprint, views: list[NodeView]) -> list[NodeView]:
    ram = need.ram
    found = [each for each in views if ram <= each.free.ram]
    return [each for each in found if need.is_within(each.free)] if need.gpus else found


def _evicting(opens: list[_Open], model_id: str) -> NodeView | None:
    """The node that loses the least; those are looked at first that could lose less than any yet."""
    able = [(each.need, _that_could_make_room(each.need, each.views)) for each in opens]
    views = [view for _, of_offer in able for view in of_offer]
    losses = [loss for need, of_offer in able for loss in _least_losses(of_offer, need)]
    best: NodeView | None = None
    least = math.inf
    for bound, view in _by_loss(losses, views, model_id):
        if bound >= least * _NEARLY:
            break
        found = eviction(view, view.need_of(model_id))
        if found is not None and found[0] < least:
            best, least = view, found[0]
    return best


def _by_loss(losses: list[float], views: list[NodeView], model_id: str) -> Iterator[tuple[float, NodeView]]:
    """The nodes with what each loses at the least, by that; where it is equal, by lot."""
    order = sorted(range(len(views)), key=losses.__getitem__)
    for loss, equal in groupby(order, key=losses.__getitem__):
        for view in sorted([views[index] for index in equal], key=lambda view: lot(view, model_id)):
            yield loss, view


def _that_could_make_room(need: Footprint, views: list[NodeView]) -> list[NodeView]:
    found = [each for each in views if need.ram <= each.room.ram]
    return [each for each in found if need.is_within(each.room)] if need.gpus else found


def _least_losses(views: list[NodeView], need: Footprint) -> list[float]:
    """What each node loses at the least if models leave for one that needs this."""
    if need.gpus:
        by_size = [each.least_density * need.beyond(each.free).total for each in views]
    else:
        ram = need.ram
        by_size = [each.least_density * (ram - each.free.ram) for each in views]
    return [
        loss if loss > each.least_loss else each.least_loss for each, loss in zip(views, by_size, strict=True)
    ]


def _waiting(opens: list[_Open], model_id: str) -> NodeView | None:
    """Of the nodes where it fits at all the one where fewest wait; if it fits nowhere, one that says so."""

    def order(each: tuple[Footprint, NodeView]) -> tuple[bool, int, int]:
        need, view = each
        return not need.is_within(view.limits), view.waiting, lot(view, model_id)

    every = ((each.need, view) for each in opens for view in each.views)
    found = min(every, key=order, default=None)
    return found[1] if found is not None else None


# --- what settles what is equal -----------------------------------------------------------------------------


def lot(view: NodeView, model_id: str) -> int:
    """A number that is as good as random, and the same wherever it is asked."""
    return (view.seed ^ seed_of(model_id)) * _MIX & _MASK


def _lots(views: list[NodeView], model_id: str) -> list[int]:
    """The lot of each node."""
    of_model = seed_of(model_id)
    return [(each.seed ^ of_model) * _MIX & _MASK for each in views]
