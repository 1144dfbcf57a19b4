"""The chance of a use: what it learns, how it is settled, and which bets are taken on it."""

from __future__ import annotations

from itertools import pairwise

import pytest

from suite.domain.footprint import Footprint
from suite.prediction import recent
from suite.prediction.bets import WORK_SHARE, bets, weigh
from suite.prediction.chance import MOST_TOLD, Calibration, UseChance
from suite.prediction.eviction.policy import Candidate
from suite.prediction.keep_alive import LearnedKeepAlive
from support.histories import made_up


def after(chance: UseChance, count: int) -> float:
    """Have it learn from a made-up history. Returns the time after that."""
    requests = made_up(count)
    for request in requests:
        chance.used(request.model_id, request.at)
    return requests[-1].at


def test_what_is_used_all_the_time_is_likelier_than_what_was_used_long_ago() -> None:
    chance = UseChance(horizon_seconds=300.0)
    chance.used("old", -90_000.0)
    now = after(chance, 1_500)
    assert all(chance.chance(steady, now=now) > 0.4 for steady in ("m00", "m01", "m02"))
    assert chance.chance("old", now=now) < 0.1
    assert chance.chance("never used", now=now) == 0.0
    assert chance.chance("m00", now=now + 86_400.0) < chance.chance("m00", now=now)
    assert set(chance.chances(now=now)) == {"old", *(f"m{number:02}" for number in range(16))}


def test_ids_that_clients_make_up_are_forgotten_before_what_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recent, "MOST_MODELS", 100)
    chance, keep_alive = UseChance(), LearnedKeepAlive(300.0)
    for number in range(300):
        for model_id in (f"made up {number}", "m"):
            chance.used(model_id, float(number))
            keep_alive.used(model_id, float(number))
    told = chance.chances(now=300.0)
    assert len(told) == 100
    assert set(chance.chances(["m", "made up 0", "made up 299"], now=300.0)) == {"m", "made up 299"}
    assert chance.chance("m", now=300.0) == told["m"] > 0.0
    assert keep_alive.seconds("made up 0") == 300.0 != keep_alive.seconds("m")


def test_of_many_uses_some_are_settled_evenly_in_time() -> None:
    horizon = 300.0
    chance = UseChance(horizon_seconds=horizon)
    counts = [0]
    for tenth in range(30):
        for number in range(3_000):
            chance.used(f"m{number % 3}", tenth * horizon / 10 + number / 100)
        counts.append(chance.calibration.count)
    settled = [after - before for before, after in pairwise(counts)]
    assert sum(settled[:10]) == 0, "nothing is known before the horizon is over"
    assert max(settled) <= MOST_TOLD
    assert min(settled[20:]) > max(settled[20:]) / 2


def test_its_chances_come_true_as_often_as_they_say() -> None:
    chance = UseChance(horizon_seconds=300.0)
    requests = made_up(4_000)
    for number, request in enumerate(requests):
        if number == len(requests) // 2:
            calibration = chance.calibration = Calibration()  # of what it said when it had learned
        chance.used(request.model_id, request.at)
    assert calibration.brier is not None
    assert calibration.brier_of_base_rate is not None
    assert calibration.brier < 0.85 * calibration.brier_of_base_rate
    assert all(abs(each.predicted - each.observed) < 0.1 for each in calibration.curve() if each.count > 100)


def test_a_chance_is_corrected_by_what_became_of_others_of_its_size() -> None:
    calibration = Calibration()
    assert (calibration.brier, calibration.brier_of_base_rate) == (None, None)
    assert calibration.corrected(0.75) == 0.75
    for number in range(400):
        calibration.settle(0.75, came_true=number % 2 == 0)
    assert 0.5 < calibration.corrected(0.75) < 0.55
    assert calibration.corrected(0.25) == 0.25
    [bin_] = calibration.curve()
    assert (bin_.count, bin_.predicted, bin_.observed) == (400, 0.75, 0.5)
    assert calibration.brier == pytest.approx(0.3125)
    assert calibration.brier_of_base_rate == 0.25


CHANCES = {"likely": 0.8, "maybe": 0.4, "seldom": 0.1, "never": 0.0}
LIKELY, MAYBE, SELDOM, NEVER = (Candidate(model_id=each, bytes=10, reload_seconds=20.0) for each in CHANCES)


def taken(
    absent: list[Candidate], idle: list[Candidate], free_bytes: int
) -> list[tuple[str, tuple[str, ...]]]:
    return [
        (bet.candidate.model_id, bet.evicting)
        for bet in bets(absent, idle, Footprint(free_bytes), CHANCES.__getitem__)
    ]


def test_bets_go_into_free_memory_the_likeliest_first_and_none_is_taken_without_a_chance() -> None:
    assert taken([SELDOM, NEVER, MAYBE, LIKELY], [], 25) == [("likely", ()), ("maybe", ())]
    assert taken([NEVER], [], 100) == []
    [bet] = bets([LIKELY], [], Footprint(10), CHANCES.__getitem__)
    costs = [bet.chance, bet.saves_seconds, bet.costs_seconds]
    assert costs == pytest.approx([0.8, 16.0, 20.0 * WORK_SHARE])


def test_a_bet_has_only_those_leave_that_free_the_memory_it_needs() -> None:
    on_gpu = Candidate(model_id="likely", bytes=10, gpus={"gpu0": 8}, reload_seconds=20.0)
    there = Candidate(model_id="maybe", bytes=10, gpus={"gpu0": 9}, reload_seconds=20.0)
    free = Footprint(2, {"gpu0": 0})
    [bet] = bets([on_gpu], [SELDOM, there], free, CHANCES.__getitem__)
    assert bet.evicting == ("maybe",), "though the other is less likely to be used"
    assert bets([on_gpu], [SELDOM], free, CHANCES.__getitem__) == []


def test_a_bet_has_others_leave_only_if_they_are_less_likely_to_be_needed() -> None:
    assert taken([MAYBE], [LIKELY], 0) == []
    assert taken([LIKELY], [MAYBE, SELDOM], 0) == [("likely", ("seldom",))]
    assert taken([LIKELY, MAYBE], [NEVER, SELDOM], 0) == [("likely", ("never",)), ("maybe", ("seldom",))]
    assert taken([LIKELY], [SELDOM], -1) == []  # even all together would not be enough


def test_models_that_no_bet_is_taken_on_are_told_with_their_costs() -> None:
    weighed = weigh([MAYBE, LIKELY, NEVER, SELDOM], [], Footprint(15), CHANCES.__getitem__)
    assert [bet.candidate for bet in weighed.taken] == [LIKELY]
    assert [(bet.candidate, bet.costs_seconds) for bet in weighed.passed] == [(MAYBE, None), (SELDOM, None)]
