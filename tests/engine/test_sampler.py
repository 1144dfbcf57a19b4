"""The choice of tokens, against numpy and llama.cpp's own samplers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from suite.engine.bindings import lib
from suite.engine.candidates import likeliest
from suite.engine.grammar.grammar import JSON_OBJECT
from suite.engine.grammar.session import Limits
from suite.engine.sampler import Sampler, SamplingParams, sampling_params
from suite.errors import GenerationFailed, InvalidGrammar, InvalidRequest
from suite.messages.actions.generation import GenerateTextRequest
from support.bare import Bare, bare
from support.grammars import following
from support.models import smollm2, tiny_model

PROMPT = "The old lighthouse keeper"
GREEDY = SamplingParams(temperature=0)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bare]:
    with bare(tiny_model(tmp_path_factory.mktemp("sampler") / "tiny.gguf")) as found:
        yield found


@pytest.fixture(scope="module")
def smol() -> Iterator[Bare]:
    with bare(smollm2()) as found:
        yield found


def tokens(model: Bare, sampling: SamplingParams, length: int = 32, prompt: str = PROMPT) -> list[int]:
    with Sampler(sampling, model.vocabulary) as sampler:
        return model.tokens(sampler, prompt, length)


def one(model: Bare, sampling: SamplingParams, remembered: Sequence[int] = ()) -> int:
    """The token after what was decoded last."""
    with Sampler(sampling, model.vocabulary) as sampler:
        sampler.accept_prompt(remembered)
        return sampler.sample(model.context)


def test_greedy_takes_the_largest_logit(tiny: Bare) -> None:
    tiny.begin(PROMPT)
    assert one(tiny, GREEDY) == int(tiny.logits().argmax())
    assert one(tiny, SamplingParams(temperature=1e-30)) == int(tiny.logits().argmax())


def test_the_same_seed_gives_the_same_tokens_and_another_gives_others(tiny: Bare) -> None:
    first = tokens(tiny, SamplingParams(temperature=1.0, seed=7))
    assert tokens(tiny, SamplingParams(temperature=1.0, seed=7)) == first
    assert tokens(tiny, SamplingParams(temperature=1.0, seed=8)) != first


def test_draws_are_those_of_llama_cpp_over_the_whole_vocabulary(smol: Bare) -> None:
    """What is picked before llama.cpp's samplers run changes nothing."""
    chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
    for sampler in (
        lib.llama_sampler_init_top_k(40),
        lib.llama_sampler_init_typical(0.9, 1),
        lib.llama_sampler_init_top_p(0.95, 1),
        lib.llama_sampler_init_min_p(0.01, 1),
        lib.llama_sampler_init_temp(1.5),
        lib.llama_sampler_init_dist(3),
    ):
        lib.llama_sampler_chain_add(chain, sampler)
    smol.begin(PROMPT)
    expected = [lib.llama_sampler_sample(chain, smol.context, -1) for _ in range(20)]
    lib.llama_sampler_free(chain)
    assert len(set(expected)) > 3
    with Sampler(SamplingParams(temperature=1.5, typical_p=0.9, min_p=0.01, seed=3), smol.vocabulary) as ours:
        assert [ours.sample(smol.context) for _ in range(20)] == expected


@pytest.mark.parametrize("size", [1, 255, 256, 300, 5_000, 49_152])
@pytest.mark.parametrize("wanted", [1, 3, 40, 300])
def test_the_likeliest_are_among_those_that_are_picked(size: int, wanted: int) -> None:
    logits = np.random.default_rng(size).standard_normal(size).astype(np.float32)
    found = likeliest(logits, wanted)
    assert set(np.argsort(-logits)[:wanted]) <= set(found)
    assert len(found) <= 8 * wanted or len(found) == size
    assert list(found) == sorted(found)


def test_equal_and_impossible_logits_are_picked_from_too() -> None:
    assert len(likeliest(np.zeros(10_000, np.float32), 40)) == 40
    logits = np.full(10_000, -np.inf, np.float32)
    logits[5] = 0
    assert 5 in likeliest(logits, 40)


