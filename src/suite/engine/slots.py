"""Which tokens each slot has, and how much of a new prompt need not be decoded again (prefix reuse).

A slot is one sequence of the context. A conversation keeps its slot, so that its next turn finds the tokens
of earlier turns; a new conversation gets an empty slot, or that of the least recently used conversation. This
is bookkeeping only: `plan` says what to do, and the caller does it with llama.cpp and reports the result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import msgspec

_MOSTLY = 0.5
"""A prompt takes a slot that belongs to no conversation if it repeats at least this share of its tokens."""


class Slot:
    """One sequence: its tokens in the KV cache, and the conversation that they belong to."""

    def __init__(self, sequence: int) -> None:
        self.sequence = sequence
        self.tokens: list[int] = []
        self.tail: list[int] | None = None
        """Sampled after `tokens`, not decoded yet; None if the conversation cannot be continued from here."""
        self.conversation_id: str | None = None
        self.adapters = ""
        """The key of the adapters that its tokens were decoded with; empty: without any."""
        self.last_used = 0
        self.ended_at = 0.0
        """When its last generation ended, in seconds of the engine's clock."""
        self.generating = False
        """Whether a generation runs in it."""
        self.marked_for_clearing = False
        """Whether it is to be emptied as soon as no generation runs in it."""
        self.unsaved = False
        """Whether it has tokens that are in no snapshot yet."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The slot for a prompt, and the prefix of the prompt that is in memory already."""

    target: Slot
    source: Slot
    """The slot that has the prefix. If it is not the target, the prefix is to be copied from it."""
    reused_tokens: int


class Slots:
    """All sequences of one context."""

    def __init__(self, count: int, *, can_share: bool = True) -> None:
        """`can_share` is False for a model that cannot copy a prefix between sequences (a recurrent one)."""
        self._slots = [Slot(sequence) for sequence in range(count)]
        self._can_share = can_share
        self._uses = 0

    def __iter__(self) -> Iterator[Slot]:
        return iter(self._slots)

    def plan(
        self,
        prompt: list[int],
        conversation_id: str | None,
        *,
        adapters: str = "",
        reuse: bool = True,
        min_prefix: Callable[[Slot], int] = lambda _: 0,
        min_saved: Callable[[Slot], float] = lambda _: 1,
    ) -> Plan:
        """Choose the slot for this prompt. At least one slot must be free.

        Only what was decoded with these `adapters` is of use. `min_prefix` has the fewest tokens to which a
        slot can be truncated: fewer cannot be reused. `min_saved` has the fewest tokens that must be saved to
        copy a prefix of a slot into another. The prompt's last token is never reused, because its logits are
        needed to sample the first token.
        """
        free = [slot for slot in self._slots if not slot.generating]
        shared = {slot.sequence: 0 for slot in self._slots}
        for slot in self._slots:
            if reuse and not slot.marked_for_clearing and slot.adapters == adapters:
                tokens = common_prefix(slot.tokens, prompt, len(prompt) - 1)
                shared[slot.sequence] = tokens if tokens and tokens >= min_prefix(slot) else 0
        target = self._target(free, shared, conversation_id, adapters)
        own = shared[target.sequence]
        sources = [slot for slot in self._slots if shared[slot.sequence] - own >= min_saved(slot)]
        if not self._can_share or not sources:
            return Plan(target=target, source=target, reused_tokens=own)
        best = max(sources, key=lambda slot: (shared[slot.sequence], slot.last_used))
        return Plan(target=target, source=best, reused_tokens=shared[best.sequence])

    def _target(
        self, free: Sequence[Slot], shared: Mapping[int, int], conversation_id: str | None, adapters: str
    ) -> Slot:
        if conversation_id is not None:
            for slot in free:
                if slot.conversation_id == conversation_id:
                    return slot
        best = max(free, key=lambda slot: (shared[slot.sequence], slot.last_used))
        is_free_to_take = best.conversation_id in (None, conversation_id)
        if is_free_to_take and shared[best.sequence] >= max(1, _MOSTLY * len(best.tokens)):
            return best
        return min(free, key=lambda slot: self._preference(slot, adapters))

    def _preference(self, slot: Slot, adapters: str) -> tuple[bool, int, int, int]:
        return (*self._eviction_order(slot), self._distance(slot, adapters), slot.sequence)

    def _eviction_order(self, slot: Slot) -> tuple[bool, int]:
        """Empty slots come first, then the least recently used one."""
        return (bool(slot.tokens), slot.last_used if slot.tokens else 0)

    def _distance(self, slot: Slot, adapters: str) -> int:
        """How far a slot is from those that generate with the same adapters; 0 if it is between two of them.

        The first one of its adapters goes as far as it can from the others, so that all have room to grow.
        """
        running = [other for other in self._slots if other.generating]
        alike = [other.sequence for other in running if other.adapters == adapters]
        if not alike:
            return -min((abs(slot.sequence - other.sequence) for other in running), default=0)
        if min(alike) < slot.sequence < max(alike):
            return 0
        return min(abs(slot.sequence - sequence) for sequence in alike)

    def find(self, conversation_id: str) -> Slot | None:
        """The slot of a conversation, unless it is marked for clearing."""
        for slot in self._slots:
            if slot.conversation_id == conversation_id and not slot.marked_for_clearing:
                return slot
        return None

    def assign(
        self, slot: Slot, tokens: Sequence[int], conversation_id: str | None, *, adapters: str = ""
    ) -> None:
        """Record that a slot has exactly these tokens, which conversation it belongs to, and its adapters.

        When a conversation has two generations at once, it keeps the slot of the newer one.
        """
        for other in self._slots:
            if other is not slot and conversation_id is not None and other.conversation_id == conversation_id:
                other.conversation_id = None
        self._uses += 1
        slot.tokens = list(tokens)
        slot.conversation_id = conversation_id
        slot.adapters = adapters
        slot.last_used = self._uses
        slot.tail = None
        slot.generating = slot.unsaved = True

    def mark_empty(self, slot: Slot) -> None:
        """Record that the slot is empty."""
        slot.tokens = []
        slot.tail = slot.conversation_id = None
        slot.adapters = ""
        slot.generating = slot.marked_for_clearing = slot.unsaved = False

    def mark_for_clearing(self, conversation_id: str | None) -> list[Slot]:
        """Mark a conversation's slots, or with None all, for clearing. Returns those not marked before.

        A slot with a running generation is marked too, even before it has tokens.
        """
        found = [
            slot
            for slot in self._slots
            if (slot.tokens or slot.generating)
            and not slot.marked_for_clearing
            and conversation_id in (None, slot.conversation_id)
        ]
        for slot in found:
            slot.marked_for_clearing = True
        return found

    def least_recently_used(self) -> Slot | None:
        """The idle slot to evict when the KV cache is full; None when no idle slot has tokens.

        Slots that are marked for clearing come first.
        """
        idle = [slot for slot in self._slots if slot.tokens and not slot.generating]
        return min(idle, key=lambda slot: (not slot.marked_for_clearing, slot.last_used), default=None)


def common_prefix(held: list[int], prompt: list[int], limit: int) -> int:
    """The length of the common prefix, at most `limit`."""
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
