"""A conversation is moved where its state comes sooner than its tokens are read, and never otherwise."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from suite.domain.moving import (
    LATENCY_SECONDS,
    StoreSpeed,
    is_worth_moving,
    moving_seconds,
    patience_seconds,
)

sizes = st.integers(0, 2**40)
speeds = st.floats(1e3, 1e12)
seconds = st.floats(0, 1e6)


@given(sizes, speeds, seconds)
def test_what_is_moved_takes_less_time_than_it_would_be_waited_for(
    size: int, speed: float, reading: float
) -> None:
    if is_worth_moving(size, reading_seconds=reading, bytes_per_second=speed):
        assert moving_seconds(size, bytes_per_second=speed) < patience_seconds(1, reading_seconds=reading)
    assert not is_worth_moving(size, reading_seconds=LATENCY_SECONDS, bytes_per_second=speed)


@given(sizes, sizes, speeds, seconds)
def test_more_bytes_and_a_slower_store_never_speak_for_moving(
    size: int, more: int, speed: float, reading: float
) -> None:
    if is_worth_moving(size + more, reading_seconds=reading, bytes_per_second=speed):
        assert is_worth_moving(size, reading_seconds=reading, bytes_per_second=speed)
        assert is_worth_moving(size, reading_seconds=reading, bytes_per_second=speed * 2)
        assert is_worth_moving(size, reading_seconds=reading * 2, bytes_per_second=speed)


def test_a_prompt_that_nobody_has_measured_is_not_waited_for_without_end() -> None:
    assert patience_seconds(700, reading_seconds=None) == 1.4
    assert patience_seconds(700, reading_seconds=0.2) == 0.2


@given(st.lists(st.tuples(st.integers(0, 2**30), st.just(0.0) | st.floats(1e-9, 100)), max_size=20))
def test_the_speed_of_the_store_stays_within_what_was_measured(measured: list[tuple[int, float]]) -> None:
    speed = StoreSpeed()
    seen = [speed.bytes_per_second]
    for size, took in measured:
        speed.note(size, took)
        seen += [size / took] if size >= 1 << 20 and took > 0 else []
        assert min(seen) * 0.999 <= speed.bytes_per_second <= max(seen) * 1.001
