"""What evaluations, crashes and latency make of the trust in a model."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from suite.domain.trust import RECENT, Evaluated, Evidence, quality, reliability, responsiveness, trust

EVALUATED = st.builds(
    Evaluated,
    trust_score=st.floats(0, 1),
    avg_latency_ms=st.floats(0, allow_infinity=False, allow_nan=False),
)
EVIDENCE = st.builds(
    Evidence,
    evaluations=st.lists(EVALUATED, max_size=60).map(tuple),
    loads=st.integers(0, 50),
    crashes=st.integers(0, 50),
)


def scored(*scores: float) -> Evidence:
    return Evidence(evaluations=tuple(Evaluated(trust_score=score) for score in scores))


def test_of_a_model_of_which_nothing_is_known_there_is_no_trust() -> None:
    assert trust(Evidence()) is None


def test_a_model_that_only_loaded_is_neither_trusted_nor_distrusted() -> None:
    assert trust(Evidence(loads=3)) == 0.5


def test_one_good_evaluation_is_not_enough_for_full_trust() -> None:
    assert trust(scored(1.0)) == pytest.approx(0.75)
    assert quality(scored(*[1.0] * 50)) > 0.96


def test_the_newest_evaluations_weigh_most() -> None:
    improved, spoilt = scored(*[1.0] * 10, *[0.0] * 10), scored(*[0.0] * 10, *[1.0] * 10)
    assert quality(improved) == pytest.approx(1 - quality(spoilt))
    assert quality(improved) > 0.6


def test_evaluations_beyond_the_recent_ones_do_not_count() -> None:
    recent = [0.8] * RECENT
    assert trust(scored(*recent, 0.0, 0.0)) == trust(scored(*recent))


def test_a_model_that_crashes_in_each_life_is_hardly_trusted() -> None:
    assert reliability(Evidence(loads=9)) == 1
    assert reliability(Evidence(loads=9, crashes=9)) == pytest.approx(0.1)
    assert reliability(Evidence(loads=0, crashes=3)) == pytest.approx(0.25)


def test_latency_that_nobody_measured_costs_nothing() -> None:
    fast = Evidence(evaluations=(Evaluated(trust_score=1), Evaluated(trust_score=1, avg_latency_ms=5_000)))
    assert responsiveness(scored(1.0)) == 1
    assert responsiveness(fast) == pytest.approx(0.5)


def test_one_absurd_latency_does_not_outweigh_the_others() -> None:
    usual = [Evaluated(trust_score=1, avg_latency_ms=100)] * 20
    absurd = Evaluated(trust_score=1, avg_latency_ms=1e300)
    assert responsiveness(Evidence(evaluations=(absurd, *usual))) > 0.85


@given(EVIDENCE)
def test_trust_is_between_0_and_1(evidence: Evidence) -> None:
    value = trust(evidence)
    assert value is None or 0 <= value <= 1


@given(EVIDENCE)
def test_a_crash_never_helps_and_a_better_evaluation_never_harms(evidence: Evidence) -> None:
    value = trust(evidence)
    crashed = Evidence(
        evaluations=evidence.evaluations, loads=evidence.loads + 1, crashes=evidence.crashes + 1
    )
    worse = trust(crashed)
    if value is not None and worse is not None:
        assert worse <= value + 1e-12
    better = tuple(
        Evaluated(trust_score=1, avg_latency_ms=one.avg_latency_ms) for one in evidence.evaluations
    )
    assert quality(Evidence(evaluations=better)) >= quality(Evidence(evaluations=evidence.evaluations))
