"""Composes the next batch: the next token of every running answer, then pieces of prompts as far as they fit.

Prompts are decoded in pieces (chunked prefill), so that running answers do not stall when a long prompt
arrives. Prompts with a higher priority go first, then those that arrived first. A step of priority counts as
a fixed number of seconds of waiting, so that no generation starves. Nothing here depends on llama.cpp.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from suite.engine.backend import BatchEntry, TokenSampler
from suite.engine.generation import Generation
from suite.engine.listener import Listener
from suite.engine.slots import Slot
from suite.engine.text import TextStream

PRIORITY_SECONDS = 10.0
"""Each step of priority moves a generation forward in the queue as if it had arrived this much earlier."""


class Run:
    """One generation in the engine: its slot, its sampler, and the tokens to decode next."""

    def __init__(self, generation: Generation, listener: Listener, arrival: int, now: float) -> None:
        request = generation.request
        self.generation = generation
        self.listener = listener
        self.pending: list[int] = list(request.prompt)
        """Tokens to decode next: the rest of the prompt, or the token that was sampled last."""
        self.slot: Slot | None = None
        """None while it waits."""
        self.sampler: TokenSampler | None = None
        self.text = TextStream(request.stop)
        self.prefilled = False
        """Whether the whole prompt is decoded, so that each step samples a token."""
        self.marked_for_clearing = False
        """Whether its slot is to be cleared when it ends; kept here while it is preempted and has no slot."""
        self.arrival = arrival
        self.rank = (now - PRIORITY_SECONDS * request.priority, arrival)


class BatchShare(NamedTuple):
    """The number of tokens that one run has in a batch."""

    run: Run
    tokens: int

    @property
    def samples(self) -> bool:
        """Whether a token is sampled after this batch."""
        return self.tokens == len(self.run.pending)


class Scheduler:
    """The runs that wait for a slot and those that have one, each sorted by rank."""

    def __init__(self, *, batch_tokens: int, prompt_step_tokens: int) -> None:
        """`prompt_step_tokens` is the most prompt tokens in one step while answers are being generated."""
        self.waiting: list[Run] = []
        self.running: list[Run] = []
        self._batch_tokens = batch_tokens
        self._prompt_step_tokens = prompt_step_tokens

    def __iter__(self) -> Iterator[Run]:
        yield from self.running
        yield from self.waiting

    def enqueue(self, run: Run) -> None:
        """Add a run to the queue."""
        bisect.insort(self.waiting, run, key=_rank)

    def start(self, run: Run) -> None:
        """Move a run from the queue to the running ones, which take part in batches."""
        self.waiting.remove(run)
        bisect.insort(self.running, run, key=_rank)

    def remove(self, run: Run) -> None:
        """Remove a run, whether it waits or runs."""
        (self.running if run in self.running else self.waiting).remove(run)

    def has_predecessor(self, run: Run) -> bool:
        """Whether an earlier run of the same conversation has not ended yet."""
        conversation_id = run.generation.request.conversation_id
        return conversation_id is not None and any(
            other.arrival < run.arrival and other.generation.request.conversation_id == conversation_id
            for other in self
        )

    def expected_steps(self) -> dict[Slot, int]:
        """How many steps each slot's run still takes part in, unless its answer ends before its length."""
        return {
            run.slot: run.generation.request.max_tokens - run.generation.completion_tokens
            for run in self.running
            if run.slot is not None
        }

    def next_batch(self) -> list[BatchShare]:
        """Compose the next batch; empty when no run has anything to decode."""
        chosen = [BatchShare(run, 1) for run in self.running if run.prefilled]
        room = self._batch_tokens - len(chosen)
        if chosen:
            room = min(room, self._prompt_step_tokens)
        if len(chosen) < len(self.running):
            for run in self.running:
                if not run.prefilled and room > 0:
                    share = BatchShare(run, min(room, len(run.pending)))
                    chosen.append(share)
                    room -= share.tokens
        return chosen


def _rank(run: Run) -> tuple[float, int]:
    return run.rank


def by_sequence(shares: Sequence[BatchShare]) -> list[BatchShare]:
    """The shares of a batch in the order of their sequences: in any other llama.cpp splits it."""
    return sorted(shares, key=_sequence)


def _sequence(share: BatchShare) -> int:
    assert share.run.slot is not None, "only what has a slot is in a batch"
    return share.run.slot.sequence


def batch_entries(shares: Sequence[BatchShare]) -> list[BatchEntry]:
    """The entries of a batch for `Backend.decode`."""
    batch = []
    for share in shares:
        slot = share.run.slot
        assert slot is not None, "only what has a slot is in a batch"
        tokens = share.run.pending[: share.tokens]
        batch.append(BatchEntry(slot.sequence, tokens, len(slot.tokens), share.samples))
    return batch
