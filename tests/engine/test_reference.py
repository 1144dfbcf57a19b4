"""The engine against the plainest loop: forced along its tokens, batched, reused, shared and restored.

Greedy text flips where two tokens are almost equally likely, and what is nearly equal depends on what else is
in a batch and where it lies in the cache. So the engine is given the reference's tokens, and its logits are
compared. How far they may differ follows from the processor: the plain loop itself is run in another place of
the cache, in other batches and beside another sequence, and the engine has to be as close as that (`Noise`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pytest

from suite.engine.adapters import NO_ADAPTERS, Adapter, AdapterSet, adapter_set
from suite.engine.backend import BatchEntry
from suite.engine.bindings import lib
from suite.engine.engine import Engine, StepStats
from suite.engine.generation import EngineRequest, Generation
from suite.engine.gguf.estimate import uses_flash_attention
from suite.engine.gguf.file import inspect
from suite.engine.llama_model import ContextSettings, LlamaModel
from suite.engine.sampler import SamplingParams
from suite.engine.slots import Slots
from suite.engine.snapshots.snapshots import Snapshots
from suite.errors import SuiteError
from suite.identity import new_id, utc_now
from suite.messages.actions.status import KvCacheForm
from suite.messages.logprobs import TokenLogprobs
from support.adapters import adapter
from support.generations import Clock
from support.models import gemma, smollm2
from support.snapshots import PATIENCE

pytestmark = pytest.mark.timeout(180)

Logits: TypeAlias = npt.NDArray[np.float32]
Reference: TypeAlias = tuple[Sequence[int], Sequence[int], Sequence[Logits]]

STEPS, FEW = 6, 4
LONGER = 10
MARGIN = 4
"""How many times the noise that was measured is right still: it is measured on few tokens."""
DISTANCE, LEAD = 0.005, 0.5
"""What is right on any processor: on some there is no noise at all in the few tokens that are measured."""
BESIDE = range(2, 8)
"""Sequences of one batch."""
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
def loaded(path: Path, form: KvCacheForm, *, cache_tokens: int = 4096) -> Iterator[LlamaModel]:
    settings = ContextSettings(
        context_tokens=1024,
        cache_tokens=cache_tokens,
        kv_cache=form,
        flash_attention=uses_flash_attention(inspect(path), cache_tokens=1024, batch_tokens=256),
        batch_tokens=256,
        gpu_layers=0,
        threads=1,
        slots=8,
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


def distance(reference: Sequence[Logits], seen: Sequence[Logits]) -> float:
    """On average over the steps: 0 for the same, about 1 for what has nothing to do with each other."""
    pairs = zip(reference, seen, strict=True)
    return float(np.mean([1 - np.corrcoef(expected, found)[0, 1] for expected, found in pairs]))


def elsewhere(
    model: LlamaModel, prompt: Sequence[int], tokens: Sequence[int], piece: int
) -> Iterator[Logits]:
    """What each of the tokens is taken from where six sequences are decoded at once."""
    for sequence in BESIDE:
        model.truncate(sequence, 0)
    place = 0
    feeds = [prompt[begin : begin + piece] for begin in range(0, len(prompt), piece)]
    for step, feed in enumerate([*feeds, *([token] for token in tokens[:-1])]):
        others = [BatchEntry(other, [prompt[step]], step, wants_logits=True) for other in BESIDE[1:]]
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
        self, model: LlamaModel, before: Sequence[int], references: Sequence[Reference], *, piece: int
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
            self._take(reference, list(elsewhere(model, prompt, tokens, piece)))
        for prompt, tokens, reference in references:
            assert not self.is_close(reference, list(elsewhere(model, prompt[:-1], tokens, piece)))
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
) -> Generation:
    order = EngineRequest(
        prompt=list(prompt),
        max_tokens=steps,
        stop=(),
        sampling=SamplingParams(seed=number),
        conversation_id=conversation,
        adapters=adapters,
    )
    return Generation(order, lambda: 0.0)


def run(engine: Engine, *generations: Generation) -> None:
    heard = [Heard() for _ in generations]
    for each, listener in zip(generations, heard, strict=True):
        engine.submit(each, listener)
    while engine.busy:
        engine.step()
    assert all(listener.failure is None for listener in heard)


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
    """Its clock stands still: conversations are saved when a test says so, however slow the machine is."""
    return Engine(
        forced,  # type: ignore[arg-type]
        Slots(8),
        prompt_step_tokens=prompt_step_tokens,
        snapshots=snapshots,
        clock=lambda: 0.0,
    )


@pytest.mark.parametrize(
    ("path", "form", "count"),
    [(smollm2, "separate", 20), (gemma, "separate", 20), (smollm2, "unified", 9)],
    ids=["smollm2", "gemma", "smollm2 unified"],
)
def test_the_engine_thinks_what_the_bare_loop_thinks(
    path: Callable[[], Path], form: KvCacheForm, count: int, tmp_path: Path
) -> None:
    with loaded(path(), form) as model:
        prompts = [model.vocabulary.tokenize(prompt) for prompt in PROMPTS[:count]]
        references = [bare_loop(model, prompt) for prompt in prompts]
        before = [token for prompt in prompts for token in prompt][:300]
        noise = Noise(model, before, [(prompts[n], *references[n]) for n in range(2)], piece=3)
        forced = Forced(model, [tokens for tokens, _ in references])
        engine = engine_of(forced, stored(tmp_path), prompt_step_tokens=16)

        def check(what: str, reuse: bool, make: Callable[[int], Generation], numbers: Sequence[int]) -> None:
            generations = [make(number) for number in numbers]
            run(engine, *generations)
            for number, each in zip(numbers, generations, strict=True):
                assert (each.reused_tokens > 4) == reuse, (what, number)
                noise.assert_close(references[number][1], forced.seen[number])

        every = range(len(prompts))
        # What begins together has nothing to share yet; eight at a time, twenty in all.
        check("batched", False, lambda n: generation(prompts[n], n, f"c{n}"), every)
        check("reused or restored", True, lambda n: generation(prompts[n], n, f"c{n}"), every)
        engine.clear(None)
        run(engine, generation(prompts[0], 0, "c0"))
        check("shared", True, lambda n: generation(prompts[n], n, "another"), [0])
        engine.clear(None)

        # The second ends first, and leaves a gap; the last one shares what the third has read so far.
        lengths = (STEPS, 2, STEPS)
        begun = [generation(prompts[n], n, f"c{n}", steps=steps) for n, steps in enumerate(lengths)]
        for together in (begun[:2], begun[2:], [sharing := generation(prompts[2], 2, "another")]):
            for each in together:
                engine.submit(each, Heard())
            engine.step()
        assert 16 <= sharing.reused_tokens < len(prompts[2]) - 1
        run(engine)
        for number, steps in enumerate(lengths):
            noise.assert_close(references[number][1][:steps], forced.seen[number])
        assert bool(forced.exchanges) == (form == "separate")
        check("moved", True, lambda n: generation(prompts[n], n, f"c{n}"), [0, 2])
        engine.snapshot_all(5)


@pytest.mark.parametrize("form", ["separate", "unified"])
def test_what_others_have_read_is_as_if_each_had_read_it(form: KvCacheForm) -> None:
    with loaded(smollm2(), form) as model:
        beginning, *ends = (model.vocabulary.tokenize(prompt) for prompt in PROMPTS[:4])
        prompts = [[*beginning, *end] for end in ends]
        references = [bare_loop(model, prompt) for prompt in prompts]
        noise = Noise(model, ends[0], [(prompts[0], *references[0])], piece=3)
        forced = Forced(model, [tokens for tokens, _ in references])
        generations = [generation(prompt, number, None) for number, prompt in enumerate(prompts)]
        run(engine_of(forced, None, prompt_step_tokens=16), *generations)
        for number, each in enumerate(generations):
            assert each.reused_tokens >= (len(beginning) if number else 0)
            noise.assert_close(references[number][1], forced.seen[number])


@pytest.mark.parametrize("form", ["separate", "unified"])
def test_beyond_its_window_it_thinks_the_same_reused_shared_restored_and_preempted(
    form: KvCacheForm, tmp_path: Path
) -> None:
    with loaded(gemma(), form, cache_tokens=1024) as model:
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
        noise = Noise(model, backwards[:250], [(second, *of_turn)], piece=50)

        engine = engine_of(forced, snapshots := stored(tmp_path))
        run(engine, generation(first, 0, "a"))
        noise.assert_close(of_first, forced.seen[0])
        engine.snapshot_idle()
        for conversation, reused in (("a", held), ("shares with a", len(second) - 1)):
            run(engine, each := generation(second, 1, conversation, steps=LONGER))
            assert each.reused_tokens == reused
            noise.assert_close(of_turn[1], forced.seen[1])

        snapshots.close(PATIENCE)
        # As another process finds it; there is no room for both to the end.
        empty(model)
        engine = engine_of(forced, snapshots := stored(tmp_path))
        waiting: list[int] = []
        engine.on_step = lambda step: waiting.append(step.waiting)
        restored = generation(second, 1, "a", steps=LONGER)
        run(engine, generation(other, 2, None, steps=LONGER), restored)
        assert restored.reused_tokens == held
        assert waiting[0] == 0 and (1 in waiting) == (form == "unified")
        noise.assert_close(of_turn[1], forced.seen[1])
        noise.assert_close(of_other[1], forced.seen[2])
        snapshots.close()


def test_eight_streams_with_two_adapters_and_without_think_what_each_thinks_alone(tmp_path: Path) -> None:
    with loaded(smollm2(), "separate") as model:
        sets = [NO_ADAPTERS]
        for name in ("pirate", "poet"):
            path = adapter(tmp_path / f"{name}.gguf", smollm2(), strength=0.3, seed=len(sets))
            sets.append(adapter_set([Adapter(name, str(path), 1.0)]))
        prompts = [model.vocabulary.tokenize(prompt)[:8] for prompt in PROMPTS[:8]]
        of = [sets[number % 3] for number in range(8)]
        references, noises = [], {}
        for number, adapters in enumerate(of):
            model.use_adapters(adapters)
            references.append(bare_loop(model, prompts[number], steps=FEW))
            if adapters.key not in noises:
                measured = (prompts[number], *references[number])
                noises[adapters.key] = Noise(model, prompts[-1], [measured], piece=4)
        forced = Forced(model, [tokens for tokens, _ in references])
        engine = Engine(
            forced,  # type: ignore[arg-type]
            Slots(8),
            prompt_step_tokens=16,
            max_step_seconds=1.5,  # so that each step is the turn of another set
            clock=(clock := Clock()),
        )

        def step(_: StepStats) -> None:
            clock.now += 1.0

        engine.on_step = step
        run(engine, *(generation(prompts[n], n, None, steps=FEW, adapters=of[n]) for n in range(8)))
        for number, adapters in enumerate(of):
            noises[adapters.key].assert_close(references[number][1], forced.seen[number])
        model.use_adapters(NO_ADAPTERS)
        plain = list(elsewhere(model, prompts[1], references[1][0], 4))
        assert not noises[of[1].key].is_close(references[1][1], plain), "the adapter does nothing"


def empty(model: LlamaModel) -> None:
    for sequence in range(8):
        model.truncate(sequence, 0)
