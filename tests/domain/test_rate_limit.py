"""A limit a minute: what it lets through at once and in the long run, and what it says of itself."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from suite.domain.rate_limit import Bucket

STEPS = st.lists(st.tuples(st.floats(0, 30), st.integers(0, 500)), min_size=1, max_size=50)


@given(st.integers(1, 100_000), STEPS)
def test_in_the_long_run_no_more_than_the_limit_is_let_through(
    limit: int, steps: list[tuple[float, int]]
) -> None:
    bucket, now, used = Bucket(limit, 0.0), 0.0, 0
    for pause, amount in steps:
        now += pause
        if bucket.seconds_until(amount, now) == 0.0:
            bucket.take(min(amount, limit), now)
            used += min(amount, limit)
        assert 0 <= bucket.remaining(now) <= limit
    assert used <= limit + now * limit / 60 + 1


@given(st.integers(1, 100_000), STEPS)
def test_after_the_time_that_it_says_it_lets_through_also_when_it_owes(
    limit: int, steps: list[tuple[float, int]]
) -> None:
    bucket, now = Bucket(limit, 0.0), 0.0
    for pause, amount in steps:
        now += pause
        bucket.take(amount, now)
        wait = bucket.seconds_until(1, now)
        assert bucket.seconds_until(1, now + wait * (1 + 1e-9) + 1e-9) == 0.0
        assert (wait == 0.0) == (bucket.remaining(now) >= 1)


def test_what_was_not_used_is_kept_for_a_minute_at_most() -> None:
    bucket = Bucket(60, 0.0)
    bucket.take(60, 0.0)
    assert bucket.remaining(0.5) == 0
    assert bucket.seconds_until(1, 0.5) == pytest.approx(0.5, abs=1e-3)
    assert bucket.remaining(1.0) == 1
    assert bucket.remaining(3600.0) == 60
    bucket.take(600, 3600.0)
    assert bucket.seconds_until(1, 3600.0) == pytest.approx(541, abs=1e-3)


def test_a_clock_that_stands_still_or_goes_back_gives_nothing() -> None:
    bucket = Bucket(60, 100.0)
    bucket.take(10, 100.0)
    assert bucket.remaining(50.0) == 50
    bucket.take(10, 50.0)
    assert bucket.remaining(100.0) == 40
