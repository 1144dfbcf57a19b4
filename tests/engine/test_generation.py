"""Generations on real models, against llama.cpp used in the plainest way."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from suite.engine.bindings import lib
from suite.engine.engine import Engine
from suite.engine.generation import EngineRequest, Generation
from suite.engine.llama_model import ContextSettings, LlamaModel
from suite.engine.sampler import SamplingParams
from suite.engine.slots import Slots
from suite.errors import GenerationFailed, LoadFailed, SuiteError
from suite.messages.logprobs import TokenLogprobs
from support.models import gemma, smollm2, tiny_model
from support.recurrent import tiny_mamba

STORY = "The old lighthouse keeper climbed the stairs every evening and looked at the sea."


@contextmanager
def loaded(path: Path, *, context: int = 512, batch: int = 128, slots: int = 2) -> Iterator[LlamaModel]:
    settings = ContextSettings(
        context_tokens=context, cache_tokens=context, batch_tokens=batch, gpu_layers=0, threads=1, slots=slots
    )
    model = LlamaModel.load(str(path), settings, lambda _fraction: None)
    try:
        yield model
    finally:
        model.free()


@pytest.fixture(scope="module")
def smol() -> Iterator[LlamaModel]:
    with loaded(smollm2()) as model:
        yield model


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[LlamaModel]:
    with loaded(tiny_model(tmp_path / "tiny.gguf"), context=256, batch=32) as model:
        yield model


def order(
    model: LlamaModel,
    prompt: str | list[int],
    *,
    max_tokens: int = 16,
    stop: tuple[str, ...] = (),
    temperature: float = 0.0,
    repeat_penalty: float = 1.0,
    seed: int = 1,
    conversation_id: str | None = None,
) -> Generation:
    tokens = model.vocabulary.tokenize(prompt) if isinstance(prompt, str) else prompt
    sampling = SamplingParams(
        temperature=temperature, top_p=0.95, top_k=40, min_p=0.05, repeat_penalty=repeat_penalty, seed=seed
    )
    return Generation(
        EngineRequest(
            prompt=tokens,
            max_tokens=max_tokens,
            stop=stop,
            sampling=sampling,
            conversation_id=conversation_id,
        ),
        time.monotonic,
    )


class Heard:
    """A listener that keeps the text, and does something at its first piece."""

    def __init__(self, at_first: Callable[[], None] = lambda: None) -> None:
        self.text = ""
        self.failure: SuiteError | None = None
        self._at_first = at_first

    def on_text(self, text: str, logprobs: TokenLogprobs | None = None, *, reasoning: str = "") -> None:
        assert logprobs is None and not reasoning
        if not self.text:
            self._at_first()
        self.text += text

    def on_end(self, error: SuiteError | None) -> None:
        self.failure = error


def run(
    model: LlamaModel, generation: Generation, slots: Slots | None = None, heard: Heard | None = None
) -> str:
    heard = heard or Heard()
    engine = Engine(model, slots or Slots(2, can_share=model.can_share), prompt_step_tokens=64)
    engine.submit(generation, heard)
    while engine.busy:
        engine.step()
    if heard.failure is not None:
        raise heard.failure
    return heard.text


def plain_greedy(path: Path, prompt: list[int], steps: int) -> list[int]:
    """Tokens by llama.cpp's own simplest loop: one sequence, one batch, the largest logit."""
    model = lib.llama_model_load_from_file(str(path).encode(), lib.llama_model_default_params())
    params = lib.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_threads, params.n_threads_batch = 512, 128, 1, 1
    context = lib.llama_init_from_model(model, params)
    size = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(model))
    out: list[int] = []
    tokens = prompt
    for _ in range(steps):
        array = (lib.llama_token * len(tokens))(*tokens)
        assert lib.llama_decode(context, lib.llama_batch_get_one(array, len(tokens))) == 0
        logits = lib.llama_get_logits_ith(context, -1)[:size]
        out.append(max(range(size), key=logits.__getitem__))
        tokens = out[-1:]
    lib.llama_free(context)
    lib.llama_model_free(model)
    return out


