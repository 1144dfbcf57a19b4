"""Whether guesses pay: the decider beside machines whose steps take a known time, and texts that repeat."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from suite.engine.lookup import LONGEST_MATCH, SHORTEST_MATCH
from suite.engine.payoff import FIRST_PATIENCE, LENGTHS, Guess, Outlook, Payoff

# --- machines and texts -------------------------------------------------------------------------------------


class Machine(NamedTuple):
    """How long a step takes, in milliseconds."""

    part: float
    """What each part of a batch takes: where each answer has a KV stream of its own, those with more tokens
    than others have are decoded once more (ADR 35)."""
    row: float
    """What each token takes besides."""

    def milliseconds(self, drafts: Sequence[int]) -> float:
        """A step, by how many tokens are guessed of each answer."""
        return self.part * len(set(drafts)) + self.row * (len(drafts) + sum(drafts))


CPU = Machine(part=4.9, row=4.7)
"""About what two cores take for SmolLM2: 107 tokens/s for one answer, 164 for four, 187 for eight."""
GPU = Machine(part=10.0, row=0.05)


class Text:
    """An answer with passages that repeat something, in which nearly all is guessed, and others."""

    def __init__(self, dice: random.Random, *, repeats: float, right: float) -> None:
        """`repeats` is the share of passages that repeat; elsewhere one of three tokens is guessed, and these
        are `right` with that probability."""
        self._dice = dice
        self._repeats, self._right = repeats, right
        self._is_repeating = False
        self._agreed = 0

    @property
    def outlook(self) -> Outlook:
        return Outlook(LENGTHS[-1] if self._agreed else 0, self._agreed)

    def go_on(self, drafts: int, payoff: Payoff) -> int:
        """Make a step with so many guesses; how many tokens it gives."""
        for tokens in range(1, drafts + 1):
            if not self._token(payoff):
                return tokens
        self._token(payoff)
        return drafts + 1

    def _token(self, payoff: Payoff) -> bool:
        """Go on by a token; whether it was guessed."""
        is_right = bool(self._agreed) and self._dice.random() < (0.97 if self._is_repeating else self._right)
        if self._agreed:
            payoff.acceptance.learn(Guess(self._agreed, is_right))
        if self._dice.random() < 0.03:
            self._is_repeating = self._dice.random() < self._repeats
        if is_right:
            self._agreed = min(self._agreed + 1, LONGEST_MATCH)
        else:
            is_found = self._is_repeating or self._dice.random() < 1 / 3
            self._agreed = SHORTEST_MATCH if is_found else 0
        return is_right


def speed(
    payoff: Payoff,
    machine: Machine,
    texts: Sequence[Text],
    *,
    steps: int,
    dice: random.Random | None = None,
    fixed: int | None = None,
) -> float:
    """How many times as fast these answers are as without guesses.

    Steps take up to a fifth more or less than the machine says, if there are `dice`. With `fixed`, so many
    tokens are guessed wherever there are any, whatever the decider thinks.
    """
    tokens, seconds = 0, 0.0
    for _ in range(steps):
        outlooks = [text.outlook for text in texts]
        length = payoff.length(outlooks, 512 - len(texts)) if fixed is None else fixed
        drafts = [min(each.available, length) for each in outlooks]
        step = machine.milliseconds(drafts) / 1000 * (dice.uniform(0.8, 1.2) if dice else 1.0)
        tokens += sum(text.go_on(count, payoff) for text, count in zip(texts, drafts, strict=True))
        payoff.learn(len(texts), sum(drafts), step)
        seconds += step
    return tokens / seconds * machine.milliseconds([0] * len(texts)) / 1000 / len(texts)


# --- whether it pays ----------------------------------------------------------------------------------------


@settings(max_examples=20, derandomize=True)
@given(st.integers(1, 8), st.floats(0, 0.3), st.floats(1, 10), st.floats(2, 6), st.integers(0, 2**32))
def test_where_nothing_is_guessed_well_the_trials_take_less_than_a_fiftieth(
    answers: int, right: float, part: float, row: float, seed: int
) -> None:
    dice, machine = random.Random(seed), Machine(part, row)
    texts = [Text(dice, repeats=0, right=right) for _ in range(answers)]
    payoff = Payoff(max_step_seconds=0.15)
    assert speed(payoff, machine, texts, steps=1000, dice=dice) > 0.98


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("repeats", [0.1, 0.4])
def test_eight_stories_on_two_cores_are_not_slower_with_guesses(repeats: float, seed: int) -> None:
    """Some of them repeat themselves, but a step for all takes too long for it."""
    dice = random.Random(seed)
    payoff = Payoff(max_step_seconds=0.15)
    for _ in range(20):  # requests, one after the other
        texts = [Text(dice, repeats=repeats, right=0.2) for _ in range(8)]
        for answers in (8, 7, 5, 2):  # they end one after the other
            speed(payoff, CPU, texts[:answers], steps=30, dice=dice)
    texts = [Text(dice, repeats=repeats, right=0.2) for _ in range(8)]
    assert speed(payoff, CPU, texts, steps=1000, dice=dice) > 0.98


@pytest.mark.parametrize("machine", [CPU, GPU])
@pytest.mark.parametrize("answers", [1, 2])
def test_what_is_to_be_gained_is_gained(machine: Machine, answers: int) -> None:
    dice = random.Random(1)

    def texts() -> Sequence[Text]:
        return [Text(dice, repeats=0.8, right=0.3) for _ in range(answers)]

    best = max(speed(Payoff(), machine, texts(), steps=2000, fixed=length) for length in (0, *LENGTHS))
    assert best > 1.03
    assert speed(Payoff(), machine, texts(), steps=2000, dice=dice) > 0.9 * best


@settings(max_examples=12, derandomize=True)
@given(
    st.floats(0, 1),
    st.floats(0, 1.2),
    st.integers(1, 4),
    st.integers(0, 2**32),
)
def test_it_is_never_much_slower_and_is_faster_where_that_is_to_be_had(
    likely: float, cost: float, answers: int, seed: int
) -> None:
    """A draft is right with a probability, and adds a part of an answer's time to a step."""
    dice, payoff = random.Random(seed), Payoff()
    agreed, tokens, seconds = [0] * answers, 0, 0.0
    for _ in range(500):
        length = payoff.length([Outlook(LENGTHS[-1], each) for each in agreed], 200)
        for number in range(answers):
            tokens += 1
            for _ in range(length):
                is_right = dice.random() < likely
                payoff.acceptance.learn(Guess(agreed[number], is_right))
                agreed[number] = agreed[number] + 1 if is_right else 0
                if not is_right:
                    break
                tokens += 1
        step = 0.01 * answers * (1 + cost * length)
        payoff.learn(answers, answers * length, step)
        seconds += step
    speed = tokens / seconds * 0.01
    best = max(
        sum(likely**index for index in range(length + 1)) / (1 + cost * length) for length in (0, *LENGTHS)
    )
    assert speed >= 0.85
    assert speed >= 0.7 * best


