"""Guesses of next tokens: where they come from, when they are made, and that the text stays what it is."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from suite.engine.draft_model import ModelDrafter, load_draft
from suite.engine.engine import Engine
from suite.engine.generation import EngineRequest, Generation
from suite.engine.llama_model import ContextSettings, DraftSettings, LlamaModel
from suite.engine.lookup import LONGEST_MATCH, SHORTEST_MATCH, Lookup, LookupDrafter
from suite.engine.payoff import Guess, Payoff
from suite.engine.sampler import SamplingParams
from suite.engine.scheduler import Run
from suite.engine.slots import Slots
from suite.engine.speculation import Drafter, Speculation
from suite.errors import DraftModelUnfit, SuiteError
from suite.messages.logprobs import TokenLogprobs
from support.backend import FakeBackend
from support.drafts import Eager, KnowingDrafter
from support.generations import asked, drain
from support.models import smollm2, tiny_model
from support.recurrent import tiny_mamba

NEARLY_EQUAL = 0.75
"""In another batch a logit differs in its last digits: two tokens that are closer may change places."""
PROMPTS = tuple(
    f"{subject}, {subject}, {other}, {other}, {subject}, {subject},"
    for subject, other in zip(
        ("one two", "red blue", "a b c", "north south", "yes no maybe", "up down left", "x = 1; y = 2") * 8,
        ("three", "green", "d e", "east", "perhaps", "right", "z = 3;", "four") * 7,
        strict=False,
    )
)[:50]

# --- look-up ----------------------------------------------------------------------------------------------

texts = st.lists(st.integers(0, 3), max_size=60)


def agreement(tokens: Sequence[int], place: int) -> int:
    """How many tokens before a place are the last ones, by comparing them one by one."""
    agreed = 0
    while agreed < place and tokens[place - 1 - agreed] == tokens[-1 - agreed]:
        agreed += 1
    return min(agreed, LONGEST_MATCH)


@settings(max_examples=100, deadline=None)
@given(texts, texts)
def test_what_is_guessed_stands_after_the_last_tokens_earlier_in_the_text(
    prompt: list[int], answer: list[int]
) -> None:
    lookup, text = Lookup(prompt), list(prompt)
    for token in answer:
        guessed, agreed = lookup.draft(1), lookup.agreed
        found = lookup.append(token)
        assert found == (Guess(agreed, guessed == [token]) if guessed else None)
        text.append(token)
        places = range(SHORTEST_MATCH, len(text))
        longest = max((agreement(text, place) for place in places), default=0)
        draft = lookup.draft(6)
        if longest < SHORTEST_MATCH:
            assert draft == [] and not lookup.agreed
            continue
        assert SHORTEST_MATCH <= lookup.agreed <= longest and len(draft) == 6
        assert any(
            agreement(text, place) >= lookup.agreed and text[place : place + 6] == draft[: len(text) - place]
            for place in places
        )


def test_a_repetition_goes_on() -> None:
    lookup = Lookup([9, 1, 2, 3, 1, 2, 3])
    assert lookup.agreed == 3
    assert lookup.draft(7) == [1, 2, 3, 1, 2, 3, 1]


# --- the engine ---------------------------------------------------------------------------------------------


def test_right_guesses_save_steps_and_are_counted() -> None:
    backend = FakeBackend(slots=1, context=200, cache=200)
    drafter = KnowingDrafter(wrong_every=4)
    engine = Engine(
        backend, Slots(1), prompt_step_tokens=8, speculation=Speculation(backend, drafter, Eager())
    )
    each = asked([1, 2, 3, 4], max_tokens=30, seed=5)
    engine.submit(each.generation, each.heard)
    drain(engine)
    generation = each.generation
    assert generation.completion_tokens > 8 and 0 < generation.accepted_tokens < generation.drafted_tokens
    assert len(backend.batches) == generation.completion_tokens - generation.accepted_tokens + (
        generation.outcome == "stop"
    )


@pytest.mark.parametrize("reason", ["not asked for", "recurrent", "a prompt is read"])
def test_nothing_is_guessed_where_it_must_not_be(reason: str) -> None:
    backend = FakeBackend(slots=2, context=200, cache=200, can_share=reason != "recurrent")
    speculation = Speculation(backend, KnowingDrafter(wrong_every=4), Eager())
    engine = Engine(
        backend, Slots(2, can_share=backend.can_share), prompt_step_tokens=1, speculation=speculation
    )
    each = asked([1, 2, 3, 4], max_tokens=6, seed=5, speculates=reason != "not asked for")
    engine.submit(each.generation, each.heard)
    if reason == "a prompt is read":
        other = asked([4] * 90, max_tokens=1, seed=5)
        engine.step()
        engine.submit(other.generation, other.heard)
    drain(engine)
    assert each.generation.completion_tokens > 1 and not each.generation.drafted_tokens


# --- real models --------------------------------------------------------------------------------------------


@dataclass
class Said:
    """The tokens of an answer, with the likeliest ones at each."""

    tokens: list[TokenLogprobs] = field(default_factory=list)
    error: SuiteError | None = None

    def on_text(self, text: str, logprobs: TokenLogprobs | None = None, *, reasoning: str = "") -> None:
        assert text is not None and logprobs is not None and not reasoning
        self.tokens.append(logprobs)

    def on_end(self, error: SuiteError | None) -> None:
        self.error = error

    @property
    def ids(self) -> list[int]:
        return [each.id for each in self.tokens]


CONTEXT = ContextSettings(
    context_tokens=256,
    cache_tokens=1024,
    kv_cache="separate",
    batch_tokens=128,
    gpu_layers=0,
    threads=1,
    slots=4,
)


def load(path: Path) -> LlamaModel:
    return LlamaModel.load(str(path), CONTEXT, lambda _: None)


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[LlamaModel]:
    loaded = load(tiny_model(tmp_path / "model.gguf", added=["ours"]))
    yield loaded
    loaded.free()


def drafting(path: Path, main: LlamaModel, **options: object) -> LlamaModel:
    """A draft model of random weights."""
    made = tiny_model(path, **{"added": ["ours"], **options})  # type: ignore[arg-type]
    return load_draft(DraftSettings(path=str(made)), main)


def answers(
    model: LlamaModel,
    prompts: Sequence[str],
    drafter: Drafter | None,
    payoff: Payoff | None = None,
    *,
    tokens: int = 16,
) -> tuple[list[Said], int, int]:
    """What the model says, greedily; and how many tokens were guessed, and guessed rightly."""
    speculation = None if drafter is None else Speculation(model, drafter, payoff or Eager())
    slots = Slots(4)
    engine = Engine(model, slots, prompt_step_tokens=64, speculation=speculation)
    every = [Said() for _ in prompts]
    generations = []
    for prompt, said in zip(prompts, every, strict=True):
        order = EngineRequest(
            prompt=model.vocabulary.tokenize(prompt),
            max_tokens=tokens,
            stop=(),
            sampling=SamplingParams(temperature=0, logprobs=4),
            conversation_id=None,
        )
        generations.append(Generation(order, lambda: 0.0))
        engine.submit(generations[-1], said)
    drain(engine)
    assert all(model.length(slot.sequence) == len(slot.tokens) for slot in slots)
    for slot in slots:
        model.truncate(slot.sequence, 0)
    drafted = sum(each.drafted_tokens for each in generations)
    return every, drafted, sum(each.accepted_tokens for each in generations)


class Unsure(ModelDrafter):
    """One of three of its guesses is another token."""

    def draft(self, runs: Sequence[Run], counts: Sequence[int]) -> Sequence[Sequence[int]]:
        return [[*tokens[:2], *(token ^ 1 for token in tokens[2:])] for tokens in super().draft(runs, counts)]


def test_fifty_texts_are_the_same_with_guesses_that_are_right_and_wrong(
    tiny: LlamaModel, tmp_path: Path
) -> None:
    draft = drafting(tmp_path / "draft.gguf", tiny)
    without, none, _ = answers(tiny, PROMPTS, None)
    with_guesses, drafted, accepted = answers(tiny, PROMPTS, Unsure(draft, tiny))
    assert none == 0 < accepted < drafted
    assert_same(without, with_guesses)
    draft.free()


@pytest.mark.timeout(180)
def test_texts_of_a_real_model_are_the_same_with_guesses_from_the_text() -> None:
    """Token by token on x86, where the kernels of this file compute each row as if it were alone (ADR 74)."""
    model = load(smollm2())
    without, _, _ = answers(model, PROMPTS[::3], None, tokens=6)
    with_guesses, drafted, accepted = answers(model, PROMPTS[::3], LookupDrafter(), tokens=6)
    model.free()
    assert 0 < accepted < drafted
    assert_same(without, with_guesses)
    if platform.machine() in ("x86_64", "AMD64"):
        assert [said.ids for said in with_guesses] == [said.ids for said in without]


def assert_same(without: Sequence[Said], with_guesses: Sequence[Said]) -> None:
    """The same tokens, up to where two were almost equally likely."""
    for plain, guessed in zip(without, with_guesses, strict=True):
        assert len(plain.ids) == len(guessed.ids) or plain.ids != guessed.ids
        for one, other in zip(plain.tokens, guessed.tokens, strict=False):
            likely = {each.id: each.logprob for each in one.top_logprobs}
            assert other.id in likely
            assert likely[one.id] - likely[other.id] <= NEARLY_EQUAL
            if one.id != other.id:
                break


def test_a_draft_model_of_the_same_weights_is_right_and_one_of_others_is_not(
    tiny: LlamaModel, tmp_path: Path
) -> None:
    rates = []
    for seed in (0, 1):
        draft = drafting(tmp_path / f"{seed}.gguf", tiny, seed=seed)
        drafter = ModelDrafter(draft, tiny)
        _, drafted, accepted = answers(tiny, PROMPTS[:12], drafter)
        rates.append(accepted / drafted)
        drafter.clear()
        assert not any(draft.length(sequence) for sequence in range(4)), "nothing of them is kept"
        draft.free()
    assert rates[0] > 0.9 and rates[1] < 0.5


def test_a_draft_model_reads_a_long_prompt_in_pieces(tiny: LlamaModel, tmp_path: Path) -> None:
    draft = drafting(tmp_path / "draft.gguf", tiny)
    said, drafted, accepted = answers(tiny, ["word " * 30], ModelDrafter(draft, tiny))
    assert 0 < accepted <= drafted
    assert len(said[0].ids) - accepted > 4, "some tokens came meanwhile"
    draft.free()


class Measured(Eager):
    """Counts the steps with guesses whose time is learned."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = 0

    def learn(self, answers: int, drafts: int, seconds: float) -> None:
        super().learn(answers, drafts, seconds)
        self.steps += drafts > 0


