"""The engine against the plainest loop: forced along its tokens, batched, reused, shared and restored.

`support.reference` has the loop, and says how close the engine's logits have to be.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from suite.engine.adapters import NO_ADAPTERS, Adapter, adapter_set
from suite.engine.engine import Engine, StepStats
from suite.engine.generation import Generation
from suite.engine.llama_model import LlamaModel
from suite.engine.pictures.image import Image
from suite.engine.pictures.tokens import EncodedPicture
from suite.engine.slots import Slots
from suite.engine.snapshots.snapshots import Snapshots
from suite.identity import new_id, utc_now
from suite.messages.actions.status import KvCacheForm
from support.adapters import adapter
from support.generations import Clock
from support.models import gemma, smollm2
from support.projector import SIDE, tiny_projector
from support.reference import (
    STEPS,
    Forced,
    Heard,
    Noise,
    bare_loop,
    elsewhere,
    empty,
    engine_of,
    generation,
    loaded,
    run,
)
from support.snapshots import PATIENCE

pytestmark = pytest.mark.timeout(180)

FEW, LONGER = 4, 10
GEMMA_LENGTH = 26.1
"""The length of each of Gemma 3 270M's embeddings, as the first layer sees them."""
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


def stored(directory: Path) -> Snapshots:
    return Snapshots(
        directory=directory,
        key="model",
        memory_bytes=1 << 28,
        disk_bytes=1 << 28,
        now=utc_now,
        new_id=new_id,
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


def test_eight_pictures_at_once_are_what_each_shows_alone(tmp_path: Path) -> None:
    """With vectors as long as those of the model's own tokens: longer ones magnify the noise (ADR 75)."""
    projector = tiny_projector(tmp_path / "mmproj.gguf", embedding=640, length=GEMMA_LENGTH)
    with loaded(gemma(), "separate", projector=projector) as model:
        seen = [encoded(model, number) for number in range(8)]
        pictures = {piece.tokens[0]: piece for each in seen for piece in each.pieces}
        before, after = (model.vocabulary.tokenize(text) for text in ("Look at", PROMPTS[0]))

        def prompt(number: int) -> Sequence[int]:
            return [*before, *seen[number].tokens, *after[1 : 4 + number]]

        references = [bare_loop(model, prompt(number), steps=FEW, pictures=pictures) for number in range(8)]
        measured = [(prompt(number), *references[number]) for number in range(2)]
        noise = Noise(model, after, measured, piece=3, pictures=pictures)
        forced = Forced(model, [tokens for tokens, _ in references])
        asked = [generation(prompt(n), n, None, steps=FEW, pictures=pictures) for n in range(8)]
        run(engine_of(forced, None, prompt_step_tokens=16), *asked)
        for number, (_, reference) in enumerate(references):
            noise.assert_close(reference, forced.seen[number])
        tokens, reference = references[0]
        other = [*before, *seen[1].tokens, *after[1:4]]
        another = list(elsewhere(model, other, tokens, 3, pictures))
        assert not noise.is_close(reference, another), "it does not matter which picture it is"


def encoded(model: LlamaModel, number: int) -> EncodedPicture:
    """A picture as the model reads it."""
    assert model.projector is not None
    pixels = random.Random(number).randbytes(3 * SIDE * SIDE)
    encoding = model.projector.encode(Image(SIDE, SIDE, pixels), b"%d" % number)
    while True:
        try:
            next(encoding)
        except StopIteration as end:
            seen: EncodedPicture = end.value
            return seen