def test_some_are_picked_of_logits_that_are_not_numbers() -> None:
    """llama.cpp aborts the process when it is to choose from none."""
    assert len(likeliest(np.full(10_000, np.nan, np.float32), 40)) == 40


def test_penalties_are_llama_cpps(tiny: Bare) -> None:
    """Repeat, presence and frequency, after a prompt that is longer than they look back."""
    prompt = tiny.begin("the sea the sea on the shore " * 8)
    penalties = lib.llama_sampler_init_penalties(tiny.vocabulary.size, 64, 1.7, 0.6, 0.4)
    chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
    lib.llama_sampler_chain_add(chain, penalties)
    lib.llama_sampler_chain_add(chain, lib.llama_sampler_init_greedy())
    for token in prompt:
        lib.llama_sampler_accept(chain, token)
    sampling = SamplingParams(
        temperature=0, repeat_penalty=1.7, presence_penalty=0.4, frequency_penalty=0.6, penalty_last_n=64
    )
    with Sampler(sampling, tiny.vocabulary) as sampler:
        sampler.accept_prompt(prompt)
        ours = [sampler.sample(tiny.context) for _ in range(70)]
    theirs = [lib.llama_sampler_sample(chain, tiny.context, -1) for _ in range(70)]
    lib.llama_sampler_free(chain)
    assert ours == theirs
    assert len(set(ours)) > 10  # it does move on from what it said, at one and the same logits


def test_a_bias_forces_and_forbids(tiny: Bare) -> None:
    tiny.begin(PROMPT)
    best = int(tiny.logits().argmax())
    assert one(tiny, SamplingParams(temperature=0, logit_bias={best: -100.0})) != best
    unlikely = int(tiny.logits().argmin())
    assert one(tiny, SamplingParams(temperature=1, seed=1, logit_bias={unlikely: 100.0})) == unlikely


def test_a_row_of_a_batch_is_sampled_by_its_index(tiny: Bare) -> None:
    lib.llama_memory_clear(lib.llama_get_memory(tiny.context), True)
    prompt = tiny.vocabulary.tokenize(PROMPT)
    batch = lib.llama_batch_init(len(prompt), 0, 1)
    batch.n_tokens = len(prompt)
    for position, token in enumerate(prompt):
        batch.token[position], batch.pos[position] = token, position
        batch.n_seq_id[position], batch.logits[position] = 1, position in (2, len(prompt) - 1)
        batch.seq_id[position][0] = 0
    assert lib.llama_decode(tiny.context, batch) == 0
    lib.llama_batch_free(batch)
    row = np.array(lib.llama_get_logits_ith(tiny.context, 2)[: tiny.vocabulary.size])
    with Sampler(GREEDY, tiny.vocabulary) as sampler:
        assert sampler.sample(tiny.context, 2) == int(row.argmax())
        assert sampler.sample(tiny.context) == int(tiny.logits().argmax())
        with pytest.raises(GenerationFailed, match="entry 1 "):
            sampler.sample(tiny.context, 1)


def test_logprobs_are_the_models_own(tiny: Bare) -> None:
    """Of the raw logits, whatever the sampling made of them."""
    tiny.begin(PROMPT)
    logits = tiny.logits().astype(np.float64)
    expected = logits - np.log(np.exp(logits).sum())
    best = np.argsort(-logits, kind="stable")[:5]
    sampling = SamplingParams(temperature=2.0, seed=1, logit_bias={int(best[0]): -50.0}, logprobs=5)
    with Sampler(sampling, tiny.vocabulary) as sampler:
        token = sampler.sample(tiny.context)
        found = sampler.last_logprobs
    assert found is not None
    assert found.id == token != best[0]
    assert found.logprob == pytest.approx(expected[token], abs=1e-4)
    assert [top.id for top in found.top_logprobs] == list(best)
    assert [top.logprob for top in found.top_logprobs] == pytest.approx(expected[best], abs=1e-4)
    assert bytes(found.bytes) == tiny.vocabulary.piece(token, special=True)
    assert sum(np.exp(expected)) == pytest.approx(1)