def test_greedy_text_is_that_of_a_bare_loop_token_for_token(smol: LlamaModel) -> None:
    prompt = smol.vocabulary.tokenize(STORY)
    generation, slots = order(smol, prompt, max_tokens=24), Slots(2)
    text = run(smol, generation, slots)
    expected = plain_greedy(smollm2(), prompt, 24)
    assert text == b"".join(map(smol.vocabulary.piece, expected)).decode()
    # The last token is sampled and never decoded.
    assert next(slot.tokens for slot in slots if slot.tokens) == prompt + expected[:-1]


def test_it_ends_when_the_model_says_so(smol: LlamaModel) -> None:
    prompt = "<|im_start|>user\nSay yes.<|im_end|>\n<|im_start|>assistant\n"
    generation = order(smol, prompt, max_tokens=200)
    text = run(smol, generation)
    assert generation.outcome == "stop"
    assert 0 < generation.completion_tokens < 200
    assert "<|im_end|>" not in text


def test_it_ends_at_max_tokens(tiny: LlamaModel) -> None:
    generation = order(tiny, "hello", max_tokens=7)
    run(tiny, generation)
    assert (generation.outcome, generation.completion_tokens) == ("length", 7)


def test_it_ends_when_the_context_is_full(tiny: LlamaModel) -> None:
    generation = order(tiny, "hello", max_tokens=10_000)
    run(tiny, generation)
    assert generation.outcome == "context_full"
    assert len(generation.request.prompt) + generation.completion_tokens == 256 + 1


def test_a_stop_string_across_tokens_ends_the_text_before_it(smol: LlamaModel) -> None:
    whole = run(smol, order(smol, STORY, max_tokens=24))
    stop = whole[10:19]  # begins and ends within words
    generation = order(smol, STORY, max_tokens=24, stop=(stop, "never there"))
    assert run(smol, generation) == whole[: whole.index(stop)]
    assert generation.outcome == "stop"
    assert generation.completion_tokens < 24


def test_the_same_seed_gives_the_same_text_and_another_one_another(smol: LlamaModel) -> None:
    texts = [run(smol, order(smol, STORY, temperature=1.0, seed=seed)) for seed in (7, 7, 8)]
    assert texts[0] == texts[1] != texts[2]


def test_a_repeat_penalty_changes_what_is_said(smol: LlamaModel) -> None:
    prompt = "again and again and again and again and"
    assert run(smol, order(smol, prompt)) != run(smol, order(smol, prompt, repeat_penalty=2.0))


CORRELATION = 0.96
"""Of the logits of one token; those of a wrong state are far from it (ADR 15: 0.49)."""


def second_turn(model: LlamaModel, slots: Slots) -> Generation:
    first = order(model, STORY, conversation_id="a")
    text = run(model, first, slots)
    second = order(model, STORY + text + " And then, one day,", conversation_id="a", max_tokens=1)
    run(model, second, slots)
    return second


def close(left: list[float], right: list[float]) -> bool:
    return max(abs(a - b) for a, b in zip(left, right, strict=True)) < 0.5


@pytest.mark.parametrize("path", [smollm2, gemma])
def test_a_second_turn_reuses_the_first_and_thinks_what_a_fresh_one_thinks(path: object) -> None:
    """The logits are compared: which of two likely tokens leads differs by processor (`test_reference`)."""
    assert callable(path)
    with loaded(path()) as model:
        reusing = second_turn(model, Slots(2))
        reused = model.logits()
        # All but what joined with the new words into other tokens, and the last token, never decoded.
        assert reusing.reused_tokens >= len(model.vocabulary.tokenize(STORY))
        fresh = order(model, reusing.request.prompt, max_tokens=1)
        run(model, fresh, Slots(2))
        assert fresh.reused_tokens == 0
        assert np.corrcoef(reused, model.logits())[0, 1] > CORRELATION


def test_logits_after_reuse_are_those_of_a_fresh_prompt(smol: LlamaModel) -> None:
    slots = Slots(2)
    run(smol, order(smol, STORY, conversation_id="a"), slots)
    prompt = STORY + " He was not alone."
    run(smol, shared := order(smol, prompt, max_tokens=1, conversation_id="b"), slots)
    assert shared.reused_tokens > 0
    reused = smol.logits()
    run(smol, order(smol, prompt, max_tokens=1), Slots(2))
    assert close(reused, smol.logits())


