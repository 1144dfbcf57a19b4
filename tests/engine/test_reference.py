"""The engine against the plainest loop: forced along its tokens, batched, reused, shared and restored.

Greedy text flips where two tokens are almost equally likely, and what is nearly equal depends on what else is
in a batch and where it lies in the cache. So the engine is given the reference's tokens, and its logits are
compared: they are close, and where another token is the likeliest, the two were within `FLIP`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pytest

from suite.engine.backend import BatchEntry
from suite.engine.bindings import lib
from suite.engine.engine import Engine
from suite.engine.generation import EngineRequest, Generation
from suite.engine.llama_model import ContextSettings, LlamaModel
from suite.engine.sampler import SamplingParams
from suite.engine.slots import Slots
from suite.engine.snapshots.snapshots import Snapshots
from suite.errors import SuiteError
from suite.identity import new_id, utc_now
from suite.messages.logprobs import TokenLogprobs
from support.models import gemma, smollm2

Logits: TypeAlias = npt.NDArray[np.float32]

STEPS = 6
LONGER = 10
FLIP = 0.5
CORRELATION = 0.995
"""Of the logits of one token: the noise of another place in the cache leaves more, a wrong cache far less."""
SUBJECTS = (
    *("The sea", "A tree", "Old maps", "The night train", "My neighbour", "Rain", "An honest clock"),
    *("The library", "Two brothers", "Iron", "The last winter", "A recipe for bread", "Stars", "The dog"),
    *("Geometry", "A letter", "The market", "Silence", "The bridge", "Glass"),
)
PROMPTS = tuple(
    f"{subject} had been there for a long time, and nobody in the small town by the river could say any "
    "more who had brought it there or why, so"
    for subject in SUBJECTS
)


class Heard:
    failure: SuiteError | None = None

    def on_text(self, text: str, logprobs: TokenLogprobs | None = None) -> None: ...

    def on_end(self, error: SuiteError | None) -> None:
        self.failure = error


class ForcedSampler:
    """Says the reference's tokens, whatever the model thinks, and keeps what it thought."""

    logprobs = None

    def __init__(self, model: LlamaModel, tokens: Sequence[int], seen: list[Logits]) -> None:
        self._model, self._tokens, self._seen = model, iter(tokens), seen

    def accept_prompt(self, prompt: Sequence[int]) -> None: ...

    def sample(self, row: int) -> int:
        self._seen.append(logits(self._model, row))
        return next(self._tokens)

    def close(self) -> None: ...


class Forced:
    """The model, but for its sampling: the seed of a generation says which reference it follows."""

    def __init__(self, model: LlamaModel, references: Sequence[Sequence[int]]) -> None:
        self._model, self._references = model, references
        self.seen: dict[int, list[Logits]] = {}

    def __getattr__(self, name: str) -> object:
        return getattr(self._model, name)

    def sampler(self, sampling: SamplingParams) -> ForcedSampler:
        seen = self.seen[sampling.seed] = []
        return ForcedSampler(self._model, self._references[sampling.seed], seen)


def logits(model: LlamaModel, row: int) -> Logits:
    pointer = lib.llama_get_logits_ith(model.context, row)
    return np.ctypeslib.as_array(pointer, (model.vocabulary.size,)).copy()


@contextmanager
def loaded(path: Path, *, cache_tokens: int = 4096) -> Iterator[LlamaModel]:
    settings = ContextSettings(
        context_tokens=1024, cache_tokens=cache_tokens, batch_tokens=256, gpu_layers=0, threads=1, slots=8
    )
    model = LlamaModel.load(str(path), settings, lambda _: None)
    try:
        yield model
    finally:
        model.free()


def bare_loop(
    model: LlamaModel, prompt: Sequence[int], *, steps: int = STEPS, after: int = 0
) -> tuple[list[int], list[Logits]]:
    """One sequence alone, greedy: the tokens, and the logits that each was taken from.

    It goes on after as many tokens as it has from the time before.
    """
    tokens: list[int] = []
    seen: list[Logits] = []
    model.truncate(0, after)
    feed, place = list(prompt), after
    for _ in range(steps):
        for begin in range(0, len(feed), model.batch_tokens):
            piece = feed[begin : begin + model.batch_tokens]
            assert model.decode([BatchEntry(0, piece, place, wants_logits=True)])
            place += len(piece)
        seen.append(logits(model, -1))
        tokens.append(int(seen[-1].argmax()))
        feed = tokens[-1:]
    return tokens, seen


def generation(
    prompt: Sequence[int], number: int, conversation: str | None, *, steps: int = STEPS
) -> Generation:
    order = EngineRequest(
        prompt=list(prompt),
        max_tokens=steps,
        stop=(),
        sampling=SamplingParams(seed=number),
        conversation_id=conversation,
    )
    return Generation(order, lambda: 0.0)


