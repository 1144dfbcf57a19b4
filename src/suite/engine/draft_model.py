"""Drafts by a small model of the same vocabulary, in the same process: it says what it would say next.

It reads what the other model reads, in sequences of its own, a piece a step. What both have in common with
the answer stays when a guess was wrong, as only that leaves its cache.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping, Sequence

import msgspec

from suite.engine.backend import BatchEntry
from suite.engine.gguf.file import MOST_PADDING
from suite.engine.llama_model import DraftSettings, LlamaModel
from suite.engine.payoff import LENGTHS, Guess, Outlook
from suite.engine.scheduler import Run
from suite.engine.slots import common_prefix
from suite.errors import DraftModelUnfit, GenerationFailed, LoadFailed

logger = logging.getLogger("suite.engine")

READ_TOKENS = 64
"""At most so many tokens of each answer's prompt are read in a step: more would hold up the others."""
_NEWEST = 2
"""So many tokens of an answer are new if all guesses before them were right, and fewer if one was wrong."""


class _Sequence:
    """One sequence of the draft model."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.tokens: list[int] = []
        """Those in its cache."""
        self.run: Run | None = None
        """The answer that it is for; None: it is free."""
        self.expected: deque[int] = deque()
        """Guesses of which it is not known yet whether they are right."""
        self.agreed = 0
        """How many guesses were right, one after the other."""


class ModelDrafter:
    """The answers of one engine as another model would go on with them."""

    def __init__(self, model: LlamaModel, main: LlamaModel) -> None:
        """Raises DraftModelUnfit if `model` cannot guess for `main`."""
        check_fit(model, main)
        self._model = model
        self._main = main
        self._sequences = [_Sequence(number) for number in range(model.settings.slots)]
        self._read_tokens = min(READ_TOKENS, model.batch_tokens // model.settings.slots)
        self.caught_up = True

    def outlook(self, run: Run) -> Outlook:
        """What can be drafted for an answer now: it says something of any text."""
        sequence = self._find(run)
        if sequence is not None:
            return Outlook(LENGTHS[-1], sequence.agreed)
        held = [] if run.slot is None else run.slot.tokens
        # Negative numbers stand for pictures, which it cannot read.
        return Outlook(0 if min(held, default=0) < 0 else LENGTHS[-1], agreed=0)

    def draft(self, runs: Sequence[Run], counts: Sequence[int]) -> Sequence[Sequence[int]]:
        """The next tokens of each answer, so many; none where its prompt is not read to the end yet."""
        wanted = {run: count for run, count in zip(runs, counts, strict=True) if count}
        try:
            drafts = self._draft(wanted)
        except GenerationFailed as error:
            logger.warning("the draft model guesses nothing in this step: %s", error)
            for sequence in self._sequences:
                self._empty(sequence)
            drafts = {}
        return [drafts.get(run, ()) for run in runs]

    def observe(self, run: Run, token: int) -> Guess | None:
        """Note the token that came next; None if nothing was guessed."""
        sequence = self._find(run)
        if sequence is None or not sequence.expected:
            return None
        guess = Guess(sequence.agreed, sequence.expected.popleft() == token)
        if guess.is_right:
            sequence.agreed += 1
        else:
            sequence.agreed = 0
            sequence.expected.clear()
        return guess

    def end(self, run: Run) -> None:
        """Let others have the sequence of an answer that has ended; they may begin as it does."""
        sequence = self._find(run)
        if sequence is None:
            return
        sequence.run = None
        if run.slot is None or run.slot.marked_for_clearing:
            self._empty(sequence)

    def clear(self) -> None:
        """Forget the tokens of all answers that have ended."""
        for sequence in self._sequences:
            if sequence.run is None:
                self._empty(sequence)

    # --- steps ----------------------------------------------------------------------------------------------

    def _draft(self, wanted: Mapping[Run, int]) -> Mapping[Run, Sequence[int]]:
        missing = {run: self._missing(run) for run in wanted}
        self.caught_up = all(len(tokens) <= _NEWEST for tokens in missing.values())
        counts = {run: count for run, count in wanted.items() if len(missing[run]) <= self._read_tokens}
        drafts: dict[Run, list[int]] = {run: [] for run in counts}
        feeds = {run: tokens[: self._read_tokens] for run, tokens in missing.items()}
        while feeds:
            said = self._decode(feeds)
            for run in drafts.keys() & said.keys():
                drafts[run].append(said[run])
            feeds = {run: [said[run]] for run in counts if run in said and len(drafts[run]) < counts[run]}
        for run, tokens in drafts.items():
            self._sequence_of(run).expected = deque(tokens)
        return drafts

    def _missing(self, run: Run) -> Sequence[int]:
        """What the sequence of an answer lacks of its tokens: the last one at least."""
        assert run.slot is not None, "only what has a slot is in a batch"
        sequence = self._sequence_of(run)
        tokens = [*run.slot.tokens, *run.pending]
        held = common_prefix(sequence.tokens, tokens, len(tokens) - 1)
        if held < len(sequence.tokens):
            self._model.truncate(sequence.number, held)
            del sequence.tokens[held:]
        return tokens[held:]

    def _decode(self, feeds: Mapping[Run, Sequence[int]]) -> Mapping[Run, int]:
        """Decode tokens of answers, and say what comes next in each; nothing where there is no room."""
        from suite.engine import candidates  # with numpy, which a start need not wait for

        ordered = sorted(feeds, key=lambda run: self._sequence_of(run).number)
        entries = []
        for run in ordered:
            sequence = self._sequence_of(run)
            entries.append(BatchEntry(sequence.number, feeds[run], len(sequence.tokens), wants_logits=True))
        self._model.use_threads(self._main.threads)
        if not self._model.decode(entries):
            self.clear()
            return {}
        said, row = {}, -1
        for run in ordered:
            self._sequence_of(run).tokens += feeds[run]
            row += len(feeds[run])
            logits = candidates.logits_of(self._model.context, row, self._model.vocabulary.size)
            said[run] = int(logits[: self._main.vocabulary.size].argmax())
        return said

    # --- sequences ------------------------------------------------------------------------------------------

    def _find(self, run: Run) -> _Sequence | None:
        return next((each for each in self._sequences if each.run is run), None)

    def _sequence_of(self, run: Run) -> _Sequence:
        """The sequence of an answer: at first the free one that has the most of its tokens."""
        found = self._find(run)
        if found is None:
            assert run.slot is not None, "only what has a slot is in a batch"
            tokens = run.slot.tokens
            # An answer that makes way for others gives up its sequence, too.
            free = [each for each in self._sequences if each.run is None or each.run.slot is None]
            found = max(free, key=lambda each: common_prefix(each.tokens, tokens, len(tokens)))
            found.run, found.agreed = run, 0
            found.expected.clear()
        return found

    def _empty(self, sequence: _Sequence) -> None:
        self._model.truncate(sequence.number, 0)
        sequence.tokens.clear()


def load_draft(draft: DraftSettings, main: LlamaModel) -> LlamaModel:
    """Load the model that guesses for `main`, with as many sequences. Raises DraftModelUnfit."""
    settings = msgspec.structs.replace(
        main.settings, flash_attention=draft.flash_attention, draft=None, projector=None
    )
    try:
        return LlamaModel.load(draft.path, settings, lambda _fraction: None)
    except LoadFailed as error:
        raise DraftModelUnfit(f"the draft model cannot be loaded: {error}") from None


def check_fit(model: LlamaModel, main: LlamaModel) -> None:
    """Raise DraftModelUnfit if a model cannot guess the tokens of another one."""
    if not model.can_share:
        raise DraftModelUnfit("the draft model cannot take back wrong guesses: choose one without recurrence")
    ours, theirs = model.vocabulary.texts, main.vocabulary.texts
    common = min(len(ours), len(theirs))
    differing = next((token for token in range(common) if ours[token] != theirs[token]), None)
    if differing is not None:
        raise DraftModelUnfit(
            f"the draft model has another vocabulary: token {differing} is {_shown(ours[differing])}, "
            f"and {_shown(theirs[differing])} in the model: choose a draft model of the same family"
        )
    if abs(len(ours) - len(theirs)) > MOST_PADDING:
        raise DraftModelUnfit(
            f"the draft model has a vocabulary of {len(ours):,} tokens and the model one of {len(theirs):,}: "
            "choose a draft model of the same family"
        )


def _shown(text: bytes) -> str:
    return repr(text[:40].decode("utf-8", "replace"))
