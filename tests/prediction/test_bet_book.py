"""How a bet ends: by what happens to its model until its horizon has passed, and only once."""

from __future__ import annotations

from datetime import timedelta

import msgspec
import pytest

from suite.errors import LoadCancelled
from suite.messages.events import (
    Event,
    InstanceCrashed,
    InstanceLoaded,
    InstanceLoadFailed,
    InstanceLoadStarted,
    InstanceUnloaded,
    NodeLost,
    NodeStarted,
    PredictionMade,
    PredictionSettled,
    UsageRecorded,
)
from suite.prediction.bet_book import LOADED_ALREADY, BetBook, not_loaded
from support.folding import T0, recorded
from support.journal import generated

HORIZON = 1800.0
MADE = PredictionMade(
    model_id="m",
    node="test",
    prediction_id="p",
    chance=0.6,
    estimate=0.7,
    horizon_seconds=HORIZON,
    saves_seconds=12.0,
    costs_seconds=2.0,
    bytes=100,
)
BEGUN = InstanceLoadStarted(node="test", model_id="m", instance_id="i", reserved_bytes=100, context_tokens=1)
READY = InstanceLoaded(node="test", model_id="m", instance_id="i", pid=1, resident_bytes=200, load_ms=20e3)
USED = generated("g")
"""By the instance `i` of the node `test`."""
EMBEDDED = UsageRecorded(model_id="m", usage_type="embedding", node="test")
LEFT = InstanceUnloaded(node="test", model_id="m", instance_id="i", reason="evicted", freed_bytes=200)
CRASHED = InstanceCrashed(node="test", model_id="m", instance_id="i", exit_code=-9, generations=0)
FAILED = InstanceLoadFailed(node="test", model_id="m", instance_id="i", code="load_failed", message="")
RESTARTED = NodeStarted(node="test", version="0", host="h", pid=2, memory_limit_bytes=0)


def book_of(*events: tuple[float, Event]) -> BetBook:
    """The fold of events, each so many seconds after the first."""
    book = BetBook("test")
    for seq, (at, event) in enumerate(events, 1):
        book.fold(recorded(event, seq, at=T0 + timedelta(seconds=at)))
    return book


def settled(
    *events: tuple[float, Event], now: float = 100.0, in_use: tuple[str, ...] = ()
) -> list[PredictionSettled]:
    """What is due of a bet after what has happened to it."""
    book = book_of((0.0, MADE), *events)
    return list(book.due("test", now=T0.timestamp() + now, in_use=in_use))


LOADED = ((1.0, BEGUN), (21.0, READY))


@pytest.mark.parametrize(
    ("after", "outcome", "used", "saved_seconds", "resident"),
    [
        ([(61.0, USED)], ("hit", "used", ""), True, 20.0, 60.0),
        ([(1801.0, EMBEDDED)], ("waste", "not_used", ""), False, 0.0, 1799.0),
        ([(1801.0, LEFT)], ("waste", "not_used", ""), False, 0.0, 1799.0),
        ([(1801.0, CRASHED)], ("waste", "not_used", ""), False, 0.0, 1799.0),
        ([(1801.0, RESTARTED)], ("waste", "not_used", ""), False, 0.0, 1799.0),
        ([(61.0, LEFT), (70.0, USED)], ("waste", "left", "evicted"), None, 0.0, 60.0),
        ([(61.0, CRASHED)], ("waste", "left", "crashed"), None, 0.0, 60.0),
        ([(61.0, RESTARTED)], ("waste", "left", "restart"), None, 0.0, 60.0),
        ([(31.0, USED), (61.0, RESTARTED)], ("hit", "used", ""), True, 20.0, 30.0),
    ],
    ids=[
        "used",
        "used too late",
        "left too late",
        "crashed too late",
        "restarted too late",
        "left",
        "crashed",
        "open at a restart",
        "won before a restart",
    ],
)
def test_a_bet_is_settled_as_what_happened_to_it(
    after: list[tuple[float, Event]],
    outcome: tuple[str, str, str],
    used: bool | None,
    saved_seconds: float,
    resident: float,
) -> None:
    [one] = settled(*LOADED, *after)
    assert (one.outcome, one.reason, one.detail) == outcome
    assert (one.used, one.saved_seconds, one.byte_seconds) == (used, saved_seconds, 200 * resident)
    assert (one.prediction_id, one.chance) == ("p", 0.6)


def test_a_bet_whose_model_was_never_loaded_has_cost_no_memory_but_the_load_that_failed() -> None:
    [failed] = settled((1.0, BEGUN), (11.0, FAILED))
    assert (failed.outcome, failed.reason, failed.detail) == ("waste", "failed", "load_failed")
    assert (failed.used, failed.byte_seconds) == (None, 100 * 10.0)
    [stopped] = settled((5.0, RESTARTED))
    assert (stopped.reason, stopped.detail, stopped.byte_seconds) == ("left", "restart", 0.0)


