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
from suite.engine.generation import Generation
from suite.engine.listener import Listener
from suite.engine.scheduler import Run, Scheduler, Share, parts
from suite.engine.slots import Plan, Slot, Slots
from suite.engine.snapshots import Snapshots
from suite.errors import ConversationGone, GenerationFailed, PromptTooLong, SuiteError
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

WORTH_RESTORING = 16
"""Tokens that a snapshot must save over what is in memory: fewer are as quickly decoded."""


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
        self._slots = slots
        self._snapshots = snapshots
        self._scheduler = Scheduler(batch_tokens=backend.batch_tokens, prompt_step_tokens=prompt_step_tokens)
        self.on_step: OnStep | None = None
        """Is told of every step."""
        self._clock = clock
        self._arrivals = 0
        self._crowded = False

    @property
    def busy(self) -> bool:
        """Whether there is anything to generate."""
        return any(True for _ in self._scheduler)

    def submit(self, generation: Generation, listener: Listener) -> None:
        """Have a generation begin when there is a slot for it."""
        self._arrivals += 1
        self._scheduler.wait(Run(generation, listener, self._arrivals))

    def step(self) -> None:
        """Bring every generation on by a token, or its prompt by a piece."""
        self._end_overdue()
        if self._scheduler.waiting or not self._scheduler.running:
            self._empty_condemned()
        self._admit()
        began = self._clock()
        shares = self._decode()
        self._publish(shares)
        if self.on_step is not None and shares:
            waiting, seconds = len(self._scheduler.waiting), self._clock() - began
            self.on_step(Step(len(shares), sum(share.tokens for share in shares), waiting, seconds))

    # --- between generations --------------------------------------------------------------------------------

    def clear(self, conversation_id: str | None) -> Cleared:
        """Forget the tokens of a conversation, or for None all, in memory and in snapshots.

        It goes before the next generation begins, or when none runs: what else lies in the cache, and where,
        shows in the last digits of what llama.cpp computes. None that begins later finds any of it.
        """
        found = self._slots.condemn(conversation_id)
        forgotten, tokens = (0, 0) if self._snapshots is None else self._snapshots.forget(conversation_id)
        saved = [slot for slot in found if slot.conversation_id is not None and not slot.unsaved]
        return Cleared(
            conversations=len(found) + max(0, forgotten - len(saved)),
            generating=sum(slot.generating for slot in found),
            tokens=sum(len(slot.tokens) for slot in found)
            + max(0, tokens - sum(len(slot.tokens) for slot in saved)),
        )

    def rest(self) -> bool:
        """Make a snapshot of one conversation that has none; False when there is none to make.

        So what a conversation holds survives the process. Called while there is nothing to generate.
        """
        for slot in self._slots:
            if slot.unsaved and slot.conversation_id is not None and not slot.condemned:
                self._save(slot)
                return True
        if self._snapshots is not None:
            self._snapshots.expire()
        return False

    def park(self, seconds: float) -> None:
        """Make snapshots of all conversations, and have them on disk within this time."""
        end = self._clock() + seconds
        while self.rest():
            if self._snapshots is not None:
                self._snapshots.flush(max(0.0, end - self._clock()))
        if self._snapshots is not None:
            self._snapshots.close(max(0.0, end - self._clock()))

    def _empty_condemned(self) -> None:
        for slot in self._slots:
            if slot.condemned and not slot.generating:
                self._empty(slot)

    def _empty(self, slot: Slot) -> None:
        self._backend.cut(slot.sequence, 0)
        self._slots.forget(slot)

    def _save(self, slot: Slot) -> None:
        slot.unsaved = False
        if self._snapshots is not None and slot.tokens:
            payload = self._backend.save(slot.sequence)
            shortest = self._backend.shortest_saved(slot.sequence)
            self._snapshots.put(slot.conversation_id, slot.tokens, payload, shortest=shortest)

    def _retire(self, slot: Slot) -> None:
        """Make room of a slot; its conversation goes on from a snapshot."""
        if slot.unsaved and slot.conversation_id is not None and not slot.condemned:
            self._save(slot)
        self._empty(slot)

    # --- ends -----------------------------------------------------------------------------------------------

    def _end_overdue(self) -> None:
        for run in list(self._scheduler):
            if (outcome := run.generation.overdue) is not None:
                self._end(run, outcome)

    def _end(self, run: Run, outcome: Outcome) -> None:
        if piece := run.text.finish():
            run.listener.piece(piece)
        self._release(run)
        run.generation.end(outcome)
        run.listener.ended(None)

    def _fail(self, run: Run, error: SuiteError) -> None:
        """End a run of which the sequence may hold anything."""
        if run.slot is not None:
            self._empty(run.slot)
        self._release(run)
        run.generation.end("failed")
        run.listener.ended(error)

    def _release(self, run: Run) -> None:
        self._scheduler.remove(run)
        self._crowded = False
        if run.source is not None:
            run.source.close()
        if run.slot is not None:
            self._slots.end(run.slot)

    # --- beginnings -----------------------------------------------------------------------------------------

    def _admit(self) -> None:
        """Give the free slots to those that wait, in their order."""
        for run in list(self._scheduler.waiting):
            if self._crowded and self._scheduler.running:
                return
            try:
                if not self._place(run):
                    return
            except SuiteError as error:
                self._fail(run, error)
            except Exception:
                logger.exception("a generation could not begin")
                self._fail(run, GenerationFailed())

    def _place(self, run: Run) -> bool:
        """Give a run the slot where most of its prompt is in memory already. False: there is none free."""
        generation, order = run.generation, run.generation.order
        if order.continues and run.source is None and not self._continue(run):
            return True  # the conversation's own generation has to end first
        plan = self._slots.plan(run.pending, order.conversation_id)
        if plan is None:
            return False
        slot, reused = self._fill(plan, run.pending, order.conversation_id)
        run.slot = slot
        self._scheduler.waiting.remove(run)
        self._scheduler.running.append(run)
        self._slots.begin(slot, run.pending[:reused], order.conversation_id)
        if run.source is None:
            generation.start(prompt_tokens=len(run.pending), reused_tokens=reused)
            run.source = self._backend.source(order.sampling)
            run.source.remember(run.pending)
        del run.pending[:reused]
        return True

    def _fill(self, plan: Plan, prompt: Sequence[int], conversation_id: str | None) -> tuple[Slot, int]:
        """Make a slot hold what it shares with the prompt, nothing more: the slot, and how much that is."""
        slot, reused = plan.target, plan.reused_tokens
        if slot.conversation_id != conversation_id and (plan.source is not slot or reused < len(slot.tokens)):
            self._retire_from(slot, keep=plan.source is slot)
        if (restored := self._restore(slot, prompt, conversation_id, at_least=reused + WORTH_RESTORING)) > 0:
            reused = restored
        elif plan.source is slot:
            if not self._backend.cut(slot.sequence, reused):
                reused = 0
        else:
            self._backend.cut(slot.sequence, 0)
            self._backend.share(plan.source.sequence, slot.sequence, reused)
        if reused == 0 or self._backend.length(slot.sequence) != reused:
            # The model cannot forget a part: it forgets all, and says so in the figures.
            self._backend.cut(slot.sequence, 0)
            reused = 0
        return slot, reused

    def _retire_from(self, slot: Slot, *, keep: bool) -> None:
        """Another conversation takes the slot over; `keep` what is in it, for it shares the beginning."""
        if slot.unsaved and slot.conversation_id is not None:
            self._save(slot)
        if not keep:
            self._empty(slot)

    def _restore(
        self, slot: Slot, prompt: Sequence[int], conversation_id: str | None, *, at_least: int
    ) -> int:
        """How many of the prompt's tokens the slot holds from a snapshot; 0 if it is as it was or empty."""
        if self._snapshots is None:
            return 0
        found = self._snapshots.find(
            prompt[:-1], conversation_id, at_least=at_least, whole=not self._backend.can_share
        )
        if found is None or (payload := self._snapshots.load(found)) is None:
            return 0
        self._backend.cut(slot.sequence, 0)
        if not self._backend.restore(slot.sequence, payload):
            return 0
        return found.tokens if self._backend.cut(slot.sequence, found.tokens) else 0

    def _continue(self, run: Run) -> bool:
        """Put what the conversation holds before the new turn. False: it is being added to at the moment.

        Raises ConversationGone or PromptTooLong.
        """
        conversation_id = run.generation.order.conversation_id
        slot = self._slots.of(conversation_id) if conversation_id is not None else None
        if slot is not None and slot.generating:
            return False
        if slot is not None and slot.tokens:
            held: Sequence[int] | None = slot.tokens
        else:
            held = self._snapshots.tokens_of(conversation_id) if self._snapshots and conversation_id else None
        if not held:
            raise ConversationGone(
                f"the tokens of conversation {conversation_id!r} are gone: send it whole, without continue"
            )
        if len(held) + len(run.pending) >= self._backend.context_tokens:
            raise PromptTooLong(
                f"the conversation has {len(held)} tokens and the new turn {len(run.pending)}, the context "
                f"{self._backend.context_tokens}: send a shorter chat, without continue"
            )
        run.pending = [*held, *run.pending]
        return True

    # --- steps ----------------------------------------------------------------------------------------------

    def _decode(self) -> Sequence[Share]:
        """Decode the next batch; what was in it, nothing if there was nothing to decode."""
        while shares := self._scheduler.shares():
            try:
                if self._backend.decode(parts(shares)):
                    return shares
            except SuiteError as error:
                for share in shares:
                    self._fail(share.run, error)
                return ()
            self._make_room()
        return ()

    def _make_room(self) -> None:
        """Take the least valuable out of the cache: an idle conversation, else the newest generation."""
        idle = self._slots.least_recently_used()
        if idle is not None:
            self._retire(idle)
            return
        newest = max(self._scheduler.running, key=lambda run: run.rank)
        if len(self._scheduler.running) > 1:
            self._preempt(newest)
        elif newest.generation.completion_tokens:
            self._end(newest, "context_full")
        else:
            self._fail(newest, GenerationFailed("the cache has no room for the prompt"))

    def _preempt(self, run: Run) -> None:
        """Have a run wait until another has ended; what it decoded is decoded again then."""
        assert run.slot is not None
        run.pending = [*run.slot.tokens, *run.pending]
        run.answering = False
        self._empty(run.slot)
        run.slot = None
        self._scheduler.remove(run)
        self._scheduler.wait(run)
        self._crowded = True

    def _publish(self, shares: Sequence[Share]) -> None:
        """Note what was decoded, and take the next token of every run whose turn it is."""
        row = -1
        for share in shares:
            run, count, samples = share.run, share.tokens, share.samples
            row += count
            assert run.slot is not None
            run.slot.tokens += run.pending[:count]
            del run.pending[:count]
            if samples:
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
        if words.ends(token):
            self._end(run, "stop")
            return
        generation.completion_tokens += 1
        piece, logprobs = run.text.push(words.shown(token)), run.source.logprobs
        if piece or logprobs is not None:
            run.listener.piece(piece, logprobs)
        if run.text.stopped:
            self._end(run, "stop")
        elif generation.completion_tokens >= generation.order.max_tokens:
            self._end(run, "length")
        elif len(run.slot.tokens) >= self._backend.context_tokens:
            self._end(run, "context_full")
        else:
            run.pending, run.answering = [token], True