def run(engine: Engine, *generations: Generation) -> None:
    heard = [Heard() for _ in generations]
    for each, listener in zip(generations, heard, strict=True):
        engine.submit(each, listener)
    while engine.busy:
        engine.step()
    assert all(listener.failure is None for listener in heard)


def assert_close(reference: Sequence[Logits], seen: Sequence[Logits]) -> None:
    for step, (expected, found) in enumerate(zip(reference, seen, strict=True)):
        assert np.corrcoef(expected, found)[0, 1] > CORRELATION, f"step {step}"
        first, other = expected.argmax(), found.argmax()
        assert first == other or expected[first] - expected[other] < FLIP, f"step {step}"


def stored(directory: Path) -> Snapshots:
    return Snapshots(
        directory=directory,
        key="model",
        memory_bytes=1 << 28,
        disk_bytes=1 << 28,
        now=utc_now,
        new_id=new_id,
    )


def engine_of(forced: Forced, snapshots: Snapshots | None, *, prompt_step_tokens: int = 256) -> Engine:
    return Engine(forced, Slots(8), prompt_step_tokens=prompt_step_tokens, snapshots=snapshots)  # type: ignore[arg-type]


@pytest.mark.parametrize("path", [smollm2, gemma], ids=["smollm2", "gemma"])
def test_the_engine_thinks_what_the_bare_loop_thinks(path: Callable[[], Path], tmp_path: Path) -> None:
    with loaded(path()) as model:
        prompts = [model.vocabulary.tokenize(prompt) for prompt in PROMPTS]
        references = [bare_loop(model, prompt) for prompt in prompts]
        model.truncate(0, 0)
        forced = Forced(model, [tokens for tokens, _ in references])
        engine = engine_of(forced, stored(tmp_path), prompt_step_tokens=16)

        def check(what: str, reuse: bool, make: Callable[[int], Generation], numbers: Sequence[int]) -> None:
            generations = [make(number) for number in numbers]
            run(engine, *generations)
            for number, each in zip(numbers, generations, strict=True):
                assert (each.reused_tokens > 4) == reuse, (what, number)
                assert_close(references[number][1], forced.seen[number])

        every = range(len(prompts))
        # What begins together has nothing to share yet; eight at a time, twenty in all.
        check("batched", False, lambda n: generation(prompts[n], n, f"c{n}"), every)
        check("reused or restored", True, lambda n: generation(prompts[n], n, f"c{n}"), every)
        engine.clear(None)
        run(engine, generation(prompts[0], 0, "c0"))
        check("shared", True, lambda n: generation(prompts[n], n, "another"), [0])
        engine.snapshot_all(5)


def test_beyond_its_window_it_thinks_the_same_reused_shared_restored_and_preempted(tmp_path: Path) -> None:
    with loaded(gemma(), cache_tokens=1024) as model:
        text, backwards = (
            model.vocabulary.tokenize(" ".join(prompts)) for prompts in (PROMPTS, PROMPTS[::-1])
        )
        first, other = text[:632], backwards[:372]
        answer, of_first = bare_loop(model, first)
        held = len(first) + STEPS - 1
        turn = [*answer[-1:], *backwards[1:9]]
        of_turn = bare_loop(model, turn, steps=LONGER, after=held)
        of_other = bare_loop(model, other, steps=LONGER)
        second = [*first, *answer[:-1], *turn]
        forced = Forced(model, [answer, of_turn[0], of_other[0]])

        empty(model)
        engine = engine_of(forced, snapshots := stored(tmp_path))
        run(engine, generation(first, 0, "a"))
        assert_close(of_first, forced.seen[0])
        engine.snapshot_idle()
        for conversation, reused in (("a", held), ("shares with a", len(second) - 1)):
            run(engine, each := generation(second, 1, conversation, steps=LONGER))
            assert each.reused_tokens == reused
            assert_close(of_turn[1], forced.seen[1])

        snapshots.close(5)
        # As another process finds it; there is no room for both to the end.
        empty(model)
        engine = engine_of(forced, snapshots := stored(tmp_path))
        waiting: list[int] = []
        engine.on_step = lambda step: waiting.append(step.waiting)
        restored = generation(second, 1, "a", steps=LONGER)
        run(engine, generation(other, 2, None, steps=LONGER), restored)
        assert restored.reused_tokens == held
        assert waiting[0] == 0 and 1 in waiting
        assert_close(of_turn[1], forced.seen[1])
        assert_close(of_other[1], forced.seen[2])
        snapshots.close()


def empty(model: LlamaModel) -> None:
    for sequence in range(8):
        model.truncate(sequence, 0)
