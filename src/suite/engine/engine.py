"""Runs many generations at once in one context: continuous batching.

A step is: end what is to end, give free slots to those that wait, compose a batch, decode it, sample. New
generations join between two steps (Orca, OSDI 2022), prompts are fed in pieces beside the answers that run
(Sarathi-Serve, OSDI 2024), and when the cache is full, idle conversations leave it first; then the newest
generation waits until there is room and is decoded again (the recomputation of vLLM, SOSP 2023).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

from suite.engine.backend import Backend
from suite.engine.conversations import REST_SECONDS, Conversations
from suite.engine.generation import Generation
from suite.engine.listener import Listener
from suite.engine.scheduler import Run, Scheduler, Share, parts
from suite.engine.slots import Slots
from suite.engine.snapshots.snapshots import Snapshots
from suite.errors import GenerationFailed, PromptTooLong, SuiteError
from suite.identity import Clock
from suite.messages.actor import Cleared
from suite.messages.events import Outcome

logger = logging.getLogger("suite.engine")


class Step(NamedTuple):
    """What a batch was: how many sequences and tokens, how many generations waited, how long it took."""

    sequences: int
    tokens: int
    waiting: int
    seconds: float


OnStep: TypeAlias = Callable[[Step], None]


class Engine:
    """The generations of one context. One thread calls it, `step` again and again while it is busy."""

    def __init__(
        self,
        backend: Backend,
        slots: Slots,
        *,
        prompt_step_tokens: int,
        snapshots: Snapshots | None = None,
        clock: Clock = time.perf_counter,
    ) -> None:
        """`prompt_step_tokens` of prompts are decoded in a step at most while answers run."""
        self._backend = backend
        self._conversations = Conversations(backend, slots, snapshots, clock)
        self._scheduler = Scheduler(batch_tokens=backend.batch_tokens, prompt_step_tokens=prompt_step_tokens)
        self.on_step: OnStep | None = None
        """Is told of every step."""
        self._clock = clock
        self._arrivals = 0
        self._crowded = False

    @property
    def busy(self) -> bool:
        """Whether there is anything to generate."""
        return bool(self._scheduler.running or self._scheduler.waiting)

    def submit(self, generation: Generation, listener: Listener) -> None:
        """Have a generation begin when there is a slot for it."""
        self._arrivals += 1
        self._scheduler.wait(Run(generation, listener, self._arrivals, self._clock()))

    def step(self) -> None:
        """Bring every generation on by a token, or its prompt by a piece."""
        self._end_overdue()
        if self._scheduler.waiting or not self._scheduler.running:
            self._conversations.empty_condemned()
        self._admit()
        began = self._clock()
        shares = self._decode()
        self._publish(shares)
        if self.on_step is not None and shares:
            waiting, seconds = len(self._scheduler.waiting), self._clock() - began
            self.on_step(Step(len(shares), sum(share.tokens for share in shares), waiting, seconds))
        self._conversations.rest(seconds=REST_SECONDS)

    # --- between generations --------------------------------------------------------------------------------

    def clear(self, conversation_id: str | None) -> Cleared:
        """Forget the tokens of a conversation, or for None all, in memory and in snapshots.

        It goes before the next generation begins, or when none runs: what else lies in the cache, and where,
        shows in the last digits of what llama.cpp computes. None that begins later finds any of it.
        """
        cleared = self._conversations.clear(conversation_id)
        aside = [
            run
            for run in self._scheduler.waiting
            if run.source is not None and conversation_id in (None, run.generation.order.conversation_id)
        ]
        for run in aside:
            run.condemned = True
        return Cleared(
            conversations=cleared.conversations + len(aside),
            generating=cleared.generating + len(aside),
            tokens=cleared.tokens + sum(len(run.pending) for run in aside),
        )

    def rest(self) -> bool:
        """Make a snapshot of one conversation that has none; False when there is none to make.

        So what a conversation holds survives the process. Called while there is nothing to generate.
        """
        if self._conversations.rest():
            return True
        self._conversations.expire()
        return False

    def park(self, seconds: float) -> None:
        """Make snapshots of all conversations, and have them on disk within this time."""
        self._conversations.park(seconds)

    # --- ends -----------------------------------------------------------------------------------------------

    def _end_overdue(self) -> None:
        for run in list(self._scheduler):
            if (outcome := run.generation.overdue) is not None:
                self._end(run, outcome)

    def _end(self, run: Run, outcome: Outcome) -> None:
        if piece := run.text.finish():
            run.listener.piece(piece)
        self._release(run, tail=run.pending if run.answering else None)
        run.generation.end(outcome)
        run.listener.ended(None)

    def _fail(self, run: Run, error: SuiteError) -> None:
        self._release(run, tail=None)
        run.generation.end("failed")
        run.listener.ended(error)

    def _release(self, run: Run, *, tail: Sequence[int] | None) -> None:
        self._scheduler.remove(run)
        self._crowded = False
        if run.source is not None:
            run.source.close()
        if run.slot is not None:
            self._conversations.end(run.slot, tail=tail)

    # --- beginnings -----------------------------------------------------------------------------------------

    def _admit(self) -> None:
        """Give the free slots to those that wait, in their order."""
        for run in list(self._scheduler.waiting):
            if not self._conversations.have_room or (self._crowded and self._scheduler.running):
                return
            try:
                self._begin(run)
            except SuiteError as error:
                self._fail(run, error)
            except Exception:
                logger.exception("a generation could not begin")
                self._fail(run, GenerationFailed())

    def _begin(self, run: Run) -> None:
        """Give a run a slot, or let it wait for the end of the one that it continues."""
        generation, order = run.generation, run.generation.order
        is_new = run.source is None
        if is_new and order.continues:
            if self._scheduler.follows(run):
                return
            run.pending = self._continued(run)
        if run.source is None:
            run.source = self._backend.source(order.sampling)
            run.source.remember(run.pending)
        run.slot, reused = self._conversations.place(run.pending, order.conversation_id)
        run.slot.condemned = run.condemned
        self._scheduler.run(run)
        if is_new:
            generation.start(prompt_tokens=len(run.pending), reused_tokens=reused)
        del run.pending[:reused]

    def _continued(self, run: Run) -> list[int]:
        """What the conversation holds and the new turn. Raises ConversationGone or PromptTooLong."""
        held = self._conversations.held(run.generation.order.conversation_id)
        if len(held) + len(run.pending) >= self._backend.context_tokens:
            raise PromptTooLong(
                f"the conversation has {len(held)} tokens and the new turn {len(run.pending)}, the context "
                f"{self._backend.context_tokens}: send a shorter chat, without continue"
            )
        return held + run.pending

    # --- steps ----------------------------------------------------------------------------------------------

    def _decode(self) -> Sequence[Share]:
        """Decode the next batch; what was in it, nothing if there was nothing to decode."""
        while shares := self._scheduler.shares():
            try:
                if self._backend.decode(parts(shares)):
                    return shares
            except SuiteError as error:
                for share in shares:
                    self._lose(share.run, error)
                return ()
            if not self._conversations.make_room():
                self._make_way()
        return ()

    def _lose(self, run: Run, error: SuiteError) -> None:
        """End a run of which the sequence may hold anything."""
        assert run.slot is not None
        self._conversations.empty(run.slot)
        run.slot = None
        self._fail(run, error)

    def _make_way(self) -> None:
        """Take the newest generation out of the cache, which has no room for all that run."""
        newest = self._scheduler.running[-1]
        if len(self._scheduler.running) > 1:
            self._preempt(newest)
        elif newest.generation.completion_tokens:
            self._end(newest, "context_full")
        else:
            self._lose(newest, GenerationFailed("the cache has no room for the prompt"))

    def _preempt(self, run: Run) -> None:
        """Have a run wait until another has ended; what it decoded is decoded again then."""
        assert run.slot is not None
        run.pending = [*run.slot.tokens, *run.pending]
        run.answering = False
        run.condemned = run.slot.condemned
        self._conversations.empty(run.slot)
        run.slot = None
        self._scheduler.remove(run)
        self._scheduler.wait(run)
        self._crowded = True

    def _publish(self, shares: Sequence[Share]) -> None:
        """Note what was decoded, and take the next token of every run whose turn it is."""
        row = -1
        for run, count in shares:
            row += count
            assert run.slot is not None
            run.slot.tokens += run.pending[:count]
            del run.pending[:count]
            if run.pending:
                continue
            try:
                self._take(run, row)
            except SuiteError as error:
                self._fail(run, error)
            except Exception:
                logger.exception("a generation failed")
                self._fail(run, GenerationFailed())

    def _take(self, run: Run, row: int) -> None:
        assert run.source is not None and run.slot is not None
        generation, words = run.generation, self._backend.words
        token = run.source.next(row)
        generation.take()
        run.answering = True
        if words.ends(token):
            self._end(run, "stop")
            return
        generation.completion_tokens += 1
        piece, logprobs = run.text.push(words.shown(token)), run.source.logprobs
        if piece or logprobs is not None:
            run.listener.piece(piece, logprobs)
        if run.text.stopped:
            self._end(run, "stop")
            return
        run.pending = [token]
        if generation.completion_tokens >= generation.order.max_tokens:
            self._end(run, "length")
        elif len(run.slot.tokens) >= self._backend.context_tokens:
            self._end(run, "context_full")