def test_conversations_that_alternate_keep_their_tokens(smol: LlamaModel) -> None:
    slots = Slots(2)
    chats = {"a": "The sea is", "b": "A tree has"}
    for turn in range(3):
        for conversation_id, chat in list(chats.items()):
            generation = order(smol, chat, max_tokens=4, conversation_id=conversation_id)
            chats[conversation_id] = chat + run(smol, generation, slots) + " and then"
            assert (generation.reused_tokens > 0) == (turn > 0)


def test_a_full_cache_takes_room_from_the_conversation_not_used_for_longest(tiny: LlamaModel) -> None:
    slots = Slots(2)
    run(tiny, order(tiny, "abc " * 40, conversation_id="a", max_tokens=20), slots)
    generation = order(tiny, "xyz " * 40, conversation_id="b", max_tokens=20)
    run(tiny, generation, slots)
    assert generation.outcome == "length"
    again = order(tiny, "abc " * 40, conversation_id="a", max_tokens=1)
    run(tiny, again, slots)
    assert again.reused_tokens <= 1  # the token that every prompt begins with


def test_a_memory_that_cannot_forget_a_part_forgets_all_and_goes_on_right(tmp_path: Path) -> None:
    with loaded(tiny_mamba(tmp_path / "mamba.gguf"), batch=32) as model:
        assert not model.can_share
        slots = Slots(2, can_share=False)
        first = order(model, [1, 50, 51, 52], max_tokens=4, conversation_id="a")
        run(model, first, slots)
        held = next(slot.tokens for slot in slots if slot.tokens)
        onward = order(model, [*held, 60, 61], max_tokens=1, conversation_id="a")
        run(model, onward, slots)
        assert onward.reused_tokens == len(held)
        changed = order(model, [1, 50, 70, 71, 72], max_tokens=1, conversation_id="a")
        run(model, changed, slots)
        assert changed.reused_tokens == 0
        after_cut = model.logits()
        run(model, order(model, [1, 50, 70, 71, 72], max_tokens=1), Slots(2, can_share=False))
        assert close(after_cut, model.logits())


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_logits_that_are_not_numbers_are_told_and_nothing_of_them_is_kept(
    tmp_path: Path, temperature: float
) -> None:
    path = tiny_model(tmp_path / "tiny.gguf")
    content = bytearray(path.read_bytes())
    content[-64:] = b"\x00\x7e" * 32  # NaN as 16-bit numbers, in the last layer's weights
    path.write_bytes(content)
    with loaded(path, batch=32) as model:
        slots = Slots(2)
        with pytest.raises(GenerationFailed, match="not numbers"):
            run(model, order(model, "hello", temperature=temperature, conversation_id="a"), slots)
        assert not any(slot.tokens for slot in slots)


def test_a_cancelled_generation_ends_between_two_steps_and_keeps_what_there_is(tiny: LlamaModel) -> None:
    generation = order(tiny, "hello", max_tokens=100)

    def cancel() -> None:
        generation.cancel("cancelled")
        generation.cancel("client_gone")

    assert run(tiny, generation, heard=Heard(cancel))
    assert generation.outcome == "cancelled"
    assert generation.completion_tokens <= 2


def test_a_prompt_is_cancelled_between_two_batches(tiny: LlamaModel) -> None:
    generation = order(tiny, "hello " * 30, conversation_id="a")
    generation.cancel("cancelled")
    assert run(tiny, generation) == ""
    assert (generation.outcome, generation.completion_tokens) == ("cancelled", 0)


def test_a_load_that_fails_has_the_words_of_llama_cpp(tmp_path: Path) -> None:
    path = tmp_path / "text.gguf"
    path.write_text("this is no model")
    settings = ContextSettings(
        context_tokens=64, cache_tokens=64, batch_tokens=32, gpu_layers=0, threads=1, slots=1
    )
    with pytest.raises(LoadFailed, match="magic"):
        LlamaModel.load(str(path), settings, lambda _fraction: None)
