"""Which models leave first, by each policy, and whom the default follows."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from suite.domain.footprint import Footprint
from suite.prediction import recent
from suite.prediction.eviction.best_lately import BestLately
from suite.prediction.eviction.frequency import DecayedFrequency
from suite.prediction.eviction.greedy_dual import GreedyDual
from suite.prediction.eviction.guarded import Guarded, Watch
from suite.prediction.eviction.policy import Candidate, Evicted, EvictionPolicy, Fact, Loaded, Used
from suite.prediction.eviction.recency import LeastRecentlyUsed
from suite.prediction.eviction.relaxed_belady import RelaxedBelady
from suite.prediction.replay.history import History
from suite.prediction.replay.node import VirtualNode
from support.histories import SIZE, history_of, made_up

POLICIES = (LeastRecentlyUsed, DecayedFrequency, GreedyDual, RelaxedBelady, lambda: BestLately(Footprint(3)))
MODELS = ("a", "b", "c", "d")


def candidate(model_id: str, *, bytes_: int = 1, seconds: float = 1.0) -> Candidate:
    return Candidate(model_id=model_id, bytes=bytes_, reload_seconds=seconds)


def used(policy: EvictionPolicy, uses: str, *, every: float = 1.0) -> float:
    """Have models of one letter used one after the other. Returns the time after that."""
    for number, model_id in enumerate(uses):
        policy.fold(Used(at=number * every, model_id=model_id))
    return len(uses) * every


def order(policy: EvictionPolicy, *candidates: Candidate, now: float) -> str:
    """Who leaves first, then next."""
    leaving = sorted(candidates, key=lambda each: policy.worth(each, now=now))
    return "".join(each.model_id for each in leaving)


def test_the_least_recently_used_leaves_first_however_often_it_was_used() -> None:
    policy = LeastRecentlyUsed()
    now = used(policy, "aaaabc")
    assert order(policy, *map(candidate, "cba"), now=now) == "abc"


def test_by_decayed_frequency_a_use_of_an_hour_ago_counts_half() -> None:
    policy = DecayedFrequency()
    used(policy, "aaa")
    policy.fold(Used(at=3 * 3600.0, model_id="b"))
    assert order(policy, *map(candidate, "ab"), now=3 * 3600.0) == "ab"
    assert order(policy, candidate("a", seconds=9.0), candidate("b"), now=3 * 3600.0) == "ba"


def test_greedy_dual_remembers_uses_beyond_an_eviction_and_forgets_them_in_step_with_evictions() -> None:
    policy = GreedyDual()
    now = used(policy, "aaab")
    assert order(policy, *map(candidate, "ab"), now=now) == "ba"
    policy.fold(Evicted(at=now, candidate=candidate("a")))  # the clock is at 3 from now on
    policy.fold(Used(at=now, model_id="b"))
    assert order(policy, *map(candidate, "ab"), now=now) == "ab"
    policy.fold(Used(at=now, model_id="a"))
    assert order(policy, *map(candidate, "ab"), now=now) == "ba"


@pytest.mark.parametrize("make", [DecayedFrequency, GreedyDual, RelaxedBelady])
def test_of_models_that_are_used_alike_the_large_one_that_loads_fast_leaves_first(
    make: type[DecayedFrequency | GreedyDual | RelaxedBelady],
) -> None:
    policy = make()
    now = used(policy, "abc" * 100)
    slow, large, small = candidate("a", seconds=60.0), candidate("b", bytes_=60), candidate("c")
    assert order(policy, slow, large, small, now=now) == "bca"


@pytest.mark.parametrize("make", POLICIES[:-1])
def test_ids_that_clients_make_up_are_forgotten_before_what_is_used(
    make: Callable[[], EvictionPolicy], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recent, "MOST_MODELS", 10)
    policy = make()
    now = used(policy, "".join(f"{chr(1000 + number)}m" for number in range(30)))
    assert policy.worth(candidate(chr(1000)), now=now) == 0.0
    assert policy.worth(candidate(chr(1029)), now=now) > 0.0
    assert policy.worth(candidate("m"), now=now) > 0.0


def test_what_is_learned_keeps_models_in_steady_use_from_leaving_for_such_as_are_used_once() -> None:
    policy = RelaxedBelady()
    now = used(policy, "".join(f"ab{chr(1000 + number)}" for number in range(1500)))
    last = chr(2499)
    assert order(policy, candidate("a"), candidate(last), candidate("b"), now=now)[0] == last
    assert policy.chance("a", now=now) > 0.8
    assert policy.chance(last, now=now) < 0.5


def cold_starts(policy: EvictionPolicy, history: History, room: int) -> int:
    return VirtualNode(history, policy, limit_bytes=room * SIZE, instant=True).run(policy.name).cold_starts


@pytest.mark.parametrize("room", [2, 4, 8])
def test_the_default_is_about_as_good_as_the_best_of_those_that_it_can_follow(room: int) -> None:
    history = history_of(made_up(3_000))
    best = min(cold_starts(make(), history, room) for make in POLICIES[:-1])
    assert cold_starts(BestLately(Footprint(room * SIZE)), history, room) <= 1.03 * best


def test_the_default_follows_whoever_does_better_and_changes_when_that_does() -> None:
    frequent, recent = DecayedFrequency(half_life_seconds=1e9), LeastRecentlyUsed()
    policy = BestLately(Footprint(2), (recent, frequent))
    pairs = ("ef", "gh", "ij", "kl", "mn", "op", "qr", "st", "uv", "wx")
    for model_id in "".join(("abcd", *pairs)):
        policy.fold(Loaded(at=0.0, candidate=candidate(model_id)))
    used(policy, "acadbcad" * 50)  # a is worth keeping all the time
    assert policy.followed == frequent.name
    used(policy, "".join(pair * 20 for pair in pairs))  # what was used long ago is not used any more
    assert policy.followed == recent.name


@pytest.mark.parametrize("make", POLICIES)
@given(
    uses=st.lists(st.tuples(st.sampled_from(MODELS), st.floats(-1e9, 1e9)), max_size=80),
    now=st.floats(-1e9, 1e9),
)
@settings(max_examples=20, deadline=None)
def test_the_same_facts_give_the_same_order_even_if_the_clock_jumps(
    make: Callable[[], EvictionPolicy], uses: list[tuple[str, float]], now: float
) -> None:
    worths = []
    for policy in (make(), make()):
        for model_id, at in uses:
            policy.fold(Loaded(at=at, candidate=candidate(model_id)))
            policy.fold(Used(at=at, model_id=model_id))
        worths.append([policy.worth(candidate(each), now=now) for each in MODELS])
    assert worths[0] == worths[1]
    assert all(map(math.isfinite, worths[0]))


class Raises(LeastRecentlyUsed):
    """Fails at its third fact."""

    facts = 0

    def fold(self, fact: Fact) -> None:
        del fact
        self.facts += 1
        if self.facts == 3:
            raise ZeroDivisionError("oh")


class Loops(LeastRecentlyUsed):
    """Never answers."""

    def worth(self, candidate: Candidate, *, now: float) -> float:
        del candidate
        while True:
            try:
                now += 1.0
            except Exception:
                continue


class Nonsense(LeastRecentlyUsed):
    """Answers what is no number."""

    def worth(self, candidate: Candidate, *, now: float) -> float:
        del candidate, now
        return math.nan


class Leaves(LeastRecentlyUsed):
    """Wants to end the program."""

    def worth(self, candidate: Candidate, *, now: float) -> float:
        del candidate, now
        raise SystemExit(3)


class Interrupts(LeastRecentlyUsed):
    """Raises what is no Exception."""

    def fold(self, fact: Fact) -> None:
        del fact
        raise KeyboardInterrupt


class Unspeakable(LeastRecentlyUsed):
    """Raises an error that cannot be told."""

    def worth(self, candidate: Candidate, *, now: float) -> float:
        del candidate, now
        raise NoText


class NoText(Exception):
    """Raises where it should say what it is."""

    def __str__(self) -> str:
        raise ValueError


@pytest.mark.parametrize(
    ("own", "problem"),
    [
        (Raises(), "fold raised ZeroDivisionError: oh, at fact 3: lru went on from there"),
        (Loops(), "worth did not end, at fact 4: lru went on from there"),
        (Nonsense(), "worth answered nan, which is no number, at fact 4: lru went on from there"),
        (Leaves(), "worth raised SystemExit: 3, at fact 4: lru went on from there"),
        (Interrupts(), "fold raised KeyboardInterrupt, at fact 1: lru went on from there"),
        (
            Unspeakable(),
            "worth raised NoText: what it says cannot be read, at fact 4: lru went on from there",
        ),
    ],
)
def test_where_a_policy_of_ones_own_fails_it_is_named_and_the_default_goes_on(
    own: EvictionPolicy, problem: str
) -> None:
    watch = Watch(0.05)
    policy = Guarded(own, LeastRecentlyUsed(), watch, name="mine:Own")
    with watch.armed():
        now = used(policy, "abca")
        assert order(policy, *map(candidate, "abc"), now=now) == "bca"
    assert policy.failure == problem
