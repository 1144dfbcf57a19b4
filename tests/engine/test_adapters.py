"""Generations with different adapters on one model: each as if alone, and none waits for ever."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from suite.engine.adapters import NO_ADAPTERS, Adapter, AdapterSet, AdapterTurns, adapter_set
from suite.engine.backend import BatchEntry
from suite.engine.engine import Engine
from suite.engine.llama_model import ContextSettings, LlamaModel
from suite.engine.loaded_adapters import MOST
from suite.engine.pictures.tokens import Piece, stand_ins
from suite.engine.slots import Slots
from suite.engine.snapshots.snapshots import Snapshots
from suite.engine.speculation import Speculation
from suite.errors import GenerationFailed
from suite.identity import new_id, utc_now
from support.adapters import adapter
from support.backend import FakeBackend
from support.drafts import Eager, KnowingDrafter
from support.generations import Asked, Clock, asked, drain
from support.models import tiny_model

PIRATE = adapter_set([Adapter("aa", "pirate.gguf", 1.0)])
POET = adapter_set([Adapter("bb", "poet.gguf", 1.0)])
BOTH = adapter_set([Adapter("aa", "pirate.gguf", 0.5), Adapter("bb", "poet.gguf", 1.0)])
SETS = (NO_ADAPTERS, PIRATE, POET, BOTH)
PICTURES = [Piece(stand_ins(name, 5), name.decode()) for name in (b"one", b"two")]
BY_TOKEN = {piece.tokens[0]: piece for piece in PICTURES}
PARTS: list[Sequence[int]] = [[1], [2], [3], [1, 2, 3], *(piece.tokens for piece in PICTURES)]


def backend_of(*, slots: int = 4, separate: bool = False) -> FakeBackend:
    return FakeBackend(slots=slots, context=80, cache=400, separate=separate, exchange_steps=0.01)


def ask(
    prompt: Sequence[int], adapters: AdapterSet, *, max_tokens: int = 5, conversation: str | None = None
) -> Asked:
    return asked(
        prompt, max_tokens=max_tokens, conversation=conversation, adapters=adapters, pictures=BY_TOKEN
    )


def alone(prompt: Sequence[int], adapters: AdapterSet, max_tokens: int) -> list[int]:
    """What an engine says that has nothing else to do, and never had."""
    engine = Engine(backend_of(), Slots(4), prompt_step_tokens=4)
    each = ask(prompt, adapters, max_tokens=max_tokens)
    engine.submit(each.generation, each.heard)
    drain(engine)
    return each.heard.tokens


def test_a_set_is_known_by_what_it_does() -> None:
    first, second = Adapter("aa", "one.gguf", 1.0), Adapter("bb", "two.gguf", 0.5)
    assert adapter_set([first, second]) == adapter_set([second, first])
    assert adapter_set([first]).key != adapter_set([first._replace(scale=0.5)]).key
    assert adapter_set([first]).key == adapter_set([first._replace(path="elsewhere.gguf")]).key
    assert adapter_set([first._replace(scale=0.0)]) == adapter_set([]) == NO_ADAPTERS


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.lists(st.sampled_from(PARTS), max_size=12),
            st.sampled_from(SETS),
            st.integers(1, 12),
            st.sampled_from([None, None, "a", "b"]),
            st.integers(0, 10),
        ),
        min_size=1,
        max_size=10,
    ),
    st.booleans(),
    st.booleans(),
    st.integers(1, 4),
)
def test_each_says_what_it_says_alone(
    plan: list[tuple[list[Sequence[int]], AdapterSet, int, str | None, int]],
    separate: bool,
    guesses: bool,
    slots: int,
) -> None:
    """With other adapters beside it, pictures, guesses, and conversations that come back from snapshots."""
    clock = Clock()
    backend = backend_of(slots=slots, separate=separate)
    engine = Engine(
        backend,
        Slots(slots),
        prompt_step_tokens=4,
        max_step_seconds=0.3,
        snapshots=stored(None),
        speculation=Speculation(backend, KnowingDrafter(wrong_every=3), Eager()) if guesses else None,
        clock=clock,
    )
    prompts = [[token for part in (*parts, [1]) for token in part] for parts, *_ in plan]
    every = [
        ask(prompt, each[1], max_tokens=each[2], conversation=each[3])
        for prompt, each in zip(prompts, plan, strict=True)
    ]
    step = 0
    while step <= 10 or engine.busy:
        for each, (*_, begins) in zip(every, plan, strict=True):
            if begins == step:
                engine.submit(each.generation, each.heard)
        engine.step()
        clock.now += 0.1
        step += 1
        assert step < 3000, "it does not come to an end"
    for each, prompt, (_, adapters, tokens, *_) in zip(every, prompts, plan, strict=True):
        assert each.heard.error is None
        assert each.heard.tokens == alone(prompt, adapters, tokens)


def stored(directory: Path | None) -> Snapshots:
    return Snapshots(
        directory=directory,
        key="model",
        memory_bytes=1 << 20,
        disk_bytes=1 << 20,
        now=utc_now,
        new_id=new_id,
    )


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.sets(st.integers(0, 5), min_size=1), st.floats(0.001, 0.5)), min_size=1, max_size=40
    ),
    st.floats(0.01, 1.0),
)
def test_no_set_waits_longer_than_the_turns_of_all_others(
    steps: list[tuple[set[int], float]], seconds: float
) -> None:
    turns, now = AdapterTurns(seconds), 0.0
    waits: dict[str, int] = {}
    """For how many turns of others each has waited that has something to decode."""
    last = ""
    for wanted, took in steps:
        keys = [str(number) for number in sorted(wanted)]
        turn = turns.next(keys, now)
        assert turn in keys
        is_new = turn != last
        waits = {key: waits.get(key, 0) + is_new for key in keys if key != turn}
        assert all(count <= 5 for count in waits.values())
        last, now = turn, now + took


def test_a_turn_is_as_long_as_the_others_can_wait() -> None:
    turns = AdapterTurns(0.375)
    seen = [turns.next(["", "a", "b"], step / 16) for step in range(18)]
    assert seen == [""] * 3 + ["a"] * 3 + ["b"] * 3 + [""] * 3 + ["a"] * 3 + ["b"] * 3
    assert [turns.next(["b"], 1 + step) for step in range(5)] == ["b"] * 5, "nobody waits"
    assert turns.next(["b", "a"], 7.0) == "a"


def test_what_was_decoded_with_adapters_is_reused_with_these_only(tmp_path: Path) -> None:
    engine = Engine(backend_of(), Slots(1), prompt_step_tokens=4, snapshots=stored(tmp_path))
    prompt = [1, 2, 3] * 12
    for number, (adapters, is_known) in enumerate(
        [(PIRATE, False), (NO_ADAPTERS, False), (POET, False), (PIRATE, True), (NO_ADAPTERS, True)]
    ):
        each = ask(prompt, adapters, conversation=f"c{number % 3}")
        engine.submit(each.generation, each.heard)
        drain(engine)
        assert each.heard.tokens == alone(prompt, adapters, 5)
        assert (each.generation.reused_tokens == len(prompt) - 1) == is_known, number
    engine.snapshot_all(5)

    again = Engine(backend_of(), Slots(1), prompt_step_tokens=4, snapshots=stored(tmp_path))
    for adapters, is_known in ((BOTH, False), (PIRATE, True)):
        each = ask(prompt, adapters)
        again.submit(each.generation, each.heard)
        drain(again)
        assert each.heard.tokens == alone(prompt, adapters, 5)
        assert (each.generation.reused_tokens == len(prompt) - 1) == is_known
    again.snapshot_all(5)


def test_a_new_set_begins_far_from_the_others_and_goes_on_beside_its_own() -> None:
    slots = Slots(8)
    taken: dict[str, list[int]] = {}
    for adapters in ("", "a", "", "b", "a", "", "b", "a"):
        slot = slots.plan([1], None, adapters=adapters).target
        slots.assign(slot, [], None, adapters=adapters)
        taken.setdefault(adapters, []).append(slot.sequence)
    assert taken == {"": [0, 1, 2], "a": [7, 6, 5], "b": [4, 3]}


def test_more_adapters_than_stay_in_memory_are_loaded_again(tmp_path: Path) -> None:
    path = tiny_model(tmp_path / "tiny.gguf")
    sets = [
        adapter_set([Adapter(f"{number}", str(adapter(tmp_path / f"{number}.gguf", path, seed=number)), 1.0)])
        for number in range(MOST + 3)
    ]
    context = ContextSettings(
        context_tokens=64, cache_tokens=64, batch_tokens=8, gpu_layers=0, threads=1, slots=1
    )
    model = LlamaModel.load(str(path), context, lambda _: None)

    def said(adapters: AdapterSet) -> list[float]:
        model.use_adapters(adapters)
        model.truncate(0, 0)
        assert model.decode([BatchEntry(0, [1, 300, 301], 0, wants_logits=True)])
        return model.logits()

    plain = said(NO_ADAPTERS)
    first = [said(each) for each in sets]
    assert [said(each) for each in sets] == first and said(NO_ADAPTERS) == plain
    assert len({tuple(each) for each in (plain, *first)}) == len(sets) + 1
    with pytest.raises(GenerationFailed, match="could not load an adapter"):
        model.use_adapters(adapter_set([Adapter("gone", str(tmp_path / "gone.gguf"), 1.0)]))
    assert said(NO_ADAPTERS) == plain
    model.free()


def test_a_prompt_that_others_read_is_followed_only_with_the_same_adapters() -> None:
    backend = backend_of()
    engine = Engine(backend, Slots(4), prompt_step_tokens=4, max_step_seconds=0.0)
    beginning = [1, 2, 3, 4] * 15
    every = [ask([*beginning, end], adapters) for end in (1, 2) for adapters in (NO_ADAPTERS, PIRATE)]
    for each in every:
        engine.submit(each.generation, each.heard)
    drain(engine)
    assert [each.generation.reused_tokens for each in every] == [0, 0, 60, 60]
    for each in every:
        order = each.generation.request
        assert each.heard.tokens == alone(order.prompt, order.adapters, 5)
