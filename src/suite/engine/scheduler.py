"""Composes the next batch: the next token of every running answer, then pieces of prompts as far as they fit.

Prompts are decoded in pieces (chunked prefill), so that running answers do not stall when a long prompt
arrives: while answers run, a step has only so much of prompts as it has time for. Prompts with a higher
priority go first, then those that arrived first. A step of priority counts as a fixed number of seconds of
waiting, so that no generation starves.

A prompt that begins with what another run is reading is read once: the run *follows* that one, which leads,
and starts when the tokens that they share are decoded. A leader goes as early as the best of its followers,
and in the step in which a follower can go on from there nobody who comes after that one gets more of the
time. A batch is computed with one set of adapters, so runs of different sets take turns
(`suite.engine.adapters`). Nothing here depends on llama.cpp.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from suite.engine.adapters import AdapterSet, AdapterTurns
from suite.engine.backend import BatchEntry, TokenSampler
from suite.engine.generation import Generation
from suite.engine.listener import Listener
from suite.engine.pictures.tokens import Piece as PicturePiece
from suite.engine.pictures.tokens import is_stand_in, surplus_cells, text_ahead
from suite.engine.reasoning import AnswerStream
from suite.engine.slots import Slot, common_prefix
from suite.engine.step_time import Piece, StepTime, StepWork

PRIORITY_SECONDS = 10.0
"""Each step of priority moves a generation forward in the queue as if it had arrived this much earlier."""
MOST_PATIENCE = 4
"""With so many prompts that are being read, or more, a step may take so many times as long: each step also
decodes the running answers, which costs the same for a long step as for a short one."""


class Run:
    """One generation in the engine: its slot, its sampler, and the tokens to decode next."""

    def __init__(self, generation: Generation, listener: Listener, arrival: int, now: float) -> None:
        request = generation.request
        self.generation = generation
        self.listener = listener
        self.pending: list[int] = list(request.prompt)
        """Tokens to decode next: the rest of the prompt, or the token that was sampled last."""
        self.surplus_cells = surplus_cells(request.prompt) if request.pictures else 0
        """How many cells of the KV cache its pictures take beyond their positions (M-RoPE), with those of the
        conversation that it continues."""
        self.picture_left: int | None = None
        """How many cells of the picture that is decoded next are left; None: nothing of it is decoded."""
        self.slot: Slot | None = None
        """None while it waits."""
        self.lead: Lead | None = None
        """The run that it follows while it waits."""
        self.sampler: TokenSampler | None = None
        self.answer = AnswerStream(request.reasoning, request.stop)
        self.prefilled = False
        """Whether the whole prompt is decoded, so that each step samples a token."""
        self.marked_for_clearing = request.is_forgotten
        """Whether its slot is to be cleared when it ends; kept here while it is preempted and has no slot."""
        self.arrival = arrival
        self.rank = (now - PRIORITY_SECONDS * request.priority, arrival)

    @property
    def is_at_picture(self) -> bool:
        """Whether a picture is to be decoded next, which goes without a batch."""
        return bool(self.pending) and is_stand_in(self.pending[0])

    @property
    def picture(self) -> PicturePiece | None:
        """The piece of a picture that is to be decoded next; None if it is not known any more."""
        piece = self.generation.request.pictures.get(self.pending[0])
        is_next = piece is not None and tuple(self.pending[: len(piece.tokens)]) == piece.tokens
        return piece if is_next else None

    @property
    def text_ahead(self) -> int:
        """How many tokens are to be decoded before the next picture."""
        has_pictures = self.generation.request.pictures or self.generation.request.continues
        return text_ahead(self.pending) if has_pictures else len(self.pending)

    @property
    def adapters(self) -> AdapterSet:
        """What it is computed with."""
        return self.generation.request.adapters

    @property
    def is_scored(self) -> bool:
        """Whether the log probabilities of its prompt are wanted and not all there."""
        generation = self.generation
        wanted = generation.request.prompt_logprobs is not None
        return wanted and len(generation.prompt_logprobs) < generation.prompt_tokens


class Lead(NamedTuple):
    """A run that is reading its prompt, and how many of these tokens another one waits for."""

    run: Run
    tokens: int

    @property
    def missing(self) -> int:
        """How many of these tokens are not decoded yet."""
        return self.tokens if self.run.slot is None else self.tokens - len(self.run.slot.tokens)


class BatchShare(NamedTuple):
    """What one run has in a batch."""

    run: Run
    tokens: int
    """How many of its tokens."""
    drafts: Sequence[int] = ()
    """Guesses of what follows these: the logits after each are wanted."""

    @property
    def rows(self) -> int:
        """How many tokens of the batch are its own."""
        return self.tokens + len(self.drafts)

    @property
    def samples(self) -> bool:
        """Whether a token is sampled after this batch."""
        return self.tokens == len(self.run.pending)


class Scheduler:
    """The runs that wait for a slot, those that follow another, and those that run, each sorted by rank."""

    def __init__(
        self,
        *,
        batch_tokens: int,
        prompt_step_tokens: int,
        max_step_seconds: float = math.inf,
        scored_tokens: int | None = None,
    ) -> None:
        """While answers are being generated, a step has at most `prompt_step_tokens` of prompts, and no more
        of them than let it take `max_step_seconds`, each times the number of prompts up to `MOST_PATIENCE`;
        but prompts get as much time as answers.

        Of prompts whose log probabilities are wanted, a step has at most `scored_tokens`; None: no limit.
        """
        self.waiting: list[Run] = []
        self.following: list[Run] = []
        self.running: list[Run] = []
        self._batch_tokens = batch_tokens
        self._prompt_step_tokens = prompt_step_tokens
        self._max_step_seconds = max_step_seconds
        self._scored_tokens = batch_tokens if scored_tokens is None else scored_tokens
        self._step_time = StepTime()
        self._turns = AdapterTurns(max_step_seconds)

    def __iter__(self) -> Iterator[Run]:
        yield from self.running
        yield from self.queued

    def enqueue(self, run: Run) -> None:
        """Add a run to the queue."""
        bisect.insort(self.waiting, run, key=_rank)

    def start(self, run: Run) -> None:
        """Move a run from the queue to the running ones, which take part in batches."""
        self.remove(run)
        bisect.insort(self.running, run, key=_rank)

    def remove(self, run: Run) -> None:
        """Remove a run, whether it waits, follows or runs."""
        run.lead = None
        next(runs for runs in (self.running, self.following, self.waiting) if run in runs).remove(run)

    def has_predecessor(self, run: Run) -> bool:
        """Whether an earlier run of the same conversation has not ended yet."""
        conversation_id = run.generation.request.conversation_id
        return conversation_id is not None and any(
            other.arrival < run.arrival and other.generation.request.conversation_id == conversation_id
            for other in self
        )

    def has_successor(self, run: Run) -> bool:
        """Whether a later run of the same conversation has not ended yet."""
        conversation_id = run.generation.request.conversation_id
        return conversation_id is not None and any(
            other.arrival > run.arrival and other.generation.request.conversation_id == conversation_id
            for other in self
        )

    # --- runs that follow another ---------------------------------------------------------------------------

    @property
    def queued(self) -> list[Run]:
        """All that have no slot yet."""
        return [*self.following, *self.waiting]

    def admissible(self) -> list[Run]:
        """The runs that may start if a slot is free, first those that need not follow any more."""
        return [*(run for run in self.following if not self._is_led(run)), *self.waiting]

    def claimed_slots(self, *, besides: Run) -> int:
        """How many slots are kept for runs that follow another."""
        return len(self.following) - (besides in self.following)

    def find_lead(self, run: Run, *, can_lend: Callable[[Slot, int], bool]) -> Lead | None:
        """The running one whose prompt, not read to its end yet, begins with most of this run's tokens.

        `can_lend` says whether that many first tokens of a slot can be copied once they are decoded.
        """
        best: Lead | None = None
        for other in self.running:
            if other.prefilled or other.slot is None or other.adapters.key != run.adapters.key:
                continue
            tokens = common_prefix([*other.slot.tokens, *other.pending], run.pending, len(run.pending) - 1)
            if tokens > (best.tokens if best else 0) and can_lend(other.slot, tokens):
                best = Lead(other, tokens)
        return best

    def follow(self, run: Run, lead: Lead) -> None:
        """Let a queued run wait until its leader has decoded what they share."""
        self.remove(run)
        run.lead = lead
        bisect.insort(self.following, run, key=_rank)

    def _is_led(self, run: Run) -> bool:
        """Whether a run's leader is still reading what they share.

        Nobody follows while a later run of its conversation is here: that one would start first, and the
        conversation would go on from the earlier one.
        """
        lead = run.lead
        return (
            lead is not None
            and not self.has_successor(run)
            and lead.run in self.running
            and lead.run.slot is not None
            and not lead.run.slot.marked_for_clearing
            and lead.missing > 0
        )

    def _followers(self) -> dict[Run, list[Run]]:
        followers: dict[Run, list[Run]] = {}
        for run in self.following:
            if run.lead is not None and self._is_led(run):
                followers.setdefault(run.lead.run, []).append(run)
        return followers

    # --- batches --------------------------------------------------------------------------------------------

    def expected_steps(self) -> dict[Slot, int]:
        """How many steps each slot's run still takes part in, unless its answer ends before its length."""
        return {
            run.slot: run.generation.request.max_tokens - run.generation.completion_tokens
            for run in self.running
            if run.slot is not None
        }

    @property
    def is_mixed(self) -> bool:
        """Whether runs take turns because they have different adapters."""
        return len({run.adapters.key for run in self.running}) > 1

    @property
    def answering(self) -> bool:
        """Whether answers are being generated, so that somebody waits for the next step."""
        return any(run.prefilled for run in self.running)

    def spare_seconds(self) -> float:
        """How much of a step's time the answers do not take; infinite while none run."""
        answers = sum(run.prefilled for run in self.running)
        return self._seconds_for_prompts(answers, 0.0) if answers else math.inf

    def next_batch(self, spent: float = 0.0, *, now: float = 0.0) -> list[BatchShare]:
        """Compose the next batch, of runs with the same adapters; empty when no run has anything to decode.

        `spent` are the seconds that running answers have waited already since the last step.
        """
        running = self._whose_turn(now)
        answers = [BatchShare(run, 1) for run in running if run.prefilled]
        if len(answers) == len(running):
            return answers
        room, seconds = self._batch_tokens - len(answers), math.inf
        if self.answering:
            room = min(room, self._prompt_step_tokens * self._patience)
            seconds = self._seconds_for_prompts(len(answers), spent)
        return answers + self._pieces(running, room, seconds)

    def _whose_turn(self, now: float) -> Sequence[Run]:
        """The running ones that the next batch may have."""
        ready = [run for run in self.running if not run.is_at_picture]
        if not ready:
            return ()
        key = self._turns.next((run.adapters.key for run in ready), now)
        return [run for run in ready if run.adapters.key == key]

    def picture_cells(self, spent: float, position: int) -> int:
        """How many cells of a picture a step may decode, from a position on: they count as tokens of prompts.

        `spent` are the seconds that running answers have waited already since the last step.
        """
        answers = sum(run.prefilled for run in self.running)
        if not answers:
            return self._batch_tokens
        seconds = self._seconds_for_prompts(answers, spent)
        most = min(self._batch_tokens, self._prompt_step_tokens * self._patience)
        return max(1, min(most, self._step_time.tokens_within(seconds, position)))

    def next_picture(self) -> Run | None:
        """The first of the runs that have a picture to be decoded next."""
        return next((run for run in self.running if run.is_at_picture), None)

    def learn(self, work: StepWork, seconds: float) -> None:
        """Take account of how long a step took."""
        self._step_time.learn(work, seconds)

    def reading_seconds(self, tokens: int) -> float | None:
        """How long it takes to decode so many tokens of a prompt; None before any was."""
        return self._step_time.reading(tokens)

    def _seconds_for_prompts(self, answers: int, spent: float) -> float:
        """What is left of a step's time, and at least as much as its answers take.

        Otherwise a prompt would hardly be read beside many answers, or on a slow machine.
        """
        answering = self._step_time.answers(answers)
        return max(self._max_step_seconds * self._patience - spent - answering, answering)

    @property
    def _patience(self) -> int:
        """How many times longer a step may take: as many as wait for their first token, up to a limit."""
        return min(max(1, sum(not run.prefilled for run in self.running)), MOST_PATIENCE)

    def _pieces(self, running: Sequence[Run], room: int, seconds: float) -> list[BatchShare]:
        """Pieces of their prompts, in the order in which these are read: at least a token of the first."""
        followers = self._followers()
        urgency = {
            run: min(_rank(each) for each in (run, *followers.get(run, ())))
            for run in running
            if not run.prefilled
        }
        pieces: list[BatchShare] = []
        scored = self._scored_tokens
        last = (math.inf, 0)
        for run in sorted(urgency, key=urgency.__getitem__):
            position = 0 if run.slot is None else len(run.slot.tokens)
            fitting = max(self._step_time.tokens_within(seconds, position), 0 if pieces else 1)
            led = followers.get(run, ())
            tokens = min(room, fitting, run.text_ahead, _longest_piece(run, led))
            if tokens <= 0 or urgency[run] > last:
                break
            if run.is_scored:
                if not scored:
                    continue  # others may be read meanwhile
                tokens = min(tokens, scored)
                scored -= tokens
            pieces.append(BatchShare(run, tokens))
            room -= tokens
            seconds -= self._step_time.prompts([Piece(position, tokens)])
            last = min([last, *(_rank(each) for each in led if _missing(each) <= tokens)])
            if tokens == fitting:
                break  # the time is up, and what comes after may not be read before the rest of this
        return pieces


