"""Confidence intervals of shares and means."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from suite.domain.intervals import mean, share


@pytest.mark.parametrize(
    ("count", "samples", "low", "high"),
    [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (5, 10, 0.2366, 0.7634), (80, 100, 0.7112, 0.8666)],
)
def test_intervals_of_shares_are_those_of_wilson(count: int, samples: int, low: float, high: float) -> None:
    found = share(count, samples)
    assert [found.low, found.high] == pytest.approx([low, high], abs=1e-4)


@given(st.integers(1, 10_000).flatmap(lambda samples: st.tuples(st.integers(0, samples), st.just(samples))))
def test_a_share_is_inside_of_its_interval_which_is_inside_of_0_and_1(case: tuple[int, int]) -> None:
    count, samples = case
    found = share(count, samples)
    assert 0 <= found.low <= found.share <= found.high <= 1
    assert found.low < found.high
    mirrored = share(samples - count, samples)
    assert [1 - mirrored.high, 1 - mirrored.low] == pytest.approx([found.low, found.high], abs=1e-9)


@given(st.integers(1, 50), st.integers(2, 20))
def test_more_samples_narrow_an_interval(samples: int, times: int) -> None:
    few, many = share(samples // 2, samples), share(samples // 2 * times, samples * times)
    assert many.high - many.low < few.high - few.low


@given(st.lists(st.floats(0, 1e6), min_size=2, max_size=50))
def test_a_mean_is_in_the_middle_of_its_interval_which_does_not_go_below_0(samples: list[float]) -> None:
    found = mean(samples)
    assert found is not None and found.low is not None and found.high is not None
    assert 0 <= found.low <= found.mean <= found.high
    assert found.low == pytest.approx(max(0.0, 2 * found.mean - found.high), rel=1e-6, abs=1e-6)


def test_one_sample_has_no_interval_and_none_has_no_mean() -> None:
    alone = mean([3.0])
    assert alone is not None and (alone.mean, alone.low, alone.high) == (3.0, None, None)
    assert mean([]) is None
