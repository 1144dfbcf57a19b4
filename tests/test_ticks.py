"""Whoever looks again and again looks at the same moments."""

from __future__ import annotations

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from suite.ticks import next_tick, tick, tick_or

MILLISECONDS = st.integers(1, 60_000)
NOW = st.floats(0, 1e7)


@given(NOW, MILLISECONDS)
def test_a_tick_is_a_multiple_of_its_period_and_comes_within_it(now: float, milliseconds: int) -> None:
    period = milliseconds / 1000
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(anyio, "current_time", lambda: now)
        due = next_tick(period)
    assert due / period == pytest.approx(round(due / period), abs=1e-3)
    assert 0 < due - now <= 1.1 * period + 1e-6


@given(NOW, st.integers(1, 10))
def test_who_looks_seldom_looks_with_those_who_look_often(now: float, times: int) -> None:
    """Whenever they began: a second's tick is there with each tick of several seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(anyio, "current_time", lambda: now)
        seldom = next_tick(times * 1.0)
        patch.setattr(anyio, "current_time", lambda: seldom - 0.5)
        assert next_tick(1.0) == seldom
        patch.setattr(anyio, "current_time", lambda: seldom - 0.001)  # a timer that fired early
        assert next_tick(1.0) == seldom + 1.0


async def test_a_tick_can_be_waited_for_or_an_event_before_it() -> None:
    with anyio.fail_after(20):
        began = anyio.current_time()
        await tick(0.01)
        await tick_or(anyio.Event(), 0.01)
        assert anyio.current_time() > began
        event = anyio.Event()
        event.set()
        await tick_or(event, 3600.0)
        await tick(0.0)