def _rank(run: Run) -> tuple[float, int]:
    return run.rank


def _missing(follower: Run) -> int:
    assert follower.lead is not None
    return follower.lead.missing


def _longest_piece(run: Run, followers: Iterable[Run]) -> int:
    """How much of its prompt a leader reads before the followers that come before it take over."""
    missing = (_missing(each) for each in followers if _rank(each) < _rank(run))
    return min(missing, default=len(run.pending))


def by_sequence(shares: Sequence[BatchShare]) -> list[BatchShare]:
    """The shares of a batch in the order of their sequences: in any other llama.cpp splits it."""
    return sorted(shares, key=_sequence)


def _sequence(share: BatchShare) -> int:
    assert share.run.slot is not None, "only what has a slot is in a batch"
    return share.run.slot.sequence


def step_work(shares: Sequence[BatchShare]) -> StepWork:
    """What a batch consists of, before it is decoded."""
    prompts = [share for share in shares if not share.run.prefilled]
    pieces = [Piece(len(share.run.slot.tokens), share.tokens) for share in prompts if share.run.slot]
    drafts = sum(len(share.drafts) for share in shares)
    return StepWork(len(shares) - len(prompts), pieces, drafts)


def batch_entries(shares: Sequence[BatchShare]) -> list[BatchEntry]:
    """The entries of a batch for `Backend.decode`."""
    batch = []
    for share in shares:
        slot = share.run.slot
        assert slot is not None, "only what has a slot is in a batch"
        tokens = [*share.run.pending[: share.tokens], *share.drafts]
        is_scored = bool(share.drafts) or share.run.is_scored
        entry = BatchEntry(slot.sequence, tokens, len(slot.tokens), share.samples, is_scored)
        batch.append(entry)
    return batch