def test_a_bet_is_open_until_its_horizon_has_passed_and_nobody_uses_the_model_any_more() -> None:
    assert settled(*LOADED, now=HORIZON) == []
    assert settled(*LOADED, now=HORIZON + 1, in_use=("m",)) == []
    [one] = settled(*LOADED, now=HORIZON + 1)
    assert (one.reason, one.byte_seconds) == ("not_used", 200 * (HORIZON - 1))
    slow = msgspec.structs.replace(
        USED, queue_ms=2e3, time_to_first_token_ms=7e3, generation_ms=3e3
    )  # it began within the horizon
    [late] = settled(*LOADED, (HORIZON + 8, slow), now=HORIZON + 9)
    assert late.outcome == "hit"


def test_the_memory_of_gpus_counts_for_a_bet_too() -> None:
    [one] = settled((1.0, BEGUN), (21.0, msgspec.structs.replace(READY, gpu_bytes=300)), (61.0, USED))
    assert one.byte_seconds == 500 * 60.0


def test_what_concerns_another_instance_or_node_settles_no_bet() -> None:
    elsewhere = msgspec.structs.replace(USED, node="other", instance_id="o")
    others: list[tuple[float, Event]] = [
        (30.0, elsewhere),
        (35.0, msgspec.structs.replace(EMBEDDED, node="other")),
        (36.0, msgspec.structs.replace(EMBEDDED, node="")),
        (40.0, msgspec.structs.replace(LEFT, instance_id="before")),
    ]
    assert settled(*LOADED, *others) == []
    assert list(book_of((0.0, MADE), *LOADED, (31.0, USED)).due("other", now=0.0)) == []


def test_a_settled_bet_counts_once_and_corrects_the_next_chances() -> None:
    events: list[tuple[float, Event]] = []
    for number in range(60):
        made = msgspec.structs.replace(MADE, prediction_id=f"p{number}")
        [end] = settled(*LOADED, now=HORIZON + 1) if number % 4 else settled(*LOADED, (31.0, USED))
        end = msgspec.structs.replace(end, prediction_id=made.prediction_id)
        events += [(number, made), (number, end), (number, end)]
    book = book_of(*events)
    record = book.records["m"]
    assert (record.won, record.lost, book.calibration.count) == (15, 45, 60)
    assert record.saved_seconds == pytest.approx(15 * 20.0)
    assert record.last_settled == events[-1][1]
    assert book.open == {}
    assert book.corrected(0.7) < 0.5
    assert book.corrected(0.2) == 0.2


def test_a_model_that_could_not_be_loaded_is_remembered_until_it_could() -> None:
    def failed_at(*codes: str) -> float | None:
        events: list[tuple[float, Event]] = []
        for number, code in enumerate(codes):
            made = msgspec.structs.replace(MADE, prediction_id=f"p{number}")
            events += [(number, made), (number, not_loaded(made, code))]
        return book_of(*events).records["m"].failed_at

    assert failed_at("not_enough_memory", LOADED_ALREADY, LoadCancelled.code) is None
    assert failed_at("load_failed") == T0.timestamp()
    assert failed_at("load_failed", "not_enough_memory") == T0.timestamp()


def test_a_bet_of_a_node_that_is_lost_keeps_nobody_from_betting() -> None:
    lost = NodeLost(node="test", epoch=1, observer="other")
    now = T0.timestamp() + 30.0
    assert book_of((0.0, MADE)).is_open("m", now=now)
    assert not book_of((0.0, MADE)).is_open("m", now=now + HORIZON)
    assert not book_of((0.0, MADE), (20.0, lost)).is_open("m", now=now)


def test_a_copy_of_a_bet_does_not_open_it_again() -> None:
    [end] = settled(*LOADED, (31.0, USED))
    book = book_of((0.0, MADE), (32.0, end), (33.0, MADE))
    assert book.open == {}
    assert book.records["m"].last_settled == end


def test_bets_of_other_nodes_that_never_settle_them_are_dropped_and_ones_own_are_not() -> None:
    others = [
        (float(number), msgspec.structs.replace(MADE, node=f"pod{number}", prediction_id=f"p{number}"))
        for number in range(50)
    ]
    book = book_of((0.0, MADE), *others, (3 * HORIZON, msgspec.structs.replace(MADE, prediction_id="new")))
    assert list(book.open) == ["p", "new"]
    assert [each.prediction_id for each in book.due("test", now=T0.timestamp() + 3 * HORIZON)] == ["p"]
