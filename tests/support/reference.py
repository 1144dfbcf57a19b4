"""What the engine is compared with: the plainest loop, and how far logits are apart where nothing is wrong.

Greedy text flips where two tokens are almost equally likely, and what is nearly equal depends on what else is
in a batch and where it lies in the cache. So the engine is given the reference's tokens, and its logits are
compared. How far they may differ follows from the processor: the plain loop itself is run in another place of
the cache, in other batches and beside another sequence, and the engine has to be as close as that (`Noise`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from suite.engine.adapters import NO_ADAPTERS, AdapterSet
from suite.engine.backend import BatchEntry
from suite.engine.bindings import lib
from suite.engine.engine import Engine
from suite.engine.generation import EngineRequest, Generation
from suite.engine.gguf.estimate import uses_flash_attention
from suite.engine.gguf.file import inspect
from suite.engine.llama_model import ContextSettings, LlamaModel
from suite.engine.pictures.tokens import Piece, is_stand_in, text_ahead
from suite.engine.sampler import SamplingParams
from suite.engine.slots import Slots
from suite.engine.snapshots.snapshots import Snapshots
from suite.errors import SuiteError
from suite.messages.actions.status import KvCacheForm
from suite.messages.logprobs import TokenLogprobs

Logits: TypeAlias = npt.NDArray[np.float32]
Reference: TypeAlias = tuple[Sequence[int], Sequence[int], Sequence[Logits]]
"""A prompt, the tokens that follow it, and the logits that each was taken from."""
Pictures: TypeAlias = Mapping[int, Piece]
"""By the first of the tokens that stand for each."""

STEPS = 6
MARGIN = 4
"""How many times the noise that was measured is right still: it is measured on few tokens."""
DISTANCE, LEAD = 0.005, 0.5
"""What is right on any processor: on some there is no noise at all in the few tokens that are measured."""
BESIDE = range(2, 8)
"""Sequences of one batch."""


class Heard:
    failure: SuiteError | None = None

    def on_text(self, text: str, logprobs: TokenLogprobs | None = None, *, reasoning: str = "") -> None: ...

    def on_end(self, error: SuiteError | None) -> None:
        self.failure = error


class ForcedSampler:
    """Says the reference's tokens, whatever the model thinks, and keeps what it thought."""

    logprobs = None

    def __init__(self, model: LlamaModel, tokens: Sequence[int], seen: list[Logits]) -> None:
        self._model, self._tokens, self._seen = model, iter(tokens), seen

    def accept_prompt(self, prompt: Sequence[int]) -> None: ...

    def sample(self, row: int, exempt: Collection[int] | None = ()) -> int:
        assert not exempt and exempt is not None, "there is no reasoning here"
        self._seen.append(logits(self._model, row))
        return next(self._tokens)

    def close(self) -> None: ...


class Forced:
    """The model, but for its sampling: the seed of a generation says which reference it follows."""

    def __init__(self, model: LlamaModel, references: Sequence[Sequence[int]]) -> None:
        self._model, self._references = model, references
        self.seen: dict[int, list[Logits]] = {}
        self.exchanges = 0

    def exchange(self, first: int, second: int) -> None:
        self._model.exchange(first, second)
        self.exchanges += 1

    def __getattr__(self, name: str) -> object:
        return getattr(self._model, name)

    def sampler(self, sampling: SamplingParams) -> ForcedSampler:
        seen = self.seen[sampling.seed] = []
        return ForcedSampler(self._model, self._references[sampling.seed], seen)


def logits(model: LlamaModel, row: int) -> Logits:
    pointer = lib.llama_get_logits_ith(model.context, row)
    return np.ctypeslib.as_array(pointer, (model.vocabulary.size,)).copy()


@contextmanager
def loaded(
    path: Path, form: KvCacheForm, *, cache_tokens: int = 4096, projector: Path | None = None
) -> Iterator[LlamaModel]:
    settings = ContextSettings(
        context_tokens=1024,
        cache_tokens=cache_tokens,
        kv_cache=form,
        flash_attention=uses_flash_attention(inspect(path), cache_tokens=1024, batch_tokens=256),
        batch_tokens=256,
        gpu_layers=0,
        threads=1,
        slots=8,
        projector=None if projector is None else str(projector),
    )
    model = LlamaModel.load(str(path), settings, lambda _: None)
    try:
        yield model
    finally:
        model.free()


def bare_loop(
    model: LlamaModel,
    prompt: Sequence[int],
    *,
    steps: int = STEPS,
    after: int = 0,
    pictures: Pictures = MappingProxyType({}),
) -> tuple[list[int], list[Logits]]:
    """One sequence alone, greedy: the tokens, and the logits that each was taken from.

    It goes on after as many tokens as it has from the time before.
    """
    tokens: list[int] = []
    seen: list[Logits] = []
    model.truncate(0, after)
    feed, place = list(prompt), after
    for _ in range(steps):
        for part in parts_of(feed, pictures, model.batch_tokens):
            if isinstance(part, Piece):
                place += read_picture(model, 0, place, part)
                continue
            assert model.decode([BatchEntry(0, part, place, wants_logits=True)])
            place += len(part)
        seen.append(logits(model, -1))
        tokens.append(int(seen[-1].argmax()))
        feed = tokens[-1:]
    return tokens, seen