class Watched(ModelDrafter):
    """Notes of each step whether it had guesses, and whether it took only what guesses take."""

    def __init__(self, model: LlamaModel, main: LlamaModel) -> None:
        super().__init__(model, main)
        self.steps: list[tuple[bool, bool]] = []

    def draft(self, runs: Sequence[Run], counts: Sequence[int]) -> Sequence[Sequence[int]]:
        drafts = super().draft(runs, counts)
        self.steps.append((any(drafts), self.caught_up))
        return drafts


def test_that_a_draft_model_reads_a_prompt_is_no_cost_of_its_guesses(
    tiny: LlamaModel, tmp_path: Path
) -> None:
    draft = drafting(tmp_path / "draft.gguf", tiny)
    drafter, payoff = Watched(draft, tiny), Measured()
    answers(tiny, ["Once upon a time"], drafter, payoff)
    draft.free()
    assert drafter.steps[0] == (True, False)
    assert payoff.steps == drafter.steps.count((True, True)) > 1


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (["theirs"], "token 364 is 'theirs', and 'ours'"),
        (["ours", *(f"more {number}" for number in range(200))], "tokens and the"),
    ],
)
def test_a_draft_model_of_another_vocabulary_is_refused(
    tiny: LlamaModel, tmp_path: Path, other: list[str], reason: str
) -> None:
    draft = drafting(tmp_path / "draft.gguf", tiny, added=other)
    with pytest.raises(DraftModelUnfit, match=reason):
        ModelDrafter(draft, tiny)
    draft.free()


def test_a_draft_model_that_is_none_is_refused(tiny: LlamaModel, tmp_path: Path) -> None:
    recurrent = load_draft(DraftSettings(path=str(tiny_mamba(tmp_path / "mamba.gguf"))), tiny)
    with pytest.raises(DraftModelUnfit, match="recurrence"):
        ModelDrafter(recurrent, tiny)
    recurrent.free()
    with pytest.raises(DraftModelUnfit, match="cannot be loaded"):
        load_draft(DraftSettings(path=str(tmp_path / "missing.gguf")), tiny)
