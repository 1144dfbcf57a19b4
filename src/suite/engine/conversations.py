"""Decides which conversation is in which slot, and moves conversations in and out of slots.

A prompt gets a slot that already holds its prefix: from the turn before, copied from another slot, or
restored from a snapshot. The conversation that is evicted for it is saved as a snapshot (ADR 15).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from suite.engine.backend import Backend
from suite.engine.slots import Plan, Slot, Slots
from suite.engine.snapshots.file import Saved, pack, unpack
from suite.engine.snapshots.snapshot import PrefixMatch
from suite.engine.snapshots.snapshots import Snapshots
from suite.engine.window import closing
from suite.errors import ConversationGone, GenerationFailed
from suite.identity import Clock
from suite.messages.actor import Cleared

logger = logging.getLogger("suite.engine")

MIN_RESTORED_TOKENS = 16
"""A snapshot is restored only if it saves decoding this many tokens: fewer are decoded as quickly."""
MOVED_TOKENS_PER_DECODED = 64
"""To copy the state of this many tokens takes less time than to decode one.

To decode one of a prompt takes two operations a weight, which is 0.3 billion even for a small model; to copy
its keys and values, some 20 to 500 kB, takes four passes over them. So this is a cautious bound.
"""
SNAPSHOT_DELAY_SECONDS = 0.5
"""A conversation must be idle this long before its snapshot is made, as its next turn may arrive soon."""


class Placement(NamedTuple):
    """The slot of a prompt, and how many of its tokens are in the slot already."""

    slot: Slot
    reused_tokens: int


class Conversations:
    """The conversations of one context, in slots and in snapshots. Only one thread may use it."""

    def __init__(self, backend: Backend, slots: Slots, snapshots: Snapshots | None, clock: Clock) -> None:
        self._backend = backend
        self._slots = slots
        self._snapshots = snapshots
        self._clock = clock

    # --- into a slot ----------------------------------------------------------------------------------------

    @property
    def free_slots(self) -> int:
        """How many more generations can start."""
        return sum(not slot.generating for slot in self._slots)

    def tokens_of(self, conversation_id: str | None) -> list[int]:
        """All tokens that the conversation's next turn continues from. Raises ConversationGone."""
        tokens: Sequence[int] | None = None
        if conversation_id is not None:
            slot = self._slots.find(conversation_id)
            if slot is not None:
                tokens = None if slot.tail is None else [*slot.tokens, *slot.tail]
            elif self._snapshots is not None:
                tokens = self._snapshots.tokens_of(conversation_id)
        if not tokens:
            raise ConversationGone(
                f"the tokens of conversation {conversation_id!r} are gone: send all of it, without continue"
            )
        return list(tokens)

    def reusable_tokens(self, prompt: list[int], conversation_id: str | None, *, adapters: str = "") -> int:
        """How many tokens of a prompt `assign_slot` would reuse now. At least one slot must be free."""
        plan = self._plan(prompt, conversation_id, adapters)
        found = self._find(prompt, conversation_id, adapters, besides=plan.reused_tokens)
        return plan.reused_tokens if found is None else found.tokens

    def missing_tokens(self, prompt: list[int], conversation_id: str | None, *, adapters: str = "") -> int:
        """How many tokens of a prompt would have to be decoded now."""
        if not self.free_slots:
            return len(prompt)
        return len(prompt) - self.reusable_tokens(prompt, conversation_id, adapters=adapters)

    def can_lend(self, slot: Slot, tokens: int) -> bool:
        """Whether `assign_slot` can copy the first `tokens` of a slot once they are decoded."""
        if not self._backend.can_share or slot.marked_for_clearing:
            return False
        least = self._backend.min_prefix(slot.sequence)
        return least == 0 or (least < len(slot.tokens) and least <= tokens)

    def assign_slot(
        self, prompt: list[int], conversation_id: str | None, *, reuse: bool = True, adapters: str = ""
    ) -> Placement:
        """Give a prompt the slot that reuses the most of its tokens. At least one slot must be free.

        `adapters`: the key of those that it is decoded with.
        """
        plan = self._plan(prompt, conversation_id, adapters, reuse=reuse)
        slot, source, reused = plan.target, plan.source, plan.reused_tokens
        is_own = conversation_id is not None and slot.conversation_id == conversation_id
        is_gone_on_with = slot.conversation_id is None and source is slot and reused == len(slot.tokens)
        if not is_own and not is_gone_on_with:
            self._save(slot)
        found = self._find(prompt, conversation_id, adapters, besides=reused) if reuse else None
        if found is not None and self._restore(slot, found):
            reused = found.tokens
        elif source is not slot or not reused:
            self.empty(slot)
            if reused:
                self._copy_prefix(source, slot, reused)
        self._backend.truncate(slot.sequence, reused)
        if self._backend.length(slot.sequence) != reused:
            # Report as reused only what llama.cpp really has.
            self.empty(slot)
            reused = 0
        self._slots.assign(slot, prompt[:reused], conversation_id, adapters=adapters)
        if conversation_id is not None and self._snapshots is not None:
            self._snapshots.supersede(conversation_id)
        return Placement(slot, reused)

    def _plan(
        self, prompt: list[int], conversation_id: str | None, adapters: str, *, reuse: bool = True
    ) -> Plan:
        return self._slots.plan(
            prompt,
            conversation_id,
            adapters=adapters,
            reuse=reuse,
            min_prefix=lambda slot: self._backend.min_prefix(slot.sequence),
            min_saved=self._min_saved,
        )

    def _min_saved(self, source: Slot) -> float:
        """The fewest tokens that a copy from this slot must save decoding.

        Separate streams copy all that the slot holds, however little of it is wanted; a unified cache copies
        nothing.
        """
        if not self._backend.separate:
            return 1
        return max(MIN_RESTORED_TOKENS, len(source.tokens) / MOVED_TOKENS_PER_DECODED)

    def _copy_prefix(self, source: Slot, target: Slot, tokens: int) -> None:
        """Copy the first tokens of a slot into an empty one, which stays empty where that cannot be done."""
        try:
            self._backend.copy_prefix(source.sequence, target.sequence, tokens)
        except (MemoryError, GenerationFailed) as error:
            logger.warning("%d tokens could not be copied and are decoded again: %s", tokens, _reason(error))

    def _find(
        self, prompt: list[int], conversation_id: str | None, adapters: str, *, besides: int
    ) -> PrefixMatch | None:
        """The snapshot that shares the longest prefix with the prompt, if it fits beside the active slots.

        None also if it saves too little where so many tokens are reused `besides` it.
        """
        if self._snapshots is None:
            return None
        found = self._snapshots.find(
            prompt[:-1],
            conversation_id,
            at_least=besides + MIN_RESTORED_TOKENS,
            whole=not self._backend.can_share,
            adapters=adapters,
        )
        return found if found is not None and self._fits(found.total, beside_idle=False) else None

    def _restore(self, slot: Slot, found: PrefixMatch) -> bool:
        """Restore a snapshot into a slot, evicting idle conversations if needed. False: it does not fit."""
        assert self._snapshots is not None
        payload = self._snapshots.load(found)
        if payload is None:
            return False
        self.empty(slot)
        while not self._backend.restore(slot.sequence, payload):
            if self._fits(found.total, beside_idle=True) or not self.make_room():
                return False
        return True

    def _fits(self, tokens: int, *, beside_idle: bool) -> bool:
        """Whether the KV cache has room for so many tokens beside the running sequences, or beside all.

        In a unified cache that is a lower bound, for it holds a prefix that slots share only once.
        """
        if self._backend.separate:
            return tokens <= self._backend.context_tokens
        held = sum(len(slot.tokens) for slot in self._slots if slot.generating or beside_idle)
        return tokens + held <= self._backend.cache_tokens

    # --- next to each other ---------------------------------------------------------------------------------

    def close_gaps(self, expected_steps: Mapping[Slot, int]) -> Sequence[Slot]:
        """Move running sequences next to each other where that pays most, as gaps split a batch (ADR 35).

        `expected_steps` are those that each of them will still take part in. No more than one gap is closed.
        Returns the slots whose contents were lost; they are empty.
        """
        if not self._backend.separate:
            return ()
        by_sequence = {slot.sequence: slot for slot in self._slots}
        running = {slot.sequence: steps for slot, steps in expected_steps.items()}
        for first, second in closing(running, self._backend.exchange_steps):
            one, other = by_sequence[first], by_sequence[second]
            try:
                self._backend.exchange(first, second)
            except MemoryError as error:
                logger.warning("a sequence could not be moved, the batch stays split: %s", _reason(error))
                return ()
            except GenerationFailed as error:
                logger.warning("two sequences were lost when they were moved: %s", _reason(error))
                self.empty(one)
                self.empty(other)
                return one, other
            one.sequence, other.sequence = second, first
        return ()

    # --- at the end -----------------------------------------------------------------------------------------

    def end(self, slot: Slot, *, tail: Sequence[int] | None) -> None:
        """Free a slot at the end of its generation.

        `tail` has the tokens that were sampled after the slot's tokens and not decoded; None if the
        conversation cannot be continued from here, as the generation was cut off.
        """
        slot.generating = False
        slot.tail = None if tail is None else list(tail)
        slot.ended_at = self._clock()
        if not slot.tokens:
            self.empty(slot)

    def cut_back(self, slot: Slot, position: int, tail: Sequence[int]) -> None:
        """Have the conversation of a slot go on from its first `position` tokens and `tail`.

        Where the model cannot forget the other tokens, the conversation cannot be continued.
        """
        can_forget = self._backend.min_prefix(slot.sequence) <= position
        if position < len(slot.tokens):
            if not can_forget or not self._backend.truncate(slot.sequence, position):
                slot.tail = None
                return
            del slot.tokens[position:]
        slot.tail = list(tail)

    def forget_rest(self, slot: Slot) -> None:
        """Remove what a sequence has beyond its slot's tokens: a part of a picture."""
        if not self._backend.truncate(slot.sequence, len(slot.tokens)):
            self.empty(slot)

    def empty(self, slot: Slot) -> None:
        """Remove all tokens from a slot."""
        self._backend.truncate(slot.sequence, 0)
        self._slots.mark_empty(slot)

    # --- to other nodes and from them -----------------------------------------------------------------------

    def export(self, conversation_id: str) -> Saved | None:
        """The state of a conversation that goes on elsewhere; None: there is none.

        It stays here to be reused, but cannot be continued from here any more.
        """
        slot = self._slots.find(conversation_id)
        if slot is not None and not slot.generating:
            self._save(slot)
        saved = None if self._snapshots is None else self._snapshots.saved(conversation_id)
        self.supersede(conversation_id)
        return saved

    def supersede(self, conversation_id: str) -> None:
        """Note that a conversation has gone on elsewhere, so that it is not continued from what is here."""
        slot = self._slots.find(conversation_id)
        if slot is not None and not slot.generating:
            slot.tail = None
        if self._snapshots is not None:
            self._snapshots.supersede(conversation_id)

    def adopt(self, saved: Saved) -> None:
        """Take over a conversation that was elsewhere until now, in place of what is here of it.

        While it generates here, or without snapshots, nothing is taken over.
        """
        slot = self._slots.find(saved.conversation_id)
        if self._snapshots is None or (slot is not None and slot.generating):
            return
        if slot is not None:
            self.empty(slot)
        self._snapshots.put(
            saved.conversation_id,
            unpack(saved.tokens),
            saved.payload,
            min_prefix=saved.min_prefix,
            tail=saved.tail,
            adapters=saved.adapters,
        )

    # --- eviction -------------------------------------------------------------------------------------------

    def make_room(self) -> bool:
        """Evict the least recently used idle conversation from the KV cache. False: none is idle."""
        idle = self._slots.least_recently_used()
        if idle is None:
            return False
        self._save(idle)
        self.empty(idle)
        return True

    def snapshot_idle(self, *, seconds: float = 0.0) -> bool:
        """Make a snapshot of one conversation that has been idle for this long. False: there is none to make.

        With it the conversation survives the end of the process.
        """
        ended_by = self._clock() - seconds
        for slot in self._slots:
            is_idle = not slot.generating and not slot.marked_for_clearing and slot.ended_at <= ended_by
            if is_idle and slot.unsaved and slot.conversation_id is not None:
                self._save(slot)
                return True
        return False

    def snapshot_all(self, seconds: float) -> None:
        """Make snapshots of all conversations and write them to disk, taking at most this many seconds."""
        end = self._clock() + seconds
        while self.snapshot_idle():
            if self._snapshots is not None:
                self._snapshots.flush(max(0.0, end - self._clock()))
        if self._snapshots is not None:
            self._snapshots.close(max(0.0, end - self._clock()))

    def expire(self) -> None:
        """Drop the snapshots that have not been used for too long."""
        if self._snapshots is not None:
            self._snapshots.expire()

    def _save(self, slot: Slot) -> None:
        """Make a snapshot of a slot, unless it has one, is marked for clearing, or has few tokens."""
        if not slot.unsaved or slot.marked_for_clearing:
            return
        worthwhile = slot.conversation_id is not None or len(slot.tokens) >= MIN_RESTORED_TOKENS
        if self._snapshots is not None and worthwhile:
            try:
                self._put(self._snapshots, slot)
            except (MemoryError, GenerationFailed) as error:
                logger.warning(
                    "%d tokens get no snapshot, and are lost when they leave their slot: %s",
                    len(slot.tokens),
                    _reason(error),
                )
        slot.unsaved = False  # a second try would hold up the others as long

    def _put(self, snapshots: Snapshots, slot: Slot) -> None:
        snapshots.put(
            slot.conversation_id,
            slot.tokens,
            self._backend.save(slot.sequence),
            min_prefix=self._backend.min_saved_prefix(slot.sequence),
            tail=slot.tail,
            adapters=slot.adapters,
        )

    @property
    def unsaved_tokens(self) -> int:
        """How many tokens in slots would be lost with the process: those that no snapshot on disk has."""
        on_disk = self._snapshots is not None and self._snapshots.on_disk
        return sum(
            len(slot.tokens)
            for slot in self._slots
            if not slot.marked_for_clearing and not (on_disk and slot.conversation_id is not None)
        )

    # --- forgetting -----------------------------------------------------------------------------------------

    def clear(self, conversation_id: str | None) -> Cleared:
        """Forget a conversation, or with None all: snapshots at once, slots at the next `empty_marked`."""
        found = self._slots.mark_for_clearing(conversation_id)
        forgotten = [] if self._snapshots is None else self._snapshots.forget(conversation_id)
        in_slots = [(slot.conversation_id, pack(slot.tokens)) for slot in found]
        elsewhere = [each for each in forgotten if not any(each.is_of(*slot) for slot in in_slots)]
        return Cleared(
            conversations=len(found) + len(elsewhere),
            generating=sum(slot.generating for slot in found),
            tokens=sum(len(slot.tokens) for slot in found) + sum(each.count for each in elsewhere),
        )

    def empty_marked(self) -> None:
        """Empty the slots that are marked for clearing and have no running generation."""
        for slot in self._slots:
            if slot.marked_for_clearing and not slot.generating:
                self.empty(slot)


def _reason(error: Exception) -> str:
    return str(error) or "there is no memory"
