"""Log probabilities of prompts from a real context, against those of a prompt decoded token by token."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np
import pytest

from suite.engine import llama_model
from suite.engine.backend import BatchEntry
from suite.engine.engine import Engine
from suite.engine.llama_model import ContextSettings, LlamaModel
from suite.engine.slots import Slots
from support.generations import Asked, asked, drain
from support.models import tiny_model

ALIKE = 0.02
"""How far they may be from each other: keys and values are of 16 bits, and batches of other shapes."""
SETTINGS = ContextSettings(
    context_tokens=128, cache_tokens=256, batch_tokens=64, gpu_layers=0, threads=1, slots=3
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaModel]:
    model = LlamaModel.load(str(tiny_model(tmp_path_factory.mktemp("scored") / "tiny.gguf")), SETTINGS, print)
    yield model
    model.free()


def expected(model: LlamaModel, prompt: list[int]) -> list[float]:
    """The log probability of each token but the first."""
    found = []
    for position, (token, following) in enumerate(itertools.pairwise(prompt)):
        model.decode([BatchEntry(0, [token], position, wants_logits=True)])
        logits = np.array(model.logits(), dtype=np.float64)
        found.append(float(logits[following] - np.log(np.exp(logits).sum())))
    model.truncate(0, 0)
    return found


def scored(model: LlamaModel, prompt: list[int]) -> Asked:
    engine = Engine(model, Slots(2), prompt_step_tokens=256)
    first, again = (asked(prompt, max_tokens=3, prompt_logprobs=count) for count in (None, 2))
    beside = asked([5] * 40, max_tokens=60)
    for each in (first, beside, again):
        engine.submit(each.generation, each.heard)
        engine.step()
    drain(engine)
    engine.clear(None)
    engine.step()
    assert again.heard.error is None
    return again


@pytest.mark.parametrize("tokens_a_step", [1, 7, 1000])
def test_they_are_those_of_the_model_however_the_prompt_is_divided(
    model: LlamaModel, monkeypatch: pytest.MonkeyPatch, tokens_a_step: int
) -> None:
    monkeypatch.setattr(llama_model, "SCORED_BYTES", 4 * model.vocabulary.size * tokens_a_step)
    assert model.scored_tokens == tokens_a_step
    prompt = model.vocabulary.tokenize("the sea and the shore in autumn")
    again = scored(model, prompt)
    found = again.generation.prompt_logprobs
    assert [each.id for each in found] == prompt
    assert (found[0].logprob, found[0].top_logprobs) == (None, ())
    for token, logprob in zip(found[1:], expected(model, prompt), strict=True):
        assert token.logprob is not None
        assert math.isclose(token.logprob, logprob, abs_tol=ALIKE)
        assert [each.logprob for each in token.top_logprobs] == sorted(
            (each.logprob for each in token.top_logprobs), reverse=True
        )
        assert token.top_logprobs[0].logprob >= token.logprob
    assert again.generation.reused_tokens == 0, "what was read before has no logits any more"


def test_a_prompt_may_be_only_read(model: LlamaModel) -> None:
    engine = Engine(model, Slots(2), prompt_step_tokens=256)
    only = asked([1, 5, 6, 7], max_tokens=0, prompt_logprobs=0)
    engine.submit(only.generation, only.heard)
    drain(engine)
    assert (only.generation.outcome, only.generation.completion_tokens, only.heard.text) == ("length", 0, "")
    assert len(only.generation.prompt_logprobs) == 4


def test_a_prompt_is_read_beside_two_that_are_scored(
    model: LlamaModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llama_model, "SCORED_BYTES", 4 * model.vocabulary.size)
    engine = Engine(model, Slots(3), prompt_step_tokens=256)
    first, second = (
        asked([1, *range(begin, begin + 20)], max_tokens=0, prompt_logprobs=0) for begin in (5, 40)
    )
    other = asked([1, 80, 81, 82], max_tokens=1)
    for each in (first, second, other):
        engine.submit(each.generation, each.heard)
    while other.generation.outcome is None:
        engine.step()
    assert first.generation.outcome is None, "it is read a token a step"
    drain(engine)
    assert len(second.generation.prompt_logprobs) == 21
    engine.clear(None)
    engine.step()
