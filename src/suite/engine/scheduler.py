"""Who goes into the next batch: every running answer with its next token, and prompts in what room is left.

Prompts are fed in pieces, so that answers that run do not stall while a long one arrives, and those that came
first, or matter more, are fed first. A priority is worth some seconds of waiting, so that nobody waits for
ever. Nothing here knows of llama.cpp.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from suite.engine.backend import Part, TokenSource
from suite.engine.generation import Generation
from suite.engine.listener import Listener
from suite.engine.slots import Slot
from suite.engine.text import TextStream

PRIORITY_SECONDS = 10.0
"""A generation goes as if it had come so much earlier for each step of its priority."""


class Run:
    """One generation in the engine: where it stands, and what is to be decoded next."""

    def __init__(self, generation: Generation, listener: Listener, arrival: int, now: float) -> None:
        order = generation.order
        self.generation = generation
        self.listener = listener
        self.pending: list[int] = list(order.prompt)
        """Tokens that are to be decoded next: the rest of the prompt, or the token that was sampled last."""
        self.slot: Slot | None = None
        """None while it waits."""
        self.source: TokenSource | None = None
        self.text = TextStream(order.stop)
        self.answering = False
        """Its prompt is decoded: each step samples a token."""
        self.condemned = False
        """What it holds is to be forgotten when it ends, though it has no slot at the moment."""
        self.arrival = arrival
        self.rank = (now - PRIORITY_SECONDS * order.priority, arrival)


class Share(NamedTuple):
    """The tokens of one run that go into a batch."""

    run: Run
    tokens: int

    @property
    def samples(self) -> bool:
        """Whether a token is sampled after it."""
        return self.tokens == len(self.run.pending)


class Scheduler:
    """The runs that wait and those that have a slot, both in their order."""

    def __init__(self, *, batch_tokens: int, prompt_step_tokens: int) -> None:
        """`prompt_step_tokens` of prompts go into a step at most while answers run."""
        self.waiting: list[Run] = []
        self.running: list[Run] = []
        self._batch_tokens = batch_tokens
        self._prompt_step_tokens = prompt_step_tokens

    def __iter__(self) -> Iterator[Run]:
        yield from self.running
        yield from self.waiting

    def wait(self, run: Run) -> None:
        """Queue a run."""
        bisect.insort(self.waiting, run, key=_rank)

    def run(self, run: Run) -> None:
        """Let a run that waits take part in the next batches."""
        self.waiting.remove(run)
        bisect.insort(self.running, run, key=_rank)

    def remove(self, run: Run) -> None:
        """Take a run out, wherever it is."""
        (self.running if run in self.running else self.waiting).remove(run)

    def follows(self, run: Run) -> bool:
        """Whether another run of its conversation came before it and is not over."""
        conversation_id = run.generation.order.conversation_id
        return conversation_id is not None and any(
            other.arrival < run.arrival and other.generation.order.conversation_id == conversation_id
            for other in self
        )

    def shares(self) -> list[Share]:
        """The next batch."""
        chosen = [Share(run, 1) for run in self.running if run.answering]
        room = self._batch_tokens - len(chosen)
        if chosen:
            room = min(room, self._prompt_step_tokens)
        if len(chosen) < len(self.running):
            for run in self.running:
                if not run.answering and room > 0:
                    share = Share(run, min(room, len(run.pending)))
                    chosen.append(share)
                    room -= share.tokens
        return chosen


def _rank(run: Run) -> tuple[float, int]:
    return run.rank


def parts(shares: Sequence[Share]) -> list[Part]:
    """The shares as llama.cpp gets them."""
    batch = []
    for share in shares:
        slot = share.run.slot
        assert slot is not None, "only what has a slot is in a batch"
        tokens = share.run.pending[: share.tokens]
        batch.append(Part(slot.sequence, tokens, len(slot.tokens), share.samples))
    return batch
