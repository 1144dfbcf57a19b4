"""What those are told who find all places taken."""

from __future__ import annotations

from suite.actors.metrics import SlotTurnover


def test_as_long_as_nothing_is_known_it_is_a_second() -> None:
    refusal = SlotTurnover(8).refusal("9 generations run or wait in phi")
    assert refusal.retry_after_ms == 1000
    assert refusal.message == "9 generations run or wait in phi: try again in about 1 s"


def test_it_is_as_long_as_it_lately_took_until_a_place_was_freed() -> None:
    turnover = SlotTurnover(4)
    turnover.freed(40.0)
    assert turnover.refusal("full").retry_after_ms == 10_000
    for _ in range(100):
        turnover.freed(10.0)
    refusal = turnover.refusal("full")
    assert 2500 <= refusal.retry_after_ms <= 2501
    assert refusal.message.endswith("about 3 s")


def test_it_is_never_less_than_a_second() -> None:
    turnover = SlotTurnover(1)
    turnover.freed(0.01)
    assert turnover.refusal("full").retry_after_ms == 1000
