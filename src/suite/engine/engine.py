"""Runs many generations at once in one llama.cpp context: continuous batching.

A step ends cancelled generations, gives free slots to waiting ones, composes a batch, decodes it and samples.
New generations join between two steps (Orca, OSDI 2022). Prompts are decoded in pieces beside running
answers: chunked prefill (Sarathi-Serve, OSDI 2024). When the KV cache is full, idle conversations are evicted
first; then the newest generation is preempted, and its tokens are decoded again when there is room
(recomputation, as in vLLM, SOSP 2023).
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

from suite.engine.adapters import NO_ADAPTERS, AdapterSet
from suite.engine.backend import Backend, Cores
from suite.engine.conversations import SNAPSHOT_DELAY_SECONDS, Conversations
from suite.engine.generation import Generation
from suite.engine.listener import Listener
from suite.engine.pictures.tokens import cells, surplus_cells
from suite.engine.scheduler import BatchShare, Lead, Run, Scheduler, batch_entries, by_sequence, step_work
from suite.engine.slots import Slots
from suite.engine.snapshots.file import Saved
from suite.engine.snapshots.snapshots import Snapshots
from suite.engine.speculation import Speculation
from suite.engine.step_time import StepWork
from suite.engine.text import visible_tokens
from suite.errors import ConversationGone, GenerationFailed, PromptTooLong, SuiteError
from suite.identity import Clock
from suite.messages.actor import Cleared
from suite.messages.events import Outcome
from suite.messages.logprobs import PromptToken

logger = logging.getLogger("suite.engine")

MIN_FOLLOWED_TOKENS = 32
"""A generation follows another only if it saves decoding this many tokens.