def parts_of(tokens: Sequence[int], pictures: Pictures, longest: int) -> Iterator[Sequence[int] | Piece]:
    """Tokens in their order: pictures whole, and text in pieces of so many tokens at most."""
    place = 0
    while place < len(tokens):
        piece = pictures.get(tokens[place])
        if piece is not None:
            yield piece
            place += len(piece.tokens)
            continue
        count = min(longest, text_ahead(tokens[place:]))
        yield tokens[place : place + count]
        place += count


def read_picture(model: LlamaModel, sequence: int, place: int, piece: Piece) -> int:
    """Decode a picture at once; how many positions it takes."""
    assert model.decode_picture(sequence, place, piece, left=None, most=model.batch_tokens) == 0
    return len(piece.tokens)


def distance(reference: Sequence[Logits], seen: Sequence[Logits]) -> float:
    """On average over the steps: 0 for the same, about 1 for what has nothing to do with each other."""
    pairs = zip(reference, seen, strict=True)
    return float(np.mean([1 - np.corrcoef(expected, found)[0, 1] for expected, found in pairs]))


def elsewhere(
    model: LlamaModel,
    prompt: Sequence[int],
    tokens: Sequence[int],
    piece: int,
    pictures: Pictures = MappingProxyType({}),
) -> Iterator[Logits]:
    """What each of the tokens is taken from where six sequences are decoded at once."""
    for sequence in BESIDE:
        model.truncate(sequence, 0)
    place = 0
    words = [token for token in prompt if not is_stand_in(token)]
    feeds = [*parts_of(prompt, pictures, piece), *([token] for token in tokens[:-1])]
    for step, feed in enumerate(feeds):
        if isinstance(feed, Piece):
            place += read_picture(model, BESIDE[0], place, feed)
            continue
        others = [
            BatchEntry(other, [words[step % len(words)]], model.length(other), wants_logits=True)
            for other in BESIDE[1:]
        ]
        assert model.decode([BatchEntry(BESIDE[0], feed, place, wants_logits=True), *others])
        place += len(feed)
        if place >= len(prompt):
            yield logits(model, len(feed) - 1)


class Noise:
    """How far this processor's logits are from each other where they ought to be the same.

    Measured by plain loops, without the engine: the same tokens alone, and in another place of the cache, in
    other batches, beside others.
    """

    def __init__(
        self,
        model: LlamaModel,
        before: Sequence[int],
        references: Sequence[Reference],
        *,
        piece: int,
        pictures: Pictures = MappingProxyType({}),
    ) -> None:
        """`before` is what the cache begins with. Fails if a state that lacks one token would pass."""
        self._distance = 0.0
        self._lead = 0.0
        """By how much the lead of the likeliest token over the next one changes."""
        empty(model)
        for place in range(0, len(before), model.batch_tokens):
            part = before[place : place + model.batch_tokens]
            assert model.decode([BatchEntry(0, part, place, wants_logits=False)])
        for prompt, tokens, reference in references:
            self._take(reference, list(elsewhere(model, prompt, tokens, piece, pictures)))
        for prompt, tokens, reference in references:
            lacking = elsewhere(model, prompt[:-1], tokens, piece, pictures)
            assert not self.is_close(reference, list(lacking))
        empty(model)

    def _take(self, reference: Sequence[Logits], seen: Sequence[Logits]) -> None:
        self._distance = max(self._distance, distance(reference, seen))
        for expected, found in zip(reference, seen, strict=True):
            second, first = expected.argsort()[-2:]
            change = (expected[first] - expected[second]) - (found[first] - found[second])
            self._lead = max(self._lead, abs(float(change)))

    def assert_close(self, reference: Sequence[Logits], seen: Sequence[Logits]) -> None:
        assert self.is_close(reference, seen)
        for step, (expected, found) in enumerate(zip(reference, seen, strict=True)):
            first, other = expected.argmax(), found.argmax()
            assert expected[first] - expected[other] <= max(LEAD, MARGIN * self._lead), f"step {step}"

    def is_close(self, reference: Sequence[Logits], seen: Sequence[Logits]) -> bool:
        return distance(reference, seen) <= max(DISTANCE, MARGIN * self._distance)


def generation(
    prompt: Sequence[int],
    number: int,
    conversation: str | None,
    *,
    steps: int = STEPS,
    adapters: AdapterSet = NO_ADAPTERS,
    pictures: Pictures = MappingProxyType({}),
) -> Generation:
    order = EngineRequest(
        prompt=list(prompt),
        max_tokens=steps,
        stop=(),
        sampling=SamplingParams(seed=number),
        conversation_id=conversation,
        adapters=adapters,
        pictures=pictures,
    )
    return Generation(order, lambda: 0.0)


def run(engine: Engine, *generations: Generation) -> None:
    heard = [Heard() for _ in generations]
    for each, listener in zip(generations, heard, strict=True):
        engine.submit(each, listener)
    while engine.busy:
        engine.step()
    assert all(listener.failure is None for listener in heard)


def engine_of(forced: Forced, snapshots: Snapshots | None, *, prompt_step_tokens: int = 256) -> Engine:
    """Its clock stands still: conversations are saved when a test says so, however slow the machine is."""
    return Engine(
        forced,  # type: ignore[arg-type]
        Slots(8),
        prompt_step_tokens=prompt_step_tokens,
        snapshots=snapshots,
        clock=lambda: 0.0,
    )


def empty(model: LlamaModel) -> None:
    for sequence in range(8):
        model.truncate(sequence, 0)
