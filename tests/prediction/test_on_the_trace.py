"""Figures on two weeks of a production service (GenTD26, alibaba/clusterdata), learned from the past only.

The trace is not part of the repository: these tests run where it lies beside it.
"""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from bets import after_restarts, second_week
from suite.domain.footprint import Footprint
from suite.prediction.eviction.best_lately import BestLately
from suite.prediction.eviction.policy import EvictionPolicy
from suite.prediction.eviction.recency import LeastRecentlyUsed
from suite.prediction.keep_alive import KeepAlive, LearnedKeepAlive, TimeToLive
from suite.prediction.replay.history import History, read_csv
from suite.prediction.replay.node import VirtualNode
from suite.prediction.replay.outcome import Outcome
from support.histories import DEFAULT, SIZE

TRACE = next(
    (
        path
        for parent in Path(__file__).parents
        if (path := parent / "shared" / "traces" / "genai-days-00-14.csv").exists()
    ),
    None,
)

pytestmark = pytest.mark.skipif(TRACE is None, reason="the trace is not beside this repository")


@pytest.fixture(scope="module")
def trace() -> History:
    assert TRACE is not None
    return read_csv(TRACE, default=DEFAULT)


def replayed(
    trace: History, policy: EvictionPolicy, room: int | None, keep_alive: KeepAlive | None = None
) -> Outcome:
    limit_bytes = None if room is None else room * SIZE
    return VirtualNode(trace, policy, limit_bytes=limit_bytes, keep_alive=keep_alive, instant=True).run(
        policy.name
    )


@pytest.mark.parametrize(("room", "most", "of_lru"), [(2, 54.6, 58.9), (4, 32.4, 35.3), (8, 14.7, 16.2)])
def test_the_default_has_fewer_cold_starts(trace: History, room: int, most: float, of_lru: float) -> None:
    outcome = replayed(trace, BestLately(Footprint(room * SIZE)), room)
    assert outcome.cold_percent <= most
    assert round(replayed(trace, LeastRecentlyUsed(), room).cold_percent, 1) == of_lru


def test_what_is_learned_keeps_models_for_less_time_and_has_fewer_cold_starts(trace: History) -> None:
    learned, plain = (
        replayed(trace, LeastRecentlyUsed(), None, keep_alive)
        for keep_alive in (LearnedKeepAlive(600.0), TimeToLive(600.0))
    )
    assert round(plain.cold_percent, 1) == 17.0
    assert learned.model_hours <= 703.0 < plain.model_hours
    assert learned.cold_starts <= plain.cold_starts


def test_in_the_second_week_chances_come_true_as_often_as_they_say(trace: History) -> None:
    seen = second_week(trace)
    assert seen.brier is not None
    assert seen.brier_of_base_rate is not None
    assert seen.brier <= 0.85 * seen.brier_of_base_rate
    assert all(abs(each.predicted - each.observed) <= 0.1 for each in seen.curve())


def test_after_a_restart_bets_save_cold_starts(trace: History) -> None:
    with_bets, without = after_restarts(trace, Random(1))
    assert with_bets[0] <= 0.55 * without[0]
    assert with_bets[1] <= 0.7 * without[1]
