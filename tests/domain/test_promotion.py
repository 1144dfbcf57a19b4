"""Evaluations let a version be promoted when they show, uncertainty counted, that it meets its gates."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import chain, repeat

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from suite.domain import aliases
from suite.domain.aliases import Alias, Promotion, Target
from suite.domain.promotion import (
    MOST_WAIT_SECONDS,
    Canary,
    End,
    Outlook,
    Sample,
    Step,
    check,
    estimate,
    findings,
    needed_evaluations,
    next_step,
    verdict,
)
from suite.errors import GatesContradict
from suite.messages.events import AliasEvent
from suite.messages.promotion import Gates, LatencyGate, ScoreGate, Verdict

SCORES = st.floats(0, 1)
ACCURATE = Gates(evaluations=5, accuracy=ScoreGate(at_least=0.8))
AS_GOOD = Gates(evaluations=5, accuracy=ScoreGate(not_worse_by=0.05))
TRUSTED = ScoreGate(at_least=0.5)
FAST = Gates(evaluations=5, latency=LatencyGate(at_most_ms=100, not_worse_by_ms=10))


def samples(*accuracies: float) -> list[Sample]:
    return [Sample(trust=each, accuracy=each) for each in accuracies]


def timed(*latencies: float) -> list[Sample]:
    return [Sample(trust=0.5, latency_ms=each) for each in latencies]


def decided(
    gates: Gates, new: Sequence[Sample], old: Sequence[Sample] = (), canary: Canary | None = None
) -> Verdict:
    return verdict(findings(gates, new, old, canary))


@pytest.mark.parametrize(
    ("freedom", "confidence", "quantile"),
    # from a printed table of Student's t
    [(1, 0.95, 6.314), (2, 0.975, 4.303), (4, 0.99, 3.747), (9, 0.95, 1.833), (29, 0.95, 1.699)],
)
def test_the_bounds_are_those_of_students_t(freedom: int, confidence: float, quantile: float) -> None:
    values = [float(number % 2) for number in range(freedom + 1)]
    found = estimate(values, confidence)
    assert found is not None
    assert found.high is not None
    mean = sum(values) / len(values)
    error = (sum((each - mean) ** 2 for each in values) / freedom / len(values)) ** 0.5
    assert (found.high - found.mean) / error == pytest.approx(quantile, abs=1e-3)


def test_fewer_evaluations_than_asked_for_decide_nothing() -> None:
    assert decided(ACCURATE, samples(*[1.0] * 4)) == "open"
    assert decided(ACCURATE, samples(*[0.0] * 4)) == "open"
    assert decided(ACCURATE, samples(*[1.0] * 5)) == "met"
    assert decided(ACCURATE, samples(*[0.0] * 5)) == "missed"


def test_a_mean_over_the_bound_is_not_enough_while_it_may_be_chance() -> None:
    assert decided(ACCURATE, samples(0.6, 1.0, 0.7, 1.0, 0.9)) == "open"
    assert (
        decided(
            Gates(evaluations=5, confidence=0.5, accuracy=ACCURATE.accuracy), samples(0.6, 1, 0.7, 1, 0.9)
        )
        == "met"
    )


def test_a_version_is_compared_with_the_one_that_serves() -> None:
    good, bad = samples(0.9, 0.92, 0.88, 0.91, 0.9), samples(0.6, 0.62, 0.58, 0.61, 0.6)
    assert decided(AS_GOOD, good, bad) == "met"
    assert decided(AS_GOOD, good, good) == "met"
    assert decided(AS_GOOD, bad, good) == "missed"
    assert decided(AS_GOOD, good, []) == "open", "nothing is known of the one that serves"


def test_of_latency_less_is_better() -> None:
    assert decided(FAST, timed(50, 51, 49, 50, 52), timed(60, 61, 59, 60, 62)) == "met"
    assert decided(FAST, timed(80, 81, 79, 80, 82), timed(60, 61, 59, 60, 62)) == "missed"
    assert decided(FAST, timed(150, 151, 149, 150, 152), timed(150, 151, 149, 150, 152)) == "missed"


def test_what_was_not_measured_leaves_a_gate_open() -> None:
    assert decided(FAST, samples(*[1.0] * 9), timed(1, 2)) == "open"


@pytest.mark.parametrize(
    ("gates", "told"),
    [
        (Gates(), "ask for nothing: set a bound"),
        (Gates(evaluations=0), "ask for nothing: set a bound"),
        (Gates(evaluations=20), "ask for 20 evaluations, whatever they say: set a bound"),
        (Gates(evaluations=20, canary_requests=5), "ask for 20 evaluations, whatever they say"),
        (Gates(trust=ScoreGate()), "gates.trust has no bound, so it asks for nothing: set at_least or"),
        (
            Gates(latency=LatencyGate()),
            "gates.latency has no bound, .*: set at_most_ms or",
        ),
        (
            Gates(evaluations=1, trust=ScoreGate(at_least=0.5)),
            "evaluations = 1 and confidence = 0.95 contradict",
        ),
    ],
)
def test_gates_that_contradict_or_ask_for_nothing_are_refused(gates: Gates, told: str) -> None:
    with pytest.raises(GatesContradict, match=told):
        check(gates, 0.1)


@pytest.mark.parametrize("gates", [Gates(canary_requests=5), Gates(canary_seconds=60, trust=TRUSTED)])
def test_a_canary_of_some_length_needs_a_share_of_the_requests(gates: Gates) -> None:
    check(gates, 0.1)
    with pytest.raises(GatesContradict, match=r"canary_\w+ = \d+ contradicts canary_share = 0"):
        check(gates, 0.0)


def test_gates_that_go_together_are_taken() -> None:
    check(Gates(evaluations=1, confidence=0.5, trust=TRUSTED), 0.0)
    check(Gates(evaluations=0, canary_requests=5), 0.1)
    check(FAST, 0.0)


def test_ten_evaluations_are_needed_unless_the_gates_say_another_number_or_ask_for_none() -> None:
    assert needed_evaluations(Gates(trust=TRUSTED)) == needed_evaluations(Gates()) == 10
    assert needed_evaluations(Gates(trust=TRUSTED, canary_seconds=1)) == 10
    assert needed_evaluations(Gates(canary_seconds=1)) == 0
    assert needed_evaluations(Gates(evaluations=3, canary_seconds=1)) == 3


def test_a_canary_that_got_no_request_leaves_its_gate_open() -> None:
    gates = Gates(evaluations=2, accuracy=ScoreGate(at_least=0.8), canary_requests=2, canary_seconds=60)
    good = samples(0.9, 0.9)
    assert decided(gates, good, canary=Canary(0, 3600)) == "open"
    assert decided(gates, good, canary=Canary(2, 59.9)) == "open"
    assert decided(gates, good, canary=Canary(2, 60)) == "met"
    assert decided(gates, good) == "met", "after the promotion, the canary is past"
    assert decided(gates, samples(0.1, 0.1), canary=Canary(0, 0)) == "missed", "more requests change nothing"
    assert decided(Gates(canary_requests=2), [], canary=Canary(2, 0)) == "met", "no evaluation is needed"


# --- for any evaluations ----------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.lists(SCORES, min_size=2, max_size=30), SCORES, st.floats(0.5, 0.999))
def test_a_gate_is_met_only_by_a_mean_on_its_right_side(
    accuracies: Sequence[float], bound: float, confidence: float
) -> None:
    gates = Gates(evaluations=2, confidence=confidence, accuracy=ScoreGate(at_least=bound))
    mean = sum(accuracies) / len(accuracies)
    match decided(gates, samples(*accuracies)):
        case "met":
            assert mean >= bound - 1e-9
        case "missed":
            assert mean < bound + 1e-9


@settings(deadline=None)
@given(st.lists(SCORES, min_size=2, max_size=20), SCORES, st.floats(0.5, 0.9), st.floats(0, 0.09))
def test_more_confidence_never_decides_what_less_left_open(
    accuracies: Sequence[float], bound: float, confidence: float, more: float
) -> None:
    def at(confidence: float) -> Verdict:
        gates = Gates(evaluations=2, confidence=confidence, accuracy=ScoreGate(at_least=bound))
        return decided(gates, samples(*accuracies))

    surer = at(confidence + more)
    assert surer in ("open", at(confidence))


@settings(deadline=None)
@given(st.lists(SCORES, min_size=2, max_size=20), SCORES, st.floats(0, 0.5))
def test_a_lower_bound_is_met_whenever_a_higher_one_is(
    accuracies: Sequence[float], bound: float, less: float
) -> None:
    def at(bound: float) -> Verdict:
        return decided(Gates(evaluations=2, accuracy=ScoreGate(at_least=bound)), samples(*accuracies))

    if at(bound) == "met":
        assert at(max(0.0, bound - less)) == "met"


@settings(deadline=None)
@given(st.lists(SCORES, min_size=2, max_size=15), st.lists(SCORES, min_size=2, max_size=15), st.randoms())
def test_the_order_of_evaluations_does_not_matter(
    new: list[float], old: list[float], shuffled: random.Random
) -> None:
    before = decided(AS_GOOD, samples(*new), samples(*old))
    shuffled.shuffle(new)
    shuffled.shuffle(old)
    assert decided(AS_GOOD, samples(*new), samples(*old)) == before


@settings(deadline=None)
@given(st.lists(SCORES, min_size=5, max_size=15), st.lists(SCORES, min_size=5, max_size=15))
def test_no_version_is_worse_than_another_that_is_worse_than_it(new: list[float], old: list[float]) -> None:
    there, back = (decided(AS_GOOD, samples(*a), samples(*b)) for a, b in ((new, old), (old, new)))
    assert not (there == back == "missed")


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32))
def test_a_version_that_is_clearly_worse_is_hardly_ever_promoted(seed: int) -> None:
    chance = random.Random(seed)
    wrong = 0
    for _ in range(50):
        new = samples(*(chance.gauss(0.75, 0.1) for _ in range(8)))
        old = samples(*(chance.gauss(0.85, 0.1) for _ in range(8)))
        wrong += decided(AS_GOOD, new, old) == "met"
    assert wrong <= 5  # the truth lies 0.05 beyond the gate: about one in a hundred


CANARY_GATES = st.builds(
    Gates,
    evaluations=st.just(2),
    accuracy=st.just(ScoreGate(at_least=0.8)),
    canary_requests=st.none() | st.integers(1, 1000),
    canary_seconds=st.none() | st.floats(0.1, 1e6),
)
CANARIES = st.builds(Canary, st.integers(0, 2000), st.floats(0, 2e6))


@given(CANARY_GATES, CANARIES, st.lists(SCORES, max_size=6))
def test_no_gate_is_met_before_the_canary_was_as_long_as_was_asked_for(
    gates: Gates, canary: Canary, accuracies: Sequence[float]
) -> None:
    found = decided(gates, samples(*accuracies), canary=canary)
    is_long_enough = canary.requests >= (gates.canary_requests or 0) and canary.seconds >= (
        gates.canary_seconds or 0
    )
    if found == "met":
        assert is_long_enough
    without = decided(gates, samples(*accuracies))
    assert found == (without if is_long_enough or without == "missed" else "open")


@given(CANARY_GATES, CANARIES, st.integers(0, 100), st.floats(0, 1e6), st.lists(SCORES, max_size=6))
def test_a_longer_canary_never_opens_again_what_a_shorter_one_decided(
    gates: Gates, canary: Canary, requests: int, seconds: float, accuracies: Sequence[float]
) -> None:
    longer = Canary(canary.requests + requests, canary.seconds + seconds)
    before = decided(gates, samples(*accuracies), canary=canary)
    assert before in ("open", decided(gates, samples(*accuracies), canary=longer))


@given(
    st.sampled_from(["met", "open", "missed"]),
    st.booleans(),
    st.booleans(),
    st.sampled_from([0.0, 0.1]),
    st.booleans(),
)
def test_a_version_serves_only_when_it_is_ready_and_its_gates_are_met(
    found: Verdict, is_ready: bool, is_canary: bool, share: float, has_gates: bool
) -> None:
    promotion = Promotion(
        id="p",
        target=Target("new", 1),
        old=Target("old", 1),
        canary_share=share,
        is_canary=is_canary and share > 0,
        gates=ACCURATE if has_gates else None,
    )
    step = next_step(promotion, Outlook(verdict=found, is_ready=is_ready))
    if step in ("promote", "canary"):
        assert is_ready
    if step == "promote":
        assert found == "met"
        assert promotion.is_canary == (share > 0), "with a share, the canary comes first"
    assert (step == End("gates")) == (found == "missed")


# --- what it waits for --------------------------------------------------------------------------------------

DAY = 86_400.0
OLD, NEW = Target("old", 1), Target("new", 1)
OUTLOOKS = st.builds(
    Outlook,
    verdict=st.sampled_from(["met", "open", "missed"]),
    is_there=st.booleans(),
    is_ready=st.booleans(),
    has_failed=st.booleans(),
    fits=st.booleans(),
    is_kept_out=st.booleans(),
    blocked_seconds=st.just(0.0) | st.floats(0, 1e6),
)
ASKED = st.none() | st.builds(
    Gates, canary_seconds=st.none() | st.floats(0.1, 100 * DAY), canary_requests=st.none() | st.just(5)
)


def promotion(share: float = 0.0, gates: Gates | None = None, *, is_canary: bool = False) -> Promotion:
    return Promotion(id="p", target=NEW, old=OLD, canary_share=share, gates=gates, is_canary=is_canary)


@given(
    st.sampled_from([0.0, 0.1]),
    ASKED,
    st.lists(st.tuples(OUTLOOKS, st.floats(0, 40 * DAY)), max_size=8),
    OUTLOOKS,
)
@example(0.1, None, [(Outlook(verdict="met", is_ready=True), 0.0)], Outlook(verdict="met", is_ready=True))
@example(0.1, None, [(Outlook(verdict="met", is_ready=True), 0.0)], Outlook(verdict="met", is_there=False))
@example(0.0, Gates(canary_requests=5), [], Outlook())
@example(0.0, None, [], Outlook(verdict="met"))
def test_whatever_happens_a_promotion_ends(
    share: float, gates: Gates | None, seen: list[tuple[Outlook, float]], at_last: Outlook
) -> None:
    """It is seen so, one after the other for so many seconds, and then so for ever."""
    alias, now, since = Alias(name="chat", target=OLD, promotion=promotion(share, gates)), 0.0, 0.0
    asked = gates.canary_seconds if gates is not None else None
    for outlook, seconds in chain(seen, repeat((at_last, DAY))):
        running = alias.promotion
        if running is None:
            break
        assert now <= 2 * MOST_WAIT_SECONDS + (asked or 0.0) + 80 * DAY, "it waits for ever"
        match next_step(running, msgspec.structs.replace(outlook, waited_seconds=now - since)):
            case End(reason):
                event: AliasEvent | None = aliases.stop(alias, running, reason)
            case "canary":
                event, since = aliases.begin_canary(alias, running, "box1"), now
            case "promote":
                event = aliases.promote(alias, running, "box1")
            case _:
                event = None
        alias = alias if event is None else aliases.evolve(alias, event)
        now += seconds
    assert alias.target in (OLD, NEW), "one of them serves"


@pytest.mark.parametrize(
    ("running", "outlook", "step"),
    [
        # evaluations, a longer canary, somebody's word, a node that has it: for a month
        (promotion(0.0, ACCURATE), Outlook(waited_seconds=29 * DAY), "wait"),
        (promotion(0.0, ACCURATE), Outlook(waited_seconds=30 * DAY), End("waited_too_long")),
        (promotion(0.1, is_canary=True), Outlook(verdict="met", waited_seconds=29 * DAY), "wait"),
        (
            promotion(0.1, is_canary=True),
            Outlook(verdict="met", is_ready=True, waited_seconds=30 * DAY),
            End("waited_too_long"),
        ),
        (
            promotion(0.1, Gates(canary_seconds=40 * DAY), is_canary=True),
            Outlook(waited_seconds=69 * DAY),
            "wait",
        ),
        (
            promotion(0.1, Gates(canary_seconds=40 * DAY), is_canary=True),
            Outlook(waited_seconds=70 * DAY),
            End("waited_too_long"),
        ),
        (
            promotion(0.1, is_canary=True),
            Outlook(verdict="met", is_there=False, fits=False, blocked_seconds=DAY),
            "wait",
        ),
        (
            promotion(),
            Outlook(verdict="met", is_there=False, waited_seconds=30 * DAY),
            End("waited_too_long"),
        ),
        # what is met when its time is over comes all the same
        (promotion(), Outlook(verdict="met", is_ready=True, waited_seconds=31 * DAY), "promote"),
        # memory
        (promotion(), Outlook(verdict="met", fits=False, is_kept_out=True), End("not_enough_memory")),
        (promotion(0.0, ACCURATE), Outlook(fits=False, is_kept_out=True), "wait"),
        (promotion(), Outlook(verdict="met", is_kept_out=True, blocked_seconds=3599), "load"),
        (
            promotion(),
            Outlook(verdict="met", is_kept_out=True, blocked_seconds=3600),
            End("not_enough_memory"),
        ),
        (promotion(), Outlook(verdict="met", blocked_seconds=3600), End("waited_too_long")),
        # a canary whose memory a later promotion has taken: the requests of its share fail
        (
            promotion(0.1, is_canary=True),
            Outlook(verdict="met", is_kept_out=True, blocked_seconds=59),
            "wait",
        ),
        (
            promotion(0.1, is_canary=True),
            Outlook(verdict="met", is_kept_out=True, blocked_seconds=60),
            End("not_enough_memory"),
        ),
        (
            promotion(0.1, is_canary=True),
            Outlook(verdict="met", fits=False, is_kept_out=True),
            End("not_enough_memory"),
        ),
        (promotion(), Outlook(verdict="met", has_failed=True, is_ready=True), End("crash_loop")),
    ],
)
def test_what_it_waits_for_comes_in_time_or_ends_it(
    running: Promotion, outlook: Outlook, step: Step | End
) -> None:
    assert next_step(running, outlook) == step


@given(st.lists(st.floats(0, 1e308), min_size=2, max_size=6), st.lists(st.floats(0, 1e308), max_size=6))
@example([1e308, 1.0], [1e308, 1e308])
@example([0.0, 1e-100], [0.0, 0.0])
def test_no_value_is_too_large_or_too_small_to_be_judged(new: list[float], old: list[float]) -> None:
    gates = Gates(evaluations=2, latency=FAST.latency)
    assert decided(gates, timed(*new), timed(*old)) in ("met", "open", "missed")


def test_an_evaluation_that_does_not_tell_trust_is_no_evidence_of_it() -> None:
    gates = Gates(evaluations=2, trust=ScoreGate(at_least=0.9))
    silent = Sample(latency_ms=5.0)
    assert decided(gates, [silent, silent]) == "open"
    assert decided(gates, [silent, *samples(0.95, 0.95)]) == "met"
