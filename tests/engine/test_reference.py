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

from suite.engine.backend import Part
from suite.engine.bindings import lib
from suite.engine.engine import Engine
from suite.engine.generation import Generation, Order
from suite.engine.model import ContextSettings, Model
from suite.engine.sampler import Sampling
from suite.engine.slots import Slots
from suite.engine.snapshots import Snapshots
from suite.errors import SuiteError
from suite.identity import new_id, utc_now
from suite.messages.logprobs import TokenLogprobs
from support.models import gemma, smollm2

Logits: TypeAlias = npt.NDArray[np.float32]

STEPS = 6
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

    def piece(self, text: str, logprobs: TokenLogprobs | None = None) -> None: ...

    def ended(self, error: SuiteError | None) -> None:
        self.failure = error


class ForcedSource:
    """Says the reference's tokens, whatever the model thinks, and keeps what it thought."""

    logprobs = None

    def __init__(self, model: Model, tokens: Sequence[int], seen: list[Logits]) -> None:
        self._model, self._tokens, self._seen = model, iter(tokens), seen

    def remember(self, prompt: Sequence[int]) -> None: ...

    def next(self, row: int) -> int:
        self._seen.append(logits(self._model, row))
        return next(self._tokens)

    def close(self) -> None: ...


class Forced:
    """The model, but for its sampling: the seed of a generation says which reference it follows."""

    def __init__(self, model: Model, references: Sequence[Sequence[int]]) -> None:
        self._model, self._references = model, references
        self.seen: dict[int, list[Logits]] = {}

    def __getattr__(self, name: str) -> object:
        return getattr(self._model, name)

    def source(self, sampling: Sampling) -> ForcedSource:
        seen = self.seen[sampling.seed] = []
        return ForcedSource(self._model, self._references[sampling.seed], seen)


def logits(model: Model, row: int) -> Logits:
    pointer = lib.llama_get_logits_ith(model.context, row)
    return np.ctypeslib.as_array(pointer, (model.vocabulary.size,)).copy()


@contextmanager
def loaded(path: Path) -> Iterator[Model]:
    settings = ContextSettings(
        context_tokens=1024, cache_tokens=4096, batch_tokens=256, gpu_layers=0, threads=1, slots=8
    )
    model = Model.load(str(path), settings, lambda _: None)
    try:
        yield model
    finally:
        model.free()


def bare_loop(model: Model, prompt: Sequence[int]) -> tuple[list[int], list[Logits]]:
    """One sequence alone, greedy: the tokens, and the logits that each was taken from."""
    tokens: list[int] = []
    seen: list[Logits] = []
    model.cut(0, 0)
    feed, place = list(prompt), 0
    for _ in range(STEPS):
        assert model.decode([Part(0, feed, place, wants_logits=True)])
        place += len(feed)
        seen.append(logits(model, -1))
        tokens.append(int(seen[-1].argmax()))
        feed = tokens[-1:]
    model.cut(0, 0)
    return tokens, seen


def generation(prompt: Sequence[int], number: int, conversation: str | None) -> Generation:
    order = Order(
        prompt=list(prompt),
        max_tokens=STEPS,
        stop=(),
        sampling=Sampling(seed=number),
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
    for step, (expected, found) in enumerate(zip(reference, seen, strict=False)):
        assert np.corrcoef(expected, found)[0, 1] > CORRELATION, f"step {step}"
        first, other = expected.argmax(), found.argmax()
        assert first == other or expected[first] - expected[other] < FLIP, f"step {step}"


@pytest.mark.parametrize("path", [smollm2, gemma], ids=["smollm2", "gemma"])
def test_the_engine_thinks_what_the_bare_loop_thinks(path: Callable[[], Path], tmp_path: Path) -> None:
    with loaded(path()) as model:
        prompts = [model.vocabulary.tokenize(prompt) for prompt in PROMPTS]
        references = [bare_loop(model, prompt) for prompt in prompts]
        forced = Forced(model, [tokens for tokens, _ in references])
        snapshots = Snapshots(
            directory=tmp_path,
            key="model",
            memory_bytes=1 << 28,
            disk_bytes=1 << 28,
            now=utc_now,
            new_id=new_id,
        )
        engine = Engine(forced, Slots(8), prompt_step_tokens=16, snapshots=snapshots)  # type: ignore[arg-type]

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
        engine.park(5)
