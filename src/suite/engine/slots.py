"""Which tokens are in memory where, and what of a new prompt need not be decoded again.

A slot is one sequence of the context. A conversation keeps its slot, so that its next turn finds the tokens
of the turns before; a new one takes an empty slot, or that of the conversation not used for longest. This is
bookkeeping only: `plan` says what to do, the caller does it with llama.cpp and tells what came of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import msgspec

_MOSTLY = 0.5
"""A prompt without an owner goes on in a slot of which it repeats at least this share."""


class Slot:
    """One sequence: its tokens as they lie in the cache, and whose they are."""

    def __init__(self, sequence: int) -> None:
        self.sequence = sequence
        self.tokens: list[int] = []
        self.tail: list[int] | None = None
        """What was said after them and not decoded; None where the conversation cannot go on from here."""
        self.conversation_id: str | None = None
        self.last_used = 0
        self.ended = 0.0
        """When its last generation was over, by the engine's clock."""
        self.generating = False
        """A generation is at work in it."""
        self.condemned = False
        """It is to be emptied as soon as no generation is at work in it."""
        self.unsaved = False
        """It holds tokens of which no snapshot was made."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Where a prompt goes, and the tokens it begins with that are in memory already."""

    target: Slot
    source: Slot
    """The slot that holds them; another one than the target when its conversation keeps its own."""
    reused_tokens: int


class Slots:
    """All sequences of one context."""

    def __init__(self, count: int, *, can_share: bool = True) -> None:
        """`can_share` False: the model's memory cannot give part of one sequence to another (recurrent)."""
        self._slots = [Slot(sequence) for sequence in range(count)]
        self._can_share = can_share
        self._uses = 0

    def __iter__(self) -> Iterator[Slot]:
        return iter(self._slots)

    def plan(self, prompt: list[int], conversation_id: str | None) -> Plan:
        """The place for this prompt. A slot has to be free.

        The prompt's last token is always left to decode: its logits are sampled from.
        """
        free = [slot for slot in self._slots if not slot.generating]
        usable = len(prompt) - 1
        shared = {
            slot.sequence: 0 if slot.condemned else _common(slot.tokens, prompt, usable)
            for slot in self._slots
        }
        target = self._target(free, shared, conversation_id)
        best = max(self._slots, key=lambda slot: (shared[slot.sequence], slot.last_used))
        if not self._can_share or shared[target.sequence] == shared[best.sequence]:
            best = target
        return Plan(target=target, source=best, reused_tokens=shared[best.sequence])

    def _target(self, free: Sequence[Slot], shared: Mapping[int, int], conversation_id: str | None) -> Slot:
        if conversation_id is not None:
            for slot in free:
                if slot.conversation_id == conversation_id:
                    return slot
        best = max(free, key=lambda slot: (shared[slot.sequence], slot.last_used))
        is_free_to_take = best.conversation_id in (None, conversation_id)
        if is_free_to_take and shared[best.sequence] >= max(1, _MOSTLY * len(best.tokens)):
            return best
        return min(free, key=lambda slot: (bool(slot.tokens), slot.last_used))

    def of(self, conversation_id: str) -> Slot | None:
        """The slot that holds a conversation."""
        for slot in self._slots:
            if slot.conversation_id == conversation_id and not slot.condemned:
                return slot
        return None

    def begin(self, slot: Slot, tokens: Sequence[int], conversation_id: str | None) -> None:
        """Note that a slot now holds these tokens, nothing else, and whose it is.

        Of two generations of a conversation at once, the newer one's slot is the conversation's.
        """
        for other in self._slots:
            if other is not slot and conversation_id is not None and other.conversation_id == conversation_id:
                other.conversation_id = None
        self._uses += 1
        slot.tokens = list(tokens)
        slot.conversation_id = conversation_id
        slot.last_used = self._uses
        slot.tail = None
        slot.generating = slot.unsaved = True

    def forget(self, slot: Slot) -> None:
        """Note that the slot is empty."""
        slot.tokens = []
        slot.tail = slot.conversation_id = None
        slot.generating = slot.condemned = slot.unsaved = False

    def condemn(self, conversation_id: str | None) -> list[Slot]:
        """Condemn what is held of a conversation, for None all; the slots for which that is new.

        A slot with a generation at work counts, even before it has tokens.
        """
        found = [
            slot
            for slot in self._slots
            if (slot.tokens or slot.generating)
            and not slot.condemned
            and conversation_id in (None, slot.conversation_id)
        ]
        for slot in found:
            slot.condemned = True
        return found

    def least_recently_used(self) -> Slot | None:
        """The slot to give up when the cache is short of room; None when no idle one holds anything.

        A condemned one goes before all others.
        """
        idle = [slot for slot in self._slots if slot.tokens and not slot.generating]
        return min(idle, key=lambda slot: (not slot.condemned, slot.last_used), default=None)


def _common(held: list[int], prompt: list[int], limit: int) -> int:
    """How many tokens at the beginning are the same, `limit` at most."""
    low, high = 0, min(limit, len(held))
    if held[:high] == prompt[:high]:
        return high
    while high - low > 1:  # low are the same, high are not
        middle = (low + high) // 2
        if held[low:middle] == prompt[low:middle]:
            low = middle
        else:
            high = middle
    return low
