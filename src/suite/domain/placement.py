"""Which node of a fleet serves a request: a pure decision over what the nodes tell of themselves (ADR 57)::

    placed = place(Wanted(model_id="tiny", conversation_node="box2"), nodes, here="box1")
    placed.node, placed.reason

In this order: the node that has the conversation, else one that has the model and the least to do, else one
where it fits, else where the least is lost by making room, else one where it may wait for its turn. Two nodes
that decide at the same moment decide the same: what is equal is settled by a hash of model and node
(rendezvous hashing, Thaler and Ravishankar 1998), so that a model that nobody has is not loaded twice.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final, Literal, TypeAlias
from zlib import crc32

import msgspec

from suite.domain.footprint import NOTHING, Footprint

Reason: TypeAlias = Literal["named", "conversation", "loaded", "fits", "evicts", "waits"]

CROWDED: Final = 2.0
"""With so many times its slots, a conversation leaves its node for one that has a slot free: reading its
tokens again takes less time than waiting there."""
IDLE_HALF_LIFE_SECONDS: Final = 600.0
"""After so long without a use, the load of a model is worth half of what it took."""


class Hosted(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A model in the memory of a node."""

    instance_id: str = ""
    sha256: str = ""
    is_ready: bool = True
    holds: int = 0
    slots: int = 1
    footprint: Footprint = NOTHING
    may_leave: bool = False
    loss: float = 0.0
    """What is lost if it leaves: the seconds that its load takes, less the longer nobody has used it."""

    @property
    def load(self) -> float:
        """How many generations it has for each of its slots."""
        return self.holds / self.slots