def test_logprobs_come_only_when_asked_for_and_may_be_of_the_token_alone(tiny: Bare) -> None:
    tiny.begin(PROMPT)
    with (
        Sampler(GREEDY, tiny.vocabulary) as silent,
        Sampler(SamplingParams(temperature=0, logprobs=0), tiny.vocabulary) as brief,
    ):
        token = silent.sample(tiny.context)
        assert silent.last_logprobs is None
        brief.sample(tiny.context)
        assert brief.last_logprobs is not None
        assert (brief.last_logprobs.id, brief.last_logprobs.top_logprobs) == (token, ())


def test_a_limit_above_the_vocabulary_is_none(tiny: Bare) -> None:
    free, huge = (
        SamplingParams(temperature=1.0, seed=7, top_k=0),
        SamplingParams(temperature=1.0, seed=7, top_k=2**32 + 1),
    )
    assert tokens(tiny, huge) == tokens(tiny, free)


# --- grammars -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_an_answer_ends_where_its_grammar_ends(tiny: Bare, temperature: float) -> None:
    with following(tiny, 'root ::= "yes" | "no" " at all"?') as grammar:
        sampling = SamplingParams(temperature=temperature, seed=5, grammar=grammar)
        with Sampler(sampling, tiny.vocabulary) as sampler:
            assert tiny.text(sampler, PROMPT, 40) in ("yes", "no", "no at all")


def test_what_the_grammar_permits_is_sampled_as_without_it(tiny: Bare) -> None:
    free = SamplingParams(temperature=1.0, seed=3)
    with following(tiny, "root ::= .*") as grammar:
        anything = SamplingParams(temperature=1.0, seed=3, grammar=grammar)
        assert tokens(tiny, anything) == tokens(tiny, free)


def test_greedy_within_a_grammar_takes_the_likeliest_that_it_permits(smol: Bare) -> None:
    smol.begin("My favourite number is")
    logits = smol.logits()
    digits = [id for id in range(smol.vocabulary.size) if smol.vocabulary.piece(id) in b"0 1 2 3 4 5".split()]
    with following(smol, "root ::= [0-5]") as grammar:
        likeliest_digit = one(smol, SamplingParams(temperature=0, grammar=grammar))
    assert likeliest_digit == max(digits, key=lambda id: logits[id])


def test_a_json_object_is_one(smol: Bare) -> None:
    prompt = 'A short JSON object with a name and an age:\n{"name": "Ann", "age": 3}\n'
    with following(smol, JSON_OBJECT) as grammar:
        sampling = SamplingParams(temperature=0.8, seed=2, grammar=grammar, repeat_penalty=1.1)
        with Sampler(sampling, smol.vocabulary) as sampler:
            text = smol.text(sampler, prompt, 150)
    assert isinstance(json.loads(text), dict)


def test_a_grammar_is_followed_by_what_is_shown(smol: Bare) -> None:
    """A special token has a name, which llama.cpp's grammars take for what it says."""
    special = smol.vocabulary.tokenize("<|im_start|>")
    assert len(special) == 1
    assert smol.vocabulary.visible_bytes(special[0]) == b""
    wanted = SamplingParams(temperature=0, logit_bias={special[0]: 100.0})
    smol.begin(PROMPT)
    assert one(smol, wanted) == special[0]
    with following(smol, "root ::= .{3,9}") as grammar:
        sampling = SamplingParams(temperature=0, logit_bias={special[0]: 100.0}, grammar=grammar)
        with Sampler(sampling, smol.vocabulary) as sampler:
            assert 3 <= len(smol.text(sampler, PROMPT, 20)) <= 9


