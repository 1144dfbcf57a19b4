"""Which conversation lies in which slot, and how one comes in and leaves.

A prompt gets a slot that holds its beginning already, from the turn before, from another slot that shares it
or from a snapshot; what has to make way for it leaves as a snapshot itself (ADR 15).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import NamedTuple

from suite.engine.backend import Backend
from suite.engine.slots import Slot, Slots
from suite.engine.snapshots.file import pack
from suite.engine.snapshots.snapshot import Found
from suite.engine.snapshots.snapshots import Snapshots
from suite.errors import ConversationGone
from suite.identity import Clock
from suite.messages.actor import Cleared

logger = logging.getLogger("suite.engine")

WORTH_RESTORING = 16
"""Tokens that a snapshot must save over what is in memory: fewer are as quickly decoded."""
REST_SECONDS = 0.5
"""How long a conversation is left alone before its snapshot is made: its next turn may be on its way."""


class Place(NamedTuple):
    """Where a prompt is decoded, and how many of its tokens lie there already."""

    slot: Slot
    reused_tokens: int


class Conversations:
    """The conversations of one context, in slots and in snapshots. One thread uses it."""

    def __init__(self, backend: Backend, slots: Slots, snapshots: Snapshots | None, clock: Clock) -> None:
        self._backend = backend
        self._slots = slots
        self._snapshots = snapshots
        self._clock = clock

    # --- coming in ------------------------------------------------------------------------------------------

    @property
    def have_room(self) -> bool:
        """Whether a generation could begin: a slot is free."""
        return any(not slot.generating for slot in self._slots)

    def held(self, conversation_id: str | None) -> list[int]:
        """All that a conversation's next turn goes on from. Raises ConversationGone."""
        tokens: Sequence[int] | None = None
        if conversation_id is not None:
            slot = self._slots.of(conversation_id)
            if slot is not None:
                tokens = None if slot.tail is None else [*slot.tokens, *slot.tail]
            elif self._snapshots is not None:
                tokens = self._snapshots.tokens_of(conversation_id)
        if not tokens:
            raise ConversationGone(
                f"the tokens of conversation {conversation_id!r} are gone: send it whole, without continue"
            )
        return list(tokens)

    def place(self, prompt: list[int], conversation_id: str | None) -> Place:
        """Give a prompt the slot where most of it lies already, or can be brought to. One has to be free."""
        plan = self._slots.plan(prompt, conversation_id)
        slot, source, reused = plan.target, plan.source, plan.reused_tokens
        if reused < self._backend.shortest(source.sequence):
            reused = 0  # the model cannot forget the rest of what lies there
        is_own = conversation_id is not None and slot.conversation_id == conversation_id
        is_gone_on_with = slot.conversation_id is None and source is slot and reused == len(slot.tokens)
        if not is_own and not is_gone_on_with:
            self._save(slot)
        found = self._find(prompt, conversation_id, at_least=reused + WORTH_RESTORING)
        if found is not None and self._restore(slot, found):
            reused = found.tokens
        elif source is not slot or not reused:
            self.empty(slot)
            if reused:
                self._backend.share(source.sequence, slot.sequence, reused)
        self._backend.cut(slot.sequence, reused)
        if self._backend.length(slot.sequence) != reused:
            # The figures of reuse are what llama.cpp has, never what was meant.
            self.empty(slot)
            reused = 0
        self._slots.begin(slot, prompt[:reused], conversation_id)
        if conversation_id is not None and self._snapshots is not None:
            self._snapshots.supersede(conversation_id)
        return Place(slot, reused)

    def _find(self, prompt: list[int], conversation_id: str | None, *, at_least: int) -> Found | None:
        """The snapshot with most of the prompt, if the generations at work leave room for it."""
        if self._snapshots is None:
            return None
        found = self._snapshots.find(
            prompt[:-1], conversation_id, at_least=at_least, whole=not self._backend.can_share
        )
        if found is None or found.total + self._tokens(generating=True) > self._backend.cache_tokens:
            return None
        return found

    def _restore(self, slot: Slot, found: Found) -> bool:
        """Put a snapshot into a slot; what is idle leaves the cache for it, as much as it takes."""
        assert self._snapshots is not None
        payload = self._snapshots.load(found)
        if payload is None:
            return False
        self.empty(slot)
        while not self._backend.restore(slot.sequence, payload):
            fits = found.total + self._tokens() <= self._backend.cache_tokens
            if fits or not self.make_room():
                return False
        return True

    def _tokens(self, *, generating: bool = False) -> int:
        """What the slots hold; those that share a beginning have it once, so it may be less."""
        return sum(len(slot.tokens) for slot in self._slots if slot.generating or not generating)

    # --- at the end -----------------------------------------------------------------------------------------

    def end(self, slot: Slot, *, tail: Sequence[int] | None) -> None:
        """A slot's generation is over.

        `tail`: what was said after the slot's tokens and not decoded; None where it was cut off in a way that
        nothing can go on from.
        """
        slot.generating = False
        slot.tail = None if tail is None else list(tail)
        slot.ended = self._clock()
        if not slot.tokens:
            self.empty(slot)

    def empty(self, slot: Slot) -> None:
        """Forget what lies in a slot."""
        self._backend.cut(slot.sequence, 0)
        self._slots.forget(slot)

    # --- leaving --------------------------------------------------------------------------------------------

    def make_room(self) -> bool:
        """Take the idle conversation that was used least recently out of the cache. False: there is none."""
        idle = self._slots.least_recently_used()
        if idle is None:
            return False
        self._save(idle)
        self.empty(idle)
        return True

    def rest(self, *, seconds: float = 0.0) -> bool:
        """Make the snapshot of one conversation that has been idle so long; False when there is none.

        So what a conversation holds survives the process.
        """
        ended_by = self._clock() - seconds
        for slot in self._slots:
            is_idle = not slot.generating and not slot.condemned and slot.ended <= ended_by
            if is_idle and slot.unsaved and slot.conversation_id is not None:
                self._save(slot)
                return True
        return False

    def park(self, seconds: float) -> None:
        """Make snapshots of all conversations, and have them on disk within this time."""
        end = self._clock() + seconds
        while self.rest():
            if self._snapshots is not None:
                self._snapshots.flush(max(0.0, end - self._clock()))
        if self._snapshots is not None:
            self._snapshots.close(max(0.0, end - self._clock()))

    def expire(self) -> None:
        """Drop the snapshots that nobody came back for."""
        if self._snapshots is not None:
            self._snapshots.expire()

    def _save(self, slot: Slot) -> None:
        """Make a snapshot of a slot, if there is one to make."""
        if not slot.unsaved or slot.condemned:
            return
        slot.unsaved = False
        worth = slot.conversation_id is not None or len(slot.tokens) >= WORTH_RESTORING
        if self._snapshots is None or not worth:
            return
        try:
            payload = self._backend.save(slot.sequence)
        except MemoryError:
            logger.warning("there is no memory for a snapshot of %d tokens: it is lost", len(slot.tokens))
            return
        self._snapshots.put(
            slot.conversation_id,
            slot.tokens,
            payload,
            shortest=self._backend.shortest_saved(slot.sequence),
            tail=slot.tail,
        )

    # --- forgetting -----------------------------------------------------------------------------------------

    def clear(self, conversation_id: str | None) -> Cleared:
        """Forget a conversation, or for None all: snapshots now, slots with `empty_condemned`."""
        found = self._slots.condemn(conversation_id)
        forgotten = [] if self._snapshots is None else self._snapshots.forget(conversation_id)
        in_slots = [(slot.conversation_id, pack(slot.tokens)) for slot in found]
        elsewhere = [each for each in forgotten if not any(each.is_of(*slot) for slot in in_slots)]
        return Cleared(
            conversations=len(found) + len(elsewhere),
            generating=sum(slot.generating for slot in found),
            tokens=sum(len(slot.tokens) for slot in found) + sum(each.count for each in elsewhere),
        )

    def empty_condemned(self) -> None:
        """Empty the slots that were cleared and in which nothing is at work."""
        for slot in self._slots:
            if slot.condemned and not slot.generating:
                self.empty(slot)