class Offered(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A model that a node could load."""

    sha256: str = ""
    footprint: Footprint = NOTHING
    settings: str = ""


class NodeView(msgspec.Struct, frozen=True, kw_only=True):
    """One node, as another knows it."""

    node: str
    limits: Footprint = NOTHING
    free: Footprint = NOTHING
    waiting: int = 0
    """How many requests wait for memory."""
    hosted: Mapping[str, Hosted] = {}
    offered: Mapping[str, Offered] = {}
    is_draining: bool = False
    least_loss: float = math.inf
    """The loss of the model that is cheapest to unload; infinite if none may leave."""


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What a request needs of a node."""

    model_id: str
    conversation_node: str = ""
    """The node that served its conversation last; empty if it has none."""
    excluded: frozenset[str] = frozenset()
    """Nodes on which it has failed already."""


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


class _Candidate(msgspec.Struct, frozen=True, gc=False):
    view: NodeView
    hosted: Hosted | None
    offered: Offered | None

    @property
    def sha256(self) -> str:
        """The digest of what it has loaded, or would load; empty if it is not known."""
        if self.hosted is not None and self.hosted.sha256:
            return self.hosted.sha256
        return self.offered.sha256 if self.offered is not None else ""


def place(wanted: Wanted, nodes: Mapping[str, NodeView], *, here: str) -> Placement | None:
    """Decide which node serves a request. None if no node has the model.

    `here`: the node that decides, which serves the request where nothing speaks for another.
    """
    every = _candidates(wanted, nodes)
    content = _content(every)
    able = [each for each in every if _is_same(each.sha256, content)]
    others = tuple(sorted(each.view.node for each in every if not _is_same(each.sha256, content)))

    def placed(candidate: _Candidate, reason: Reason) -> Placement:
        instance = candidate.hosted.instance_id if candidate.hosted is not None else ""
        return Placement(
            node=candidate.view.node,
            reason=reason,
            sha256=candidate.sha256 or content,
            instance_id=instance,
            others=others,
        )

    settled = [each for each in able if not each.view.is_draining] or [
        each for each in able if each.hosted is not None
    ]
    loaded = [each for each in settled if each.hosted is not None]
    least = min(loaded, key=lambda each: _business(each, wanted.model_id, here), default=None)
    own = next((each for each in settled if each.view.node == wanted.conversation_node), None)
    if own is not None and _stays(own, least):
        return placed(own, "conversation")
    if least is not None:
        return placed(least, "loaded")
    offers = [each for each in settled if each.offered is not None]
    if (fitting := _fitting(offers, wanted.model_id)) is not None:
        return placed(fitting, "fits")
    if (evicting := _evicting(offers, wanted.model_id)) is not None:
        return placed(evicting, "evicts")
    if (waiting := _waiting(offers, wanted.model_id)) is not None:
        return placed(waiting, "waits")
    return None


def eviction(view: NodeView, need: Footprint) -> tuple[float, tuple[str, ...]] | None:
    """The models of a node that would have to leave for one that needs this, and what is lost with them.

    The cheapest ones for the bytes that they free come first, and none leaves in vain. None if there are not
    enough that may leave.
    """
    short = need.beyond(view.free)
    leaving: list[tuple[str, Hosted]] = []
    room = view.free
    able = [(id, each) for id, each in view.hosted.items() if each.may_leave and each.footprint.eases(short)]
    for id, each in sorted(able, key=lambda pair: pair[1].loss / max(1, pair[1].footprint.total)):
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


def _candidates(wanted: Wanted, nodes: Mapping[str, NodeView]) -> list[_Candidate]:
    found = []
    for node, view in nodes.items():
        hosted, offered = view.hosted.get(wanted.model_id), view.offered.get(wanted.model_id)
        if (hosted is not None or offered is not None) and node not in wanted.excluded:
            found.append(_Candidate(view, hosted, offered))
    return found


def _content(candidates: Iterable[_Candidate]) -> str:
    """The digest of the content that the id stands for: what most have, so that all nodes decide alike."""
    counts = Counter(each.sha256 for each in candidates if each.sha256)
    if not counts:
        return ""
    most = max(counts.values())
    return min(digest for digest, count in counts.items() if count == most)


def _is_same(digest: str, content: str) -> bool:
    """Whether it may be the same content: what is not known yet cannot be told apart."""
    return digest == content or not digest or not content


def _stays(own: _Candidate, least: _Candidate | None) -> bool:
    """Whether a conversation goes on where it was."""
    if own.hosted is None:
        # Its tokens are in a file at best. That is worth a load, but not that others leave.
        return least is None and own.offered is not None and own.offered.footprint.is_within(own.view.free)
    if least is None or least is own or least.hosted is None or not least.hosted.is_ready:
        return True
    return own.hosted.load < CROWDED or least.hosted.load >= 1


def _business(candidate: _Candidate, model_id: str, here: str) -> tuple[bool, float, bool, int]:
    hosted, node = candidate.hosted, candidate.view.node
    assert hosted is not None
    return not hosted.is_ready, hosted.load, node != here, _lot(node, model_id)


def _fitting(offers: Iterable[_Candidate], model_id: str) -> _Candidate | None:
    fitting = [
        each
        for each in offers
        if each.offered is not None
        and not each.view.waiting
        and each.offered.footprint.is_within(each.view.free)
    ]
    return min(fitting, key=lambda each: _lot(each.view.node, model_id), default=None)


def _evicting(offers: Iterable[_Candidate], model_id: str) -> _Candidate | None:
    """The node that loses the least; those are looked at first that could lose less than any yet."""
    best: _Candidate | None = None
    least = (math.inf, 0)
    for each in sorted(offers, key=lambda each: each.view.least_loss):
        if each.view.least_loss > least[0] or math.isinf(each.view.least_loss):
            break
        if each.offered is None or each.view.waiting:
            continue
        if (found := eviction(each.view, each.offered.footprint)) is not None:
            cost = (found[0], _lot(each.view.node, model_id))
            if cost < least:
                best, least = each, cost
    return best


def _waiting(offers: Iterable[_Candidate], model_id: str) -> _Candidate | None:
    """Of the nodes where it fits at all the one where fewest wait; if it fits nowhere, one that says so."""

    def order(each: _Candidate) -> tuple[bool, int, int]:
        assert each.offered is not None
        fits = each.offered.footprint.is_within(each.view.limits)
        return not fits, each.view.waiting, _lot(each.view.node, model_id)

    return min(offers, key=order, default=None)


def _lot(node: str, model_id: str) -> int:
    """A number that is as good as random, and the same wherever it is asked."""
    return crc32(f"{node}\0{model_id}".encode())