def test_a_grammar_does_not_see_what_is_exempt_from_it(tiny: Bare) -> None:
    with following(tiny, 'root ::= "ab"') as grammar:
        with Sampler(SamplingParams(temperature=0, grammar=grammar), tiny.vocabulary) as sampler:
            tiny.begin(PROMPT)
            likeliest = int(tiny.logits().argmax())
            assert tiny.vocabulary.visible_bytes(likeliest) != b"a"
            assert sampler.sample(tiny.context, exempt=None) == likeliest
            assert sampler.sample(tiny.context, exempt={likeliest}) == likeliest
            other = {likeliest + 1}
            said = [sampler.sample(tiny.context, exempt=other) for _ in range(2)]
            assert b"".join(map(tiny.vocabulary.visible_bytes, said)) == b"ab"


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_grammar_that_permits_no_token_is_refused_and_not_run_into(tiny: Bare, temperature: float) -> None:
    """llama.cpp would abort the process."""
    with following(tiny, 'root ::= "a" "\\x00"') as grammar:
        sampling = SamplingParams(temperature=temperature, grammar=grammar)
        with Sampler(sampling, tiny.vocabulary) as sampler:
            tiny.begin(PROMPT)
            assert tiny.vocabulary.visible_bytes(sampler.sample(tiny.context)) == b"a"
            with pytest.raises(InvalidGrammar, match="permits none"):
                sampler.sample(tiny.context)


LATE = f'root ::= "{"a" * 300}" ({"(" * 7}"a"?{"){1,9}" * 7})'
"""Harmless for three hundred letters, then there are millions of ways to go on."""


def test_a_grammar_that_explodes_late_ends_its_own_generation_and_no_other(tiny: Bare) -> None:
    with (
        following(tiny, LATE, Limits(call_seconds=0.2)) as late,
        following(tiny, "root ::= .*") as harmless,
        Sampler(SamplingParams(temperature=0, grammar=late), tiny.vocabulary) as exploding,
        Sampler(SamplingParams(temperature=0, grammar=harmless), tiny.vocabulary) as other,
    ):
        tiny.begin(PROMPT)
        said = b""
        with pytest.raises(InvalidGrammar, match=r"more than 0\.2 s for a token"):
            while True:
                said += tiny.vocabulary.visible_bytes(exploding.sample(tiny.context))
        assert set(said) == {ord("a")}
        assert len(said) > 250
        assert other.sample(tiny.context) == int(tiny.logits().argmax())


def test_a_grammar_that_is_slow_at_every_token_comes_to_its_end(tiny: Bare) -> None:
    everything = np.arange(tiny.vocabulary.size)
    with following(tiny, JSON_OBJECT, Limits(total_seconds=0.05, token_seconds=0)) as grammar:
        assert len(grammar.permitted(everything)) > 0
        with pytest.raises(InvalidGrammar, match=r"more than 0\.05 s for all"):
            for _ in range(100_000):
                grammar.permitted(everything)


# --- requests -----------------------------------------------------------------------------------------------


def test_a_request_becomes_sampling(tiny: Bare) -> None:
    request = GenerateTextRequest(
        model_id="m", prompt="x", typical_p=0.5, presence_penalty=1, logit_bias={"7": 2.5}, logprobs=3
    )
    with following(tiny, "root ::= .") as grammar:
        sampling = sampling_params(request, seed=9, vocabulary=tiny.vocabulary, grammar=grammar)
    assert sampling.logit_bias == {7: 2.5}
    assert (sampling.seed, sampling.typical_p, sampling.presence_penalty) == (9, 0.5, 1)
    assert (sampling.logprobs, sampling.grammar) == (3, grammar)


@pytest.mark.parametrize("name", ["-1", "365000", "x", "", "1.0", "٣", "9" * 50])
def test_a_bias_of_a_token_that_is_none_is_refused_by_its_name(tiny: Bare, name: str) -> None:
    request = GenerateTextRequest(model_id="m", prompt="x", logit_bias={name: 1.0, "5": 1.0})
    with pytest.raises(InvalidRequest, match=f"logit_bias.*{name[:20]}"):
        sampling_params(request, seed=1, vocabulary=tiny.vocabulary)
