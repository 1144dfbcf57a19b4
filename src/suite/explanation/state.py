"""Why a model is loaded, waits or is not loaded on a node at a moment, from its newest events until then."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple, TypeAlias

import msgspec

from suite.explanation.sentences import sentences
from suite.explanation.words import moment
from suite.messages.actions.explanation import State
from suite.messages.envelope import Recorded

_LOADED: Final = "instance.loaded"
_STARTED: Final = "instance.load_started"
_LIVES: Final = (
    _STARTED,
    _LOADED,
    "instance.load_failed",
    "instance.unloaded",
    "instance.crashed",
)
_QUARANTINED: Final = "model.quarantined"
_RELEASES: Final = ("model.released", _LOADED)
_WAITS: Final = "admission.wait_started"
_WAIT_ENDS: Final = ("admission.wait_ended", _STARTED)
_NODE_LIVES: Final = ("node.started", "node.stopped", "node.lost")
_DRAINING: Final = "node.draining"
_PINNED: Final = "model.pinned"
_UNPINNED: Final = "model.unpinned"

Newest: TypeAlias = Mapping[str, int]
"""By fact, such as ``instance.loaded``, the sequence of the newest such event of a model on a node."""


class NodeLife(NamedTuple):
    """What the newest events say of one node."""

    seq: int = 0
    """Its newest start or end; 0: there is none."""
    draining_seq: int = 0
    """The event that says that it is being drained, if it is."""


def node_life(newest: Newest) -> NodeLife:
    """Find out which events of a node count."""
    seq = max((newest.get(fact, 0) for fact in _NODE_LIVES), default=0)
    return NodeLife(seq, _unless_later(newest, _DRAINING, ("node.resumed", *_NODE_LIVES)))


class Residence(msgspec.Struct, frozen=True, kw_only=True):
    """What the newest events say of one model on one node: which of them count."""

    state: State
    seq: int
    """The event that made it so; 0: there is none."""
    started_seq: int = 0
    """The start of the load, if it is loaded or loading."""
    waits_seq: int = 0
    """The event that says that requests wait, if they do."""
    pinned_seq: int = 0
    """The event that says that it is pinned, if it is."""
    quarantined_seq: int = 0
    """The event that says that it is left alone for a while, unless it was released or loaded since."""
    node_seq: int = 0
    """The event that says that the node is gone, if that ended it."""
    draining_seq: int = 0
    """The event that says that the node is being drained, if it is."""

    @property
    def seqs(self) -> frozenset[int]:
        """The events that it is explained from."""
        own = (
            self.seq,
            self.started_seq,
            self.waits_seq,
            self.pinned_seq,
            self.quarantined_seq,
            self.node_seq,
            self.draining_seq,
        )
        return frozenset(seq for seq in own if seq)


def residence(newest: Newest, node: NodeLife) -> Residence:
    """Find out which events of a model on this node count."""
    lives = {fact: newest[fact] for fact in _LIVES if fact in newest}
    fact = max(lives, key=lives.__getitem__, default="")
    seq = lives.get(fact, 0)
    is_there = fact in (_STARTED, _LOADED)
    ended_with_node = is_there and node.seq > seq
    state: State = "not_loaded"
    if is_there and not ended_with_node:
        state = "loaded" if fact == _LOADED else "loading"
    waits_seq = _unless_later(newest, _WAITS, _WAIT_ENDS)
    if waits_seq < node.seq:
        waits_seq = 0
    return Residence(
        state="waiting" if waits_seq and state == "not_loaded" else state,
        seq=seq,
        started_seq=newest.get(_STARTED, 0) if state != "not_loaded" else 0,
        waits_seq=waits_seq,
        quarantined_seq=_unless_later(newest, _QUARANTINED, _RELEASES),
        pinned_seq=_unless_later(newest, _PINNED, (_UNPINNED,)),
        node_seq=node.seq if ended_with_node else 0,
        draining_seq=node.draining_seq,
    )


def _unless_later(newest: Newest, fact: str, ends: Iterable[str]) -> int:
    """The sequence of a fact that holds until one of these; 0 if it does not hold."""
    seq = newest.get(fact, 0)
    return seq if all(newest.get(end, 0) < seq for end in ends) else 0


def told(
    model_id: str, node: str, place: Residence, events: Mapping[int, Recorded], cause: Recorded | None = None
) -> tuple[str, ...]:
    """Say why a model is in its state. Events that are gone from the log are left out.

    `cause` is the decision behind its eviction, if that is its newest event.
    """
    own = events.get(place.seq)
    started, waits = events.get(place.started_seq), events.get(place.waits_seq)
    lines = [_headline(model_id, node, place, own, waits)]
    if started is not None:
        lines += sentences(started)
    elif own is not None and place.state in ("not_loaded", "waiting") and not place.node_seq:
        lines += sentences(own, cause)
    if (gone := events.get(place.node_seq)) is not None:
        lines += sentences(gone)
    if waits is not None:
        lines += sentences(waits)
    for seq in (place.quarantined_seq, place.pinned_seq, place.draining_seq):
        if (holds := events.get(seq)) is not None:
            lines += sentences(holds)
    return tuple(lines)


def _headline(
    model_id: str, node: str, place: Residence, own: Recorded | None, waits: Recorded | None
) -> str:
    since = f" since {moment(own.time)}" if own is not None else ""
    match place.state:
        case "loaded":
            return f"{model_id} is loaded on {node}{since}."
        case "loading":
            return f"{model_id} is being loaded on {node}{since}."
        case "waiting":
            begun = f" since {moment(waits.time)} or a little earlier" if waits is not None else ""
            return f"Requests wait for {model_id} on {node}{begun}."
        case _ if own is None:
            return f"{model_id} is not loaded on {node}: the log has no load of it until then."
        case _:
            return f"{model_id} is not loaded on {node}{since}."