It waits for a step, whose fixed part takes as long as 3 to 10 tokens of a prompt on a CPU (measured).
"""


class StepStats(NamedTuple):
    """The size of one batch, how many generations waited for a slot meanwhile, and how it was computed."""

    sequences: int
    tokens: int
    waiting: int
    seconds: float
    threads: int | None
    """None: as many as the model was loaded with."""


OnStep: TypeAlias = Callable[[StepStats], None]


class Exported(NamedTuple):
    """The state of a conversation that goes on elsewhere."""

    saved: Saved
    reading_seconds: float | None
    """How long it would take here to decode its tokens anew; None: nothing was decoded yet."""


class Engine:
    """The generations of one context. One thread uses it, and calls `step` repeatedly while it is busy."""

    def __init__(
        self,
        backend: Backend,
        slots: Slots,
        *,
        prompt_step_tokens: int,
        max_step_seconds: float = math.inf,
        snapshots: Snapshots | None = None,
        cores: Cores | None = None,
        speculation: Speculation | None = None,
        clock: Clock = time.perf_counter,
    ) -> None:
        """`prompt_step_tokens` is the most prompt tokens in one step while answers are being generated, and
        `max_step_seconds` how long these may wait for it.

        `cores` says before each step with how many threads it is computed; None: with those of the load.
        `speculation` guesses the next tokens of answers; None: nobody does.
        """
        self._backend = backend
        self._cores = cores
        self._speculation = speculation
        self._threads: int | None = None
        self._conversations = Conversations(backend, slots, snapshots, clock)
        self._scheduler = Scheduler(
            batch_tokens=backend.batch_tokens,
            prompt_step_tokens=prompt_step_tokens,
            max_step_seconds=max_step_seconds,
            scored_tokens=backend.scored_tokens,
        )
        self._max_step_seconds = max_step_seconds
        self.on_step: OnStep | None = None
        """Called after every step."""
        self._clock = clock
        self._arrivals = 0
        self._cache_full = False
        self._places: dict[int, int] = {}
        """The sequence of each run, by its arrival, for which it was decided last whether to close gaps."""
        self._in_background = False
        """Whether a step may still be computed."""
        self._decoding_since = self._stepped_at = clock()

    @property
    def busy(self) -> bool:
        """Whether any generation runs or waits."""
        return bool(self._scheduler.running or self._scheduler.queued)

    def spare_seconds(self) -> float:
        """How long other work on the model may take before the next step, as running answers wait for it."""
        return self._scheduler.spare_seconds()

    def submit(self, generation: Generation, listener: Listener) -> None:
        """Queue a generation; it starts when a slot is free."""
        self._arrivals += 1
        self._scheduler.enqueue(Run(generation, listener, self._arrivals, self._clock()))

    def step(self) -> None:
        """Advance every running generation by one token, or by one piece of its prompt."""
        self._end_interrupted()
        if self._scheduler.queued or not self._scheduler.running:
            self._conversations.empty_marked()
        self._admit()
        self._close_gaps()
        began = self._clock()
        self._decode_picture()
        shares = self._decode()
        self._sample_and_learn(shares)
        if self.on_step is not None and shares:
            waiting, seconds = len(self._scheduler.queued), self._stepped_at - began
            tokens = sum(share.rows for share in shares)
            self.on_step(StepStats(len(shares), tokens, waiting, seconds, self._threads))
        self._conversations.snapshot_idle(seconds=SNAPSHOT_DELAY_SECONDS)

    # --- between generations --------------------------------------------------------------------------------

    def clear(self, conversation_id: str | None) -> Cleared:
        """Forget the tokens of a conversation, or with None of all, in memory and in snapshots.

        Slots are emptied before the next generation starts, or once none runs, because the contents of the
        KV cache change the last digits of what llama.cpp computes for the generations that run. No generation
        that starts later reuses any of these tokens.
        """
        cleared = self._conversations.clear(conversation_id)
        if self._speculation is not None:
            self._speculation.clear()
        preempted = [
            run
            for run in self._scheduler.queued
            if run.sampler is not None and conversation_id in (None, run.generation.request.conversation_id)
        ]
        for run in preempted:
            run.marked_for_clearing = True
        return Cleared(
            conversations=cleared.conversations + len(preempted),
            generating=cleared.generating + len(preempted),
            tokens=cleared.tokens + sum(len(run.pending) for run in preempted),
        )

    def snapshot_idle(self) -> bool:
        """Make a snapshot of one idle conversation that has none. False: every conversation has one.

        With it the conversation survives the end of the process. Called while nothing is generated.
        """
        if self._conversations.snapshot_idle():
            return True
        self._conversations.expire()
        return False

    def snapshot_all(self, seconds: float) -> None:
        """Make snapshots of all conversations and write them to disk, taking at most this many seconds."""
        self._conversations.snapshot_all(seconds)

    # --- between nodes --------------------------------------------------------------------------------------

    def reading_seconds(
        self, prompt: list[int], conversation_id: str | None, adapters: AdapterSet = NO_ADAPTERS
    ) -> float | None:
        """How long it takes to decode what of a prompt is not to be reused; None: nothing was decoded yet."""
        missing = self._conversations.missing_tokens(prompt, conversation_id, adapters=adapters.key)
        return self._scheduler.reading_seconds(missing)

    def export(self, conversation_id: str) -> Exported | None:
        """The state of a conversation that goes on elsewhere; None: there is none."""
        saved = self._conversations.export(conversation_id)
        return None if saved is None else Exported(saved, self._scheduler.reading_seconds(saved.token_count))

    def supersede(self, conversation_id: str) -> None:
        """Note that a conversation has gone on elsewhere, so that it is not continued from what is here."""
        self._conversations.supersede(conversation_id)

    def adopt(self, saved: Saved) -> None:
        """Take over a conversation that was elsewhere until now."""
        self._conversations.adopt(saved)

    # --- ends -----------------------------------------------------------------------------------------------

    def _end_interrupted(self) -> None:
        for run in list(self._scheduler):
            if (outcome := run.generation.interruption) is not None:
                self._end(run, outcome)

    def _end(self, run: Run, outcome: Outcome) -> None:
        piece = run.answer.finish()
        run.generation.reasoning_tokens = run.answer.reasoning_tokens
        if any(piece):
            run.listener.on_text(piece.text, reasoning=piece.reasoning)
        self._release(run, tail=run.pending if run.prefilled else None)
        run.generation.end(outcome, unsaved_tokens=self._conversations.unsaved_tokens)
        run.listener.on_end(None)

    def _end_at_stop(self, run: Run, token: int) -> None:
        """End a run at a stop string. What the string hid is forgotten: `continue` goes on from the text."""
        assert run.slot is not None
        slot, hidden = run.slot, run.answer.hidden
        run.generation.stop_text = run.answer.stop_text
        self._end(run, "stop")
        answer = [*slot.tokens, token][-run.generation.completion_tokens :]
        visible = visible_tokens(answer, hidden, self._backend.vocabulary)
        if visible is None:
            slot.tail = None
        else:
            kept, tail = visible
            self._conversations.cut_back(slot, len(slot.tokens) + 1 - len(answer) + kept, tail)

    def _fail(self, run: Run, error: SuiteError) -> None:
        self._release(run, tail=None)
        run.generation.end("failed", unsaved_tokens=self._conversations.unsaved_tokens)
        run.listener.on_end(error)

    def _release(self, run: Run, *, tail: Sequence[int] | None) -> None:
        self._scheduler.remove(run)
        self._cache_full = False
        if run.sampler is not None:
            run.sampler.close()
        if self._speculation is not None:
            self._speculation.end(run)
        if run.slot is not None:
            if run.picture_left is not None:
                self._conversations.forget_rest(run.slot)
            self._conversations.end(run.slot, tail=tail)

    # --- beginnings -----------------------------------------------------------------------------------------

    def _admit(self) -> None:
        """Start waiting generations in their order, as long as slots are free.

        One whose prompt begins with what another is reading follows that one. It keeps its claim to a slot,
        so that nobody who comes later delays it. While answers run, no more than one starts once half of the
        step's time is over: to save what was in the slot and to restore what is to be there takes time.
        """
        begun = 0
        for run in self._scheduler.admissible():
            if begun and self._scheduler.answering and self._waited() > self._max_step_seconds / 2:
                return
            claimed = self._scheduler.claimed_slots(besides=run)
            if self._conversations.free_slots <= claimed or (self._cache_full and self._scheduler.running):
                return
            if (lead := self._lead(run)) is not None:
                self._scheduler.follow(run, lead)
            else:
                self._try_to_begin(run)
                begun += run.slot is not None

    def _lead(self, run: Run) -> Lead | None:
        """Whoever reads what this run begins with; None if to wait for it saves too little."""
        request = run.generation.request
        if not request.reuse or (request.continues and run.sampler is None):
            return None
        if self._scheduler.has_successor(run):
            return None
        lead = self._scheduler.find_lead(run, can_lend=self._conversations.can_lend)
        if lead is None or lead.tokens < MIN_FOLLOWED_TOKENS or lead.missing <= 0:
            return None
        saved = lead.tokens - self._conversations.reusable_tokens(
            run.pending, request.conversation_id, adapters=run.adapters.key
        )
        # A leader that has to read more than this run would itself is not waited for.
        return lead if saved >= max(MIN_FOLLOWED_TOKENS, lead.missing) else None

    def _try_to_begin(self, run: Run) -> None:
        try:
            self._begin(run)
        except SuiteError as error:
            self._fail(run, error)
        except Exception:
            logger.exception("a generation could not begin")
            self._fail(run, GenerationFailed())

    def _begin(self, run: Run) -> None:
        """Give a run a slot, unless it continues a conversation of which an earlier run is still active."""
        generation, request = run.generation, run.generation.request
        is_new = run.sampler is None
        if is_new and request.continues:
            if self._scheduler.has_predecessor(run):
                return
            run.pending = self._continued(run)
            run.surplus_cells = surplus_cells(run.pending)
        if run.sampler is None:
            run.sampler = self._backend.sampler(request.sampling)
            run.sampler.accept_prompt(run.pending)
        run.slot, reused = self._conversations.assign_slot(
            run.pending, request.conversation_id, reuse=request.reuse, adapters=run.adapters.key
        )
        run.slot.marked_for_clearing = run.marked_for_clearing
        self._scheduler.start(run)
        if is_new:
            generation.start(prompt_tokens=len(run.pending), reused_tokens=reused)
        del run.pending[:reused]

    def _continued(self, run: Run) -> list[int]:
        """The conversation's tokens and those of the new turn. Raises ConversationGone or PromptTooLong."""
        held = self._conversations.tokens_of(run.generation.request.conversation_id)
        if cells(held) + cells(run.pending) >= self._backend.context_tokens:
            raise PromptTooLong(
                f"the conversation has {cells(held)} tokens and the new turn {cells(run.pending)}, and the "
                f"context {self._backend.context_tokens}: send a shorter chat, without continue"
            )
        return held + run.pending

    # --- steps ----------------------------------------------------------------------------------------------

    def _close_gaps(self) -> None:
        """Move sequences next to each other, unless it was decided for these runs in these places."""
        running = self._scheduler.running
        places = {run.arrival: run.slot.sequence for run in running if run.slot is not None}
        if places == self._places or self._scheduler.is_mixed:
            return  # those of other adapters are in no batch together, and would make way to no end
        self._places = places
        lost = self._conversations.close_gaps(self._scheduler.expected_steps())
        for run in [run for run in running if run.slot in lost]:
            self._discard(run, GenerationFailed("llama.cpp could not move its tokens in the KV cache"))

    def _waited(self) -> float:
        """Seconds since the last step: for so long running answers have had no token."""
        return self._clock() - self._stepped_at

    def _decode(self) -> Sequence[BatchShare]:
        """Decode the next batch and return its shares; empty if there was nothing to decode."""
        while shares := by_sequence(self._scheduler.next_batch(self._waited(), now=self._clock())):
            self._share_cores(shares)
            try:
                self._backend.use_adapters(shares[0].run.adapters)
                self._decoding_since = self._clock()
                drafted = self._drafted(shares)
                if self._backend.decode(batch_entries(drafted)):
                    return drafted
                if drafted is not shares and self._backend.decode(batch_entries(shares)):
                    return shares  # nobody leaves the cache for drafts
            except SuiteError as error:
                for share in shares:
                    self._discard(share.run, error)
                return ()
            if not self._conversations.make_room():
                self._free_cache()
        return ()

    def _decode_picture(self) -> None:
        """Decode some of a picture, of the first run that has one next: no batch may have it."""
        while (run := self._scheduler.next_picture()) is not None and run.slot is not None:
            piece = run.picture
            if piece is None:
                self._discard(run, _picture_gone())
                return
            self._share_cores([BatchShare(run, len(piece.tokens))])
            position = len(run.slot.tokens)
            most = self._scheduler.picture_cells(self._waited(), position)
            try:
                self._backend.use_adapters(run.adapters)
                run.picture_left = self._backend.decode_picture(
                    run.slot.sequence, position, piece, left=run.picture_left, most=most
                )
            except SuiteError as error:
                self._discard(run, error)
                return
            if run.picture_left is not None:
                if not run.picture_left:
                    run.slot.tokens += piece.tokens
                    del run.pending[: len(piece.tokens)]
                    run.picture_left = None
                return
            if self._backend.separate:  # what others have is no room for it
                self._discard(run, _no_room_for_picture())
                return
            if not self._conversations.make_room():
                self._free_cache()

    def _drafted(self, shares: Sequence[BatchShare]) -> Sequence[BatchShare]:
        """The shares with guesses, where there are any: to make them counts as a part of the step."""
        if self._speculation is None:
            return shares
        drafted = self._speculation.drafted(shares)
        if any(share.drafts for share in drafted):
            return drafted
        self._decoding_since = self._clock()  # a draft model may have read a piece of a prompt
        return shares

    def _share_cores(self, shares: Sequence[BatchShare]) -> None:
        """Compute the next batch with as many threads as it is due."""
        if self._cores is not None:
            self._threads = self._cores.due(
                reading=not all(share.run.prefilled for share in shares),
                priority=max(share.run.generation.request.priority for share in shares),
            )
            self._backend.use_threads(self._threads)

    def _discard(self, run: Run, error: SuiteError) -> None:
        """Fail a run whose sequence has unknown contents, and empty its slot."""
        assert run.slot is not None
        self._conversations.empty(run.slot)
        run.slot = None
        self._fail(run, error)

    def _free_cache(self) -> None:
        """Take the newest generation out of the KV cache, which is too small for all running ones."""
        newest = self._scheduler.running[-1]
        if len(self._scheduler.running) > 1:
            self._preempt(newest)
        elif newest.generation.completion_tokens:
            self._end(newest, "context_full")
        else:
            self._discard(newest, GenerationFailed("the cache has no room for the prompt"))

    def _preempt(self, run: Run) -> None:
        """Move a run back to the queue until another ends; its tokens will then be decoded again."""
        assert run.slot is not None
        run.pending = [*run.slot.tokens, *run.pending]
        run.prefilled = False
        run.picture_left = None
        run.marked_for_clearing = run.slot.marked_for_clearing
        self._conversations.empty(run.slot)
        run.slot = None
        self._scheduler.remove(run)
        self._scheduler.enqueue(run)
        self._cache_full = True

    def _sample_and_learn(self, shares: Sequence[BatchShare]) -> None:
        """Sample, and learn how long the step took if all that was computed meanwhile was this step."""
        work = step_work(shares)
        went_on, samples = self._in_background, any(share.samples for share in shares)
        self._in_background = self._backend.in_background and not samples
        self._sample_all(shares)
        self._stepped_at = self._clock()
        if shares and not went_on and not self._in_background:
            self._learn(work, self._stepped_at - self._decoding_since)

    def _learn(self, work: StepWork, seconds: float) -> None:
        if not work.drafts:
            self._scheduler.learn(work, seconds)
        if not work.pieces and self._speculation is not None:
            self._speculation.learn(work.answers, work.drafts, seconds)

    def _sample_all(self, shares: Sequence[BatchShare]) -> None:
        """Have every run go on from what was decoded of it."""
        row = 0
        for share in shares:
            run = share.run
            try:
                self._advance(share, row)
            except GenerationFailed as error:  # the model itself: nothing may be built on what it decoded
                self._discard(run, error)
            except SuiteError as error:
                self._fail(run, error)
            except Exception:
                logger.exception("a generation failed")
                self._fail(run, GenerationFailed())
            row += share.rows

    def _advance(self, share: BatchShare, row: int) -> None:
        """Record that tokens of a run were decoded, from a row of the batch on; sample when none are left."""
        run, count = share.run, share.tokens
        assert run.slot is not None
        scored = self._scored(run, row, count) if run.is_scored else ()
        run.slot.tokens += run.pending[:count]
        del run.pending[:count]
        run.generation.prompt_logprobs += scored
        if share.drafts:
            self._sample_drafted(run, row + count - 1, share.drafts)
        elif not run.pending:
            self._sample(run, row + count - 1)

    def _sample_drafted(self, run: Run, row: int, drafts: Sequence[int]) -> None:
        """Sample after each draft as long as the one before it was right, and take back the others."""
        assert run.slot is not None
        slot, generation = run.slot, run.generation
        generation.drafted_tokens += len(drafts)
        try:
            self._sample(run, row)
            for index, token in enumerate(drafts, start=1):
                if generation.outcome is not None or run.pending != [token]:
                    return
                generation.accepted_tokens += 1
                slot.tokens.append(token)
                run.pending.clear()
                self._sample(run, row + index)
        finally:
            self._backend.truncate(slot.sequence, len(slot.tokens))

    def _scored(self, run: Run, row: int, count: int) -> list[PromptToken]:
        """The log probabilities of the prompt's tokens that follow those just decoded, and have none yet.

        When a run was preempted, a part of its prompt has been scored before.
        """
        assert run.slot is not None
        alternatives = run.generation.request.prompt_logprobs or 0
        known, begin, score = len(run.generation.prompt_logprobs), len(run.slot.tokens), self._backend.score
        first = [] if known else [score(run.pending[0], None, alternatives)]
        following = run.pending[1 : min(count + 1, run.generation.prompt_tokens - begin)]
        return first + [
            score(token, row + index, alternatives)
            for index, token in enumerate(following)
            if begin + index + 1 >= known
        ]

    def _sample(self, run: Run, row: int) -> None:
        assert run.sampler is not None and run.slot is not None
        generation, vocabulary = run.generation, self._backend.vocabulary
        if not generation.request.max_tokens:
            run.prefilled = True
            self._end(run, "length")
            return
        token = run.sampler.sample(row, run.answer.exempt)
        generation.token_sampled()
        run.prefilled = True
        if self._speculation is not None:
            self._speculation.observe(run, token)
        if vocabulary.is_eog(token):
            self._end(run, "stop")
            return
        generation.completion_tokens += 1
        piece, logprobs = run.answer.push(token, vocabulary.visible_bytes(token)), run.sampler.logprobs
        generation.reasoning_tokens = run.answer.reasoning_tokens
        if any(piece) or logprobs is not None:
            run.listener.on_text(piece.text, logprobs, reasoning=piece.reasoning)
        if run.answer.stopped:
            self._end_at_stop(run, token)
            return
        run.pending = [token]
        if generation.completion_tokens >= generation.request.max_tokens:
            self._end(run, "length")
        elif len(run.slot.tokens) + run.surplus_cells >= self._backend.context_tokens:
            self._end(run, "context_full")


def _no_room_for_picture() -> PromptTooLong:
    return PromptTooLong(
        "the context has no room for a picture of the chat: send a shorter chat or a smaller picture, or "
        "configure a larger context_length"
    )


def _picture_gone() -> ConversationGone:
    return ConversationGone(
        "a picture of the conversation would have to be read again: send all of it, without continue"
    )