def test_a_trial_lasts_until_it_is_measured_or_given_up() -> None:
    """A draft model may read a prompt first, and what such a step takes is not learned."""
    payoff = Payoff()
    payoff.learn(1, 0, 0.01)
    for length in LENGTHS:
        payoff.learn(1, length, 0.01 * (1 + 5 * length))

    def lengths(steps: int) -> Sequence[int]:
        return [payoff.length([Outlook(15, 0)], 200) for _ in range(steps)]

    assert not any(lengths(FIRST_PATIENCE - 1))
    assert lengths(3) == [1, 1, 1]
    payoff.learn(1, 1, 0.01 * 6)
    assert not any(lengths(2 * FIRST_PATIENCE * 6 - 1)), "it took as long as six steps"
    assert lengths(32) == [3] * 32, "none was measured"
    assert not any(lengths(4 * FIRST_PATIENCE * 32))


def test_one_token_is_guessed_first_and_then_not_far_more_than_was_measured() -> None:
    payoff = Payoff()
    for agreed in range(40):
        payoff.acceptance.learn(Guess(agreed, True))
    payoff.learn(8, 0, 0.04)
    assert payoff.length([Outlook(15, 8)] * 8, 200) == 1
    payoff.learn(8, 1, 0.04)
    assert payoff.length([Outlook(15, 8)] * 8, 200) == 1, "one for nothing does not make 120 free"
    payoff.learn(8, 8, 0.05)
    assert payoff.length([Outlook(15, 8)] * 8, 200) == 3


def test_what_guesses_take_beside_one_answer_they_take_beside_eight() -> None:
    payoff = Payoff()
    for agreed in range(40):
        payoff.acceptance.learn(Guess(agreed, True))
    payoff.learn(1, 0, 0.01)
    payoff.learn(8, 0, 0.04)
    for length in LENGTHS:
        payoff.learn(1, length, 0.01 * (1 + length))
    assert payoff.length([Outlook(15, 8)] * 8, 200) == 0, "eight tokens more take 80 ms"
    for _ in range(4):
        payoff.learn(8, 8, 0.042)
    assert payoff.length([Outlook(15, 8)] * 8, 200) > 0, "they do not"


def test_it_is_noticed_that_a_step_without_guesses_has_become_faster() -> None:
    """With more threads, say, while a draft model always has guesses: they only seem to cost less."""

    def speed_of(seconds: float, steps: int) -> float:
        tokens, took = 0, 0.0
        for _ in range(steps):
            length = payoff.length([Outlook(15, 0)], 200)
            payoff.learn(1, length, seconds * (1 + 0.5 * length))
            took += 1 + 0.5 * length
            right = next((index for index in range(length) if dice.random() > 0.7), length)
            tokens += right + 1
            for index in range(min(right + 1, length)):
                payoff.acceptance.learn(Guess(0, index < right))
        return tokens / took

    dice, payoff = random.Random(1), Payoff()
    assert speed_of(0.03, 500) > 1.05
    speed_of(0.01, 3000)
    assert speed_of(0.01, 1000) > 1.05


def test_others_are_not_slowed_for_one() -> None:
    """What one answer gains is weighed against what each of the others loses."""
    payoff = Payoff()
    for agreed in (*range(40), *range(40)):
        payoff.acceptance.learn(Guess(agreed, True))
    guessed, others = Outlook(15, 8), [Outlook(0, 0)] * 7
    for answers in (1, 8):
        payoff.learn(answers, 0, 0.01)
        for length in LENGTHS:
            for _ in range(20):
                payoff.learn(answers, length, 0.01 * (1 + 0.2 * length))
    assert payoff.length([guessed], 200) > 1
    assert payoff.length([guessed, *others], 200) == 0


@given(st.lists(st.builds(Outlook, st.integers(0, 15), st.integers(0, 40)), min_size=1), st.integers(-5, 64))
def test_there_are_no_more_drafts_than_a_batch_has_room_for(outlooks: list[Outlook], most: int) -> None:
    payoff = Payoff()
    payoff.learn(len(outlooks), 0, 0.01)
    length = payoff.length(outlooks, most)
    assert length in (0, *LENGTHS)
    assert sum(min(each.available, length) for each in outlooks) <= max(0, most)
