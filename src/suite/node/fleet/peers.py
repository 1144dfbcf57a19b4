"""What a node knows of the other nodes, by what they tell of themselves."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from hashlib import blake2b
from typing import Final

import msgspec

from suite.domain.footprint import Footprint, total_of
from suite.domain.nodes import Hosted, Nodes, NodeView, Offered
from suite.domain.placement import loss
from suite.errors import NodeLost, NodeNotFound, SuiteError
from suite.identity import Clock
from suite.messages.decisions import RAM
from suite.messages.presence import HostedModel, Introduction, NodeState, OfferedModel
from suite.node.fleet.conversations import Conversations

LOST_SECONDS: Final = 2.8
"""A node that has told nothing for so long gets no work. It tells something every second."""
MOST_TOLD: Final = 20_000
"""How many conversations a node tells one that asks: so many fit into a message."""
LOST_TOLD_SECONDS: Final = 3600.0
"""For so long a node that fell silent is named as missing; after that it is not expected back."""

_HASH_BYTES: Final = 6  # a JSON number that every reader can hold


class Peers:
    """The other nodes of the fleet, as this one knows them."""

    def __init__(self, node: str, clock: Clock) -> None:
        self._node = node
        self._clock = clock
        self._nodes = Nodes()
        self._states: dict[str, NodeState] = {}
        self._heard: dict[str, float] = {}
        self._lost: dict[str, float] = {}
        self._catalogues: dict[str, Mapping[str, Offered]] = {}
        self._aliases: dict[str, Mapping[str, str]] = {}
        self._standing: dict[str, Mapping[str, str]] = {}
        """The names that say adapters too, with the id of the model that each stands for."""
        self._conversations = Conversations()
        self._own_conversations: OrderedDict[int, None] = OrderedDict()
        self.strangers: dict[str, Introduction] = {}
        """Nodes that speak another protocol, by name: nothing is forwarded to them."""

    @property
    def states(self) -> Mapping[str, NodeState]:
        """What each node that is there has told last."""
        return self._states

    @property
    def lost(self) -> tuple[str, ...]:
        """The nodes that fell silent without having said that they leave, and have not come back."""
        since = self._clock() - LOST_TOLD_SECONDS
        return tuple(sorted(node for node, at in self._lost.items() if at > since))

    @property
    def offered(self) -> Mapping[str, Mapping[str, Offered]]:
        """What each node that is there could load."""
        return {node: self._nodes[node].offered for node in self._states}

    def views(self, own: NodeView) -> Nodes:
        """All nodes that may get work, with the own one."""
        self._nodes.put(own)
        return self._nodes

    def hear(self, state: NodeState) -> bool:
        """Take notice of what a node tells. Returns whether something that it told before was missed."""
        node = state.node
        if node == self._node:
            return False
        self.strangers.pop(node, None)
        before = self._states.get(node)
        if before is not None and (state.epoch, state.number) <= (before.epoch, before.number):
            return False
        if state.is_leaving:
            self._lost.pop(node, None)
            self.forget(node)
            return False
        self._heard[node] = self._clock()
        self._lost.pop(node, None)
        self._states[node] = state
        self._nodes.put(self._view(state))
        for conversation in state.conversations:
            self.note_conversation(conversation, node)
        return before is None or before.epoch != state.epoch or state.number != before.number + 1

    @property
    def problems(self) -> tuple[str, ...]:
        """Which nodes this one cannot work with, and what to do."""
        return tuple(self._of_stranger(node) for node in sorted(self.strangers))

    def meet(self, stranger: Introduction) -> None:
        """Take notice of a node that speaks another protocol."""
        self.forget(stranger.node)
        self.strangers[stranger.node] = stranger
        self._heard[stranger.node] = self._clock()

    def is_new_life(self, state: NodeState) -> bool:
        """Whether it comes from a later process of a node that is known: the one before is no more."""
        before = self._states.get(state.node)
        return before is not None and state.epoch > before.epoch

    def refusal(self, node: str) -> SuiteError:
        """Why a node that a request names, and that is not there, cannot get it, and what to do."""
        if node in self.strangers:
            return NodeNotFound(self._of_stranger(node))
        if node in self.lost:
            return NodeLost(f"node {node} is lost: start it again, or ask without naming it")
        there = ", ".join(sorted({self._node, *self._states}))
        return NodeNotFound(f"there is no node {node!r}: there are {there}")

    def _of_stranger(self, node: str) -> str:
        return (
            f"node {node!r} runs version {self.strangers[node].version}, which does not work together with "
            "this one: bring all nodes to the same version"
        )

    def knows_catalogue(self, catalogue: str) -> bool:
        """Whether it is known what a node with this id of a catalogue could load."""
        return not catalogue or catalogue in self._catalogues

    def learn_catalogue(self, catalogue: str, models: Mapping[str, OfferedModel]) -> None:
        """Note what nodes with this id of a catalogue could load; forget those that nobody has any more."""
        self._catalogues[catalogue] = {id: offered_of(each) for id, each in models.items()}
        self._aliases[catalogue] = {
            alias: id for id, each in models.items() for alias in each.aliases if alias not in models
        }
        self._standing[catalogue] = _standing(models)
        used = {each.catalogue for each in self._states.values()} | {catalogue}
        for unused in self._catalogues.keys() - used:
            del self._catalogues[unused], self._aliases[unused], self._standing[unused]
        for state in self._states.values():
            if state.catalogue == catalogue:
                self._nodes.put(self._view(state))

    def id_of(self, id_or_alias: str) -> str | None:
        """The id of a model that some node has, by id or alias; None if none has it."""
        if self._nodes.knows(id_or_alias):
            return id_or_alias
        found = (aliases.get(id_or_alias) for aliases in self._aliases.values())
        return next((id for id in found if id is not None), self.stands_for(id_or_alias))

    def stands_for(self, name: str) -> str | None:
        """The id of the model that a name stands for with adapters, by what nodes have; None: none does."""
        found = (names.get(name) for names in self._standing.values())
        return next((id for id in found if id is not None), None)

    def note_conversation(self, conversation: int, node: str) -> None:
        """Note that a conversation has come to a node, by its hash (`conversation_hash`)."""
        self._conversations.note(conversation, node)
        self._own_conversations.pop(conversation, None)
        if node == self._node:
            self._own_conversations[conversation] = None
            if len(self._own_conversations) > MOST_TOLD:
                self._own_conversations.popitem(last=False)

    def conversation_node(self, conversation: int) -> str:
        """The node that a conversation came to last; empty if it is not known."""
        return self._conversations.node_of(conversation)

    def former_node(self, conversation: int) -> str:
        """The other node that a conversation came to last, there or not; empty if it was this one or none."""
        node = self._conversations.node_of(conversation)
        return "" if node == self._node else node

    @property
    def own_conversations(self) -> tuple[int, ...]:
        """The last conversations that came to this node and went to no other, the newest last."""
        return tuple(self._own_conversations)

    def note_sent(self, node: str, model_id: str) -> None:
        """Count a request that was just sent to a node, until it tells its own count."""
        view = self._nodes.get(node)
        hosted = view.hosted.get(model_id) if view is not None else None
        if view is None or hosted is None:
            return
        more = msgspec.structs.replace(hosted, holds=hosted.holds + 1, may_leave=False)
        self._nodes.put(msgspec.structs.replace(view, hosted={**view.hosted, model_id: more}))

    def silent(self) -> list[str]:
        """The nodes that have told nothing for too long."""
        since = self._clock() - LOST_SECONDS
        return [node for node, heard in self._heard.items() if heard < since]

    def forget(self, node: str) -> None:
        """Give a node no work any more, until it tells something."""
        self._nodes.remove(node)
        for known in (self._states, self._heard, self.strangers):
            known.pop(node, None)

    def lose(self, node: str) -> None:
        """Give a node that has told nothing for too long no work, and remember that it is missing."""
        self.forget(node)
        now = self._clock()
        self._lost = {node: at for node, at in self._lost.items() if at > now - LOST_TOLD_SECONDS}
        self._lost[node] = now

    def give_time(self) -> None:
        """Wait anew for all: this node itself was stopped or cut off, and could hear nothing meanwhile."""
        self._heard = dict.fromkeys(self._heard, self._clock())

    def _view(self, state: NodeState) -> NodeView:
        """What a node tells. Until its new catalogue is known, it offers what it offered before: a node that
        offered nothing would not get what it gets before and after.
        """
        offered = self._catalogues.get(state.catalogue)
        if offered is None:
            offered = self._nodes[state.node].offered if state.node in self._nodes else {}
        return view_of(state, offered)


def view_of(state: NodeState, offered: Mapping[str, Offered]) -> NodeView:
    """What a node has told, as it is decided about."""
    hosted, free = {id: _hosted(each) for id, each in state.models.items()}, footprint_of(state.free)
    coming = _coming(state, hosted, free, offered) if state.waiting else {}
    return NodeView(
        node=state.node,
        limits=footprint_of(state.limits),
        free=free,
        waiting=sum(count for id, count in state.waiting.items() if id not in coming),
        hosted={**hosted, **coming},
        offered=offered,
        needs={id: footprint_of(each) for id, each in state.needs.items()},
        paused=frozenset(state.paused),
        is_draining=state.is_draining,
    )


def _coming(
    state: NodeState,
    hosted: Mapping[str, Hosted],
    free: Footprint,
    offered: Mapping[str, Offered],
) -> dict[str, Hosted]:
    """The models that requests wait for and that there is room for: they are on their way into memory.

    Until their loads have begun they must not begin elsewhere too.
    """
    room = free + total_of([each.footprint for each in hosted.values() if each.may_leave])

    def fits(id: str) -> bool:
        need = state.needs.get(id)
        return (footprint_of(need) if need is not None else offered[id].footprint).is_within(room)

    return {
        id: Hosted(is_ready=False, holds=count)
        for id, count in state.waiting.items()
        if id not in hosted and id in offered and fits(id)
    }


def footprint_of(memory: Mapping[str, int]) -> Footprint:
    """Bytes by the name of a memory, as they stand in messages."""
    return Footprint(memory.get(RAM, 0), {name: count for name, count in memory.items() if name != RAM})


def offered_of(told: OfferedModel) -> Offered:
    """A model that a node could load, as it is decided about."""
    return Offered(
        sha256=told.sha256,
        footprint=footprint_of(told.memory),
        settings=told.settings,
        adapters=frozenset(told.adapters),
        chats=told.chats,
        reads_pictures=told.reads_pictures,
        has_draft=told.has_draft,
    )


def _standing(models: Mapping[str, OfferedModel]) -> dict[str, str]:
    """The names that stand for one of these models with adapters; not those of adapters for several."""
    bases: dict[str, list[str]] = {}
    for id, model in models.items():
        for name in model.adapters:
            bases.setdefault(name, []).append(id)
    return {name: found[0] for name, found in bases.items() if len(found) == 1}


def conversation_hash(model_id: str, conversation_id: str) -> int:
    """What nodes call a conversation among themselves: it tells nobody what its id is."""
    digest = blake2b(f"{model_id}\0{conversation_id}".encode(), digest_size=_HASH_BYTES)
    return int.from_bytes(digest.digest())


def _hosted(told: HostedModel) -> Hosted:
    return Hosted(
        instance_id=told.instance_id,
        sha256=told.sha256,
        is_ready=told.is_ready,
        holds=told.holds,
        slots=max(1, told.slots),
        footprint=footprint_of(told.memory),
        may_leave=told.may_leave,
        is_pinned=told.is_pinned,
        is_replica=told.is_replica,
        loss=loss(told.load_seconds, told.idle_seconds),
    )
