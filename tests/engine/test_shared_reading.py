"""Prompts that begin alike and are here at the same time are read once, and nobody waits longer for it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from suite.engine.engine import MIN_FOLLOWED_TOKENS, Engine
from suite.engine.slots import Slots
from support.backend import FakeBackend
from support.generations import Asked, Clock, alone, asked, code, drain

CONTEXT = 400
BEGINNING = [1 + place % 7 for place in range(100)]


def engine_of(
    *,
    slots: int = 8,
    cache: int = 4000,
    batch: int = 32,
    can_share: bool = True,
    window: bool = False,
    clock: Clock | None = None,
    max_step_seconds: float = math.inf,
) -> tuple[Engine, FakeBackend]:
    backend = FakeBackend(
        slots=slots, context=CONTEXT, cache=cache, batch=batch, can_share=can_share, window=window
    )
    engine = Engine(
        backend,
        Slots(slots, can_share=can_share),
        prompt_step_tokens=8,
        max_step_seconds=max_step_seconds,
        clock=clock or Clock(),
    )
    return engine, backend


def submit(engine: Engine, *every: Asked) -> None:
    for each in every:
        engine.submit(each.generation, each.heard)


def agent(number: int, *, max_tokens: int = 3, priority: int = 0, reuse: bool = True) -> Asked:
    return asked([*BEGINNING, 20 + number], max_tokens=max_tokens, seed=5, priority=priority, reuse=reuse)


def assert_right(*every: Asked) -> None:
    for each in every:
        request = each.generation.request
        answer, outcome = alone(request.prompt, request.max_tokens, request.sampling.seed, CONTEXT)
        assert each.heard.error is None
        assert (each.heard.tokens, each.generation.outcome) == (answer, outcome)


def read(every: Sequence[Asked]) -> int:
    """Tokens of prompts that were not reused."""
    return sum(each.generation.prompt_tokens - each.generation.reused_tokens for each in every)


def test_what_begins_alike_is_read_once() -> None:
    engine, _ = engine_of()
    agents = [agent(number) for number in range(8)]
    submit(engine, *agents)
    drain(engine)
    assert_right(*agents)
    assert [each.generation.reused_tokens for each in agents] == [0, *[100] * 7]
    assert read(agents) == 108


def test_what_comes_while_it_is_read_goes_on_from_there() -> None:
    engine, backend = engine_of()
    first, second = agent(0), agent(1)
    submit(engine, first)
    engine.step()
    submit(engine, second)
    engine.step()
    assert len(backend.batches[-1]) == 1
    drain(engine)
    assert_right(first, second)
    assert second.generation.reused_tokens == 100


def test_what_shares_nothing_is_not_held_up() -> None:
    engine, backend = engine_of(slots=3, batch=128)
    other = asked([9] * 20, max_tokens=3, seed=5)
    submit(engine, agent(0), agent(1), other)
    engine.step()
    assert [len(entry.tokens) for entry in backend.batches[-1]] == [101]
    engine.step()
    assert sorted(len(entry.tokens) for entry in backend.batches[-1]) == [1, 1, 15]
    assert other.generation.started_at is not None
    drain(engine)
    assert_right(other)


def test_the_slot_of_who_follows_is_kept_for_it() -> None:
    engine, _ = engine_of(slots=2)
    leader, follower = agent(0), agent(1)
    late = asked([9] * 20, max_tokens=3, seed=5, priority=100)
    submit(engine, leader, follower)
    engine.step()
    submit(engine, late)
    while follower.generation.started_at is None:
        engine.step()
        assert late.generation.started_at is None or leader.heard.ends
    drain(engine)
    assert_right(leader, follower, late)


def test_who_shares_more_with_a_follower_follows_that_one_next() -> None:
    engine, _ = engine_of()
    whole = [*BEGINNING, *[8] * 60]
    leader, second, third = agent(0), asked([*whole, 21], max_tokens=3), asked([*whole, 22], max_tokens=3)
    submit(engine, leader, second, third)
    drain(engine)
    assert_right(leader, second, third)
    assert [each.generation.reused_tokens for each in (leader, second, third)] == [0, 100, 160]


def test_too_little_in_common_is_read_again() -> None:
    engine, _ = engine_of()
    short = BEGINNING[: MIN_FOLLOWED_TOKENS - 1]
    every = [asked([*short, 30 + number], max_tokens=3) for number in range(2)]
    submit(engine, *every)
    engine.step()
    assert all(each.generation.started_at is not None for each in every)
    assert read(every) == 2 * MIN_FOLLOWED_TOKENS


def test_a_model_that_cannot_copy_a_prefix_reads_all_at_once() -> None:
    engine, _ = engine_of(can_share=False)
    agents = [agent(number) for number in range(3)]
    submit(engine, *agents)
    engine.step()
    assert all(each.generation.started_at is not None for each in agents)
    drain(engine)
    assert_right(*agents)


def test_who_wants_no_reuse_does_not_wait_but_others_may_go_on_from_it() -> None:
    engine, _ = engine_of()
    first, second = agent(0), agent(1, reuse=False)
    submit(engine, first, second)
    engine.step()
    assert second.generation.started_at is not None
    drain(engine)
    assert second.generation.reused_tokens == 0
    engine, _ = engine_of()
    first, second = agent(0, reuse=False), agent(1)
    submit(engine, first, second)
    drain(engine)
    assert second.generation.reused_tokens == 100


def test_a_follower_can_be_cancelled_and_has_its_deadline() -> None:
    clock = Clock()
    engine, _ = engine_of(clock=clock)
    leader, cancelled = agent(0), agent(1)
    late = asked([*BEGINNING, 22], deadline=5.0, clock=clock)
    submit(engine, leader, cancelled, late)
    engine.step()
    cancelled.generation.cancel("cancelled")
    clock.now = 5.0
    engine.step()
    assert (cancelled.generation.outcome, late.generation.outcome) == ("cancelled", "deadline")
    assert cancelled.generation.started_at is late.generation.started_at is None
    drain(engine)
    assert_right(leader)


@pytest.mark.parametrize("end", ["cancelled", "failed", "cleared"])
def test_when_the_leader_ends_others_go_on_without_it(end: str) -> None:
    engine, backend = engine_of()
    leader, second, third = (agent(number) for number in range(3))
    submit(engine, leader, second, third)
    engine.step()
    if end == "cancelled":
        leader.generation.cancel("cancelled")
    elif end == "failed":
        backend.failing = True
        engine.step()
        assert code(leader) == "generation_failed"
    else:
        engine.clear(None)
    drain(engine)
    assert_right(second, third)
    # What the leader had read when it was cancelled lies in its slot and is reused.
    assert second.generation.reused_tokens == (32 if end == "cancelled" else 0)
    assert third.generation.reused_tokens == 100


def test_when_the_leader_makes_way_its_followers_still_end() -> None:
    engine, _ = engine_of(slots=3, cache=130)
    oldest = asked([9] * 20, max_tokens=40, seed=7)
    submit(engine, oldest)
    engine.step()
    leader, follower = agent(0), agent(1)
    submit(engine, leader, follower)
    drain(engine)
    assert_right(oldest, leader, follower)


def test_a_leader_goes_as_early_as_its_best_follower() -> None:
    engine, backend = engine_of(batch=16)
    leader, other, urgent = agent(0, priority=-2), asked([9] * 60, max_tokens=3), agent(1, priority=3)
    submit(engine, leader, other)
    engine.step()
    assert [entry.tokens[0] for entry in backend.batches[-1]] == [9]
    submit(engine, urgent)
    while urgent.generation.first_token_at is None:
        engine.step()
        assert [entry.tokens[0] for entry in backend.batches[-1]] != [9]
    assert other.generation.first_token_at is None
    assert leader.generation.first_token_at is None, "it reads no further than it must before the other"
    drain(engine)
    assert_right(leader, other, urgent)


def test_a_turn_that_waits_for_the_one_before_it_holds_up_nobody() -> None:
    clock = Clock()
    engine, _ = engine_of(clock=clock, max_step_seconds=0.1)
    running = asked([9] * 20, max_tokens=60, seed=7, conversation="x")
    submit(engine, running)
    while running.generation.first_token_at is None:
        engine.step()
    waiting = asked([8], max_tokens=3, conversation="x", continues=True)
    strangers = [asked([number] * 5, max_tokens=3) for number in (5, 6)]
    submit(engine, waiting, *strangers)
    for stranger in strangers:  # one a step, as others use most of the time between two steps
        clock.now += 0.06
        engine.step()
        assert stranger.generation.started_at is not None
    assert strangers[1].heard.ends == 0 and waiting.generation.started_at is None
    drain(engine)
    assert_right(running, *strangers)


def test_nobody_waits_for_what_is_read_already_nor_misses_it_for_more_that_cannot_be_cut_back() -> None:
    """Where a window slides, a longer beginning in a slot may be of no use, and a shorter one be lent."""
    engine, backend = engine_of(window=True)
    before = asked([*BEGINNING[:60], *[8] * 20], max_tokens=3, conversation="before")
    submit(engine, before)
    drain(engine)
    backend.restored[0] = backend.length(0)  # as after a snapshot
    leader = asked([*BEGINNING[:50], *[7] * 300], max_tokens=3)
    submit(engine, leader)
    engine.step()
    engine.step()
    follower = asked([*BEGINNING[:60], 9, 9], max_tokens=3)
    submit(engine, follower)
    engine.step()
    assert follower.generation.started_at is not None
    assert leader.generation.first_token_at is None
    drain(engine)
    assert_right(before, leader, follower)
    assert follower.generation.reused_tokens == 50


@pytest.mark.parametrize("together", [True, False])
def test_a_conversation_goes_on_from_its_newest_turn_though_an_earlier_one_could_follow(
    together: bool,
) -> None:
    engine, _ = engine_of(slots=3, batch=16)
    leader = asked([*BEGINNING, 20], max_tokens=3)
    earlier = asked([*BEGINNING, 21], max_tokens=3, conversation="x")
    newer = asked([9, 9], max_tokens=1, conversation="x")
    submit(engine, leader, earlier)
    if not together:
        engine.step()
    submit(engine, newer)
    drain(engine)
    goes_on = asked([8], max_tokens=3, conversation="x", continues=True)
    submit(engine, goes_on)
    drain(engine)
    assert_right(leader, earlier, newer)
    whole = [9, 9, *newer.heard.tokens, 8]
    assert goes_on.heard.tokens == alone(whole, 3, 1, CONTEXT)[0]


# --- properties -------------------------------------------------------------------------------------------


@dataclass
class Arrival:
    step: int
    beginning: int
    length: int
    priority: int
    conversation: str | None
    reuse: bool
    cancelled_after: int | None

    def asked(self, number: int, *, max_tokens: int = 4) -> Asked:
        shared = BEGINNING[: self.length] if self.beginning == 0 else [8, *BEGINNING[: self.length]]
        return asked(
            [*shared, 20 + number, 21],
            max_tokens=max_tokens,
            seed=number % 3,
            priority=self.priority,
            conversation=self.conversation,
            reuse=self.reuse,
        )


arrivals = st.lists(
    st.builds(
        Arrival,
        step=st.integers(0, 12),
        beginning=st.integers(0, 1),
        length=st.integers(0, 100),
        priority=st.integers(-1, 1),
        conversation=st.sampled_from([None, None, "a", "b"]),
        reuse=st.sampled_from([True, True, True, False]),
        cancelled_after=st.one_of(st.none(), st.none(), st.integers(0, 20)),
    ),
    min_size=1,
    max_size=10,
)


@settings(max_examples=100, deadline=None)
@given(
    arrivals,
    st.integers(1, 6),
    st.integers(130, 700),
    st.integers(8, 64),
    st.booleans(),
    st.sets(st.integers(0, 30), max_size=2),
)
def test_each_gets_its_own_answer_however_reading_is_shared(
    plan: list[Arrival], slots: int, cache: int, batch: int, window: bool, failures: set[int]
) -> None:
    engine, backend = engine_of(slots=slots, cache=cache, batch=batch, window=window)
    every = [arrival.asked(number) for number, arrival in enumerate(plan)]
    number = 0
    while number < 40 or engine.busy:
        assert number < 5000, "it does not come to an end"
        for arrival, each in zip(plan, every, strict=True):
            if arrival.step == number:
                submit(engine, each)
            if arrival.cancelled_after is not None and number == arrival.step + arrival.cancelled_after:
                each.generation.cancel("cancelled")
        backend.failing = number in failures
        engine.step()
        number += 1
    for arrival, each in zip(plan, every, strict=True):
        assert each.heard.ends == 1
        if each.heard.error is not None:
            assert failures
        elif each.generation.outcome == "cancelled":
            assert arrival.cancelled_after is not None
        else:
            assert_right(each)
    assert backend.open_samplers == 0


@settings(max_examples=100, deadline=None)
@given(arrivals, st.integers(0, 12), st.integers(8, 64))
def test_nobody_waits_longer_because_others_share(plan: list[Arrival], before: int, batch: int) -> None:
    """Against the same without following, in decoded tokens: neither those that come together, nor an
    urgent one after some steps, but for the steps that its own beginning and end are rounded to."""

    def waits() -> list[tuple[int, int]]:
        engine, backend = engine_of(slots=11, batch=batch)
        every = [arrival.asked(number, max_tokens=1) for number, arrival in enumerate(plan)]
        submit(engine, *every)
        for _ in range(before):
            engine.step()
        came, urgent = backend.decoded, agent(0, max_tokens=1, priority=5)
        submit(engine, urgent)
        first = _first_tokens(engine, backend, [*every, urgent])
        reused = [each.generation.reused_tokens for each in (*every, urgent)]
        return [*zip([] if before else first[:-1], reused, strict=False), (first[-1] - came, reused[-1])]

    together = waits()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("suite.engine.engine.MIN_FOLLOWED_TOKENS", CONTEXT)  # nobody follows
        apart = waits()
    for (wait, reused), (least, found) in zip(together, apart, strict=True):
        # What lies in slots by chance, of those that have ended, is not the same in both.
        assert wait <= least + 2 * batch + max(0, found - reused)


def _first_tokens(engine: Engine, backend: FakeBackend, every: Sequence[Asked]) -> list[int]:
    """How many tokens had been decoded when each one had its first."""
    first: dict[int, int] = {}
    while engine.busy:
        engine.step()
        for place, each in enumerate(every):
            if each.generation.first_token_at is not None:
                first.setdefault(place, backend.decoded)
    return [first.get(place, 0) for place in range(len(every))]
