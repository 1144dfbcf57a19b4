"""A history in virtual time: what is counted, comparisons, and bad input."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import UNSET, UnsetType

from suite.domain.footprint import Footprint
from suite.errors import InvalidRequest
from suite.messages.events import Generated, InstanceLoaded, UsageRecorded
from suite.prediction.eviction.policies import POLICIES
from suite.prediction.eviction.policy import Candidate, Evicted, Fact, Loaded
from suite.prediction.eviction.recency import LeastRecentlyUsed
from suite.prediction.keep_alive import LearnedKeepAlive, TimeToLive
from suite.prediction.replay.belady import Belady
from suite.prediction.replay.bettor import Bettor
from suite.prediction.replay.check import check
from suite.prediction.replay.check import sentences as sentences_of_check
from suite.prediction.replay.contest import Contest
from suite.prediction.replay.history import History, LogHistory, Request, read_csv
from suite.prediction.replay.node import VirtualNode
from suite.prediction.replay.outcome import Outcome
from suite.prediction.replay.page import page
from suite.prediction.replay.recommendation import recommend, sentences
from suite.prediction.replay.run import Run
from suite.prediction.replay.workers import outcomes_of
from support.folding import T0, recorded
from support.histories import DEFAULT, SIZE, history_of, made_up, made_up_csv


def uses(models: str, *, every: float = 100.0) -> list[Request]:
    return [Request(at=number * every, model_id=model_id) for number, model_id in enumerate(models)]


def lru(history: History, room: int, *, instant: bool = True) -> Outcome:
    node = VirtualNode(history, LeastRecentlyUsed(), limit_bytes=room * SIZE, instant=instant)
    return node.run("lru")


def test_it_counts_cold_starts_evictions_waiting_and_memory_over_time() -> None:
    outcome = lru(history_of(uses("abacb")), 2)
    assert (outcome.requests, outcome.cold_starts, outcome.loads, outcome.evictions) == (5, 4, 4, 2)
    assert outcome.cold_percent == 80.0
    assert (outcome.waited_p50_seconds, outcome.waited_seconds) == (20.0, 80.0)
    assert outcome.model_hours == pytest.approx((400 + 300) / 3600)  # one since 0 s, two since 100 s
    assert outcome.gb_hours == pytest.approx(6 * outcome.model_hours)


def test_a_log_without_events_has_no_decision_to_make_again() -> None:
    (told,) = sentences_of_check(check([], "box1"))
    assert told == "box1: the log has no decision that can be made again"


def test_nothing_depends_on_where_time_begins() -> None:
    requests = made_up(500)
    at_zero, *others = (
        lru(history_of([msgspec.structs.replace(each, at=each.at + began) for each in requests]), 3)
        for began in (0.0, -1e6, 1.7e9)
    )
    assert {other.cold_starts for other in others} == {at_zero.cold_starts}


def test_who_asks_while_the_model_is_loading_waits_for_what_is_left_of_the_load() -> None:
    outcome = lru(history_of(uses("aaaa", every=8.0)), 1)
    assert outcome.cold_starts == 1
    assert outcome.waited_seconds == 20.0 + 12.0 + 4.0


def test_a_model_larger_than_the_budget_is_refused_and_evicts_nobody() -> None:
    large = Candidate(model_id="b", bytes=3 * SIZE, reload_seconds=1.0)
    outcome = lru(history_of(uses("aba"), large), 2)
    assert (outcome.refused, outcome.cold_starts, outcome.loads, outcome.evictions) == (1, 2, 1, 0)


def test_a_model_leaves_when_it_was_not_used_for_its_time_to_live() -> None:
    history = history_of([Request(at=at, model_id="a") for at in (0.0, 60.0, 161.0)])
    node = VirtualNode(
        history, LeastRecentlyUsed(), limit_bytes=None, keep_alive=TimeToLive(100.0), instant=True
    )
    outcome = node.run("ttl")
    assert (outcome.cold_starts, outcome.idle_unloads, outcome.evictions) == (2, 1, 0)
    assert outcome.model_hours == pytest.approx(160 / 3600)


def test_what_is_learned_keeps_models_no_longer_in_all_than_the_ttl_and_has_no_more_cold_starts() -> None:
    history = history_of(made_up(6_000))
    learned, plain = (
        VirtualNode(history, LeastRecentlyUsed(), limit_bytes=None, keep_alive=keep_alive, instant=True).run(
            ""
        )
        for keep_alive in (LearnedKeepAlive(300.0), TimeToLive(300.0))
    )
    assert learned.model_hours <= 1.01 * plain.model_hours
    assert learned.cold_starts <= plain.cold_starts


# --- requests that take time ----------------------------------------------------------------------------


def held(*requests: tuple[float, str, float], room: int = 1) -> Outcome:
    """Requests that come at a time, use a model, and take some seconds."""
    history = history_of([Request(at=at, model_id=model, seconds=took) for at, model, took in requests])
    return lru(history, room, instant=False)


def test_a_request_waits_until_those_that_use_the_memory_have_ended() -> None:
    outcome = held((0.0, "a", 100.0), (50.0, "b", 1.0))  # b waits for a until 120, and is loaded until 140
    assert (outcome.cold_starts, outcome.evictions, outcome.refused) == (2, 1, 0)
    assert outcome.waited_seconds == 20.0 + 90.0


def test_requests_of_one_model_use_it_at_the_same_time_and_wait_for_one_load() -> None:
    outcome = held((0.0, "a", 100.0), (10.0, "a", 100.0), (30.0, "a", 100.0))
    assert (outcome.cold_starts, outcome.waited_seconds) == (1, 20.0 + 10.0 + 0.0)
    assert outcome.model_hours == pytest.approx(130 / 3600)  # it ends with the last request


def test_a_model_in_use_closes_after_its_turn_so_that_others_do_not_wait_for_ever() -> None:
    busy = [(number * 10.0, "a", 15.0) for number in range(100)]
    outcome = held(*busy, (31.0, "b", 1.0))
    assert outcome.refused == 0
    assert outcome.loads == 3  # a, then b, then a again for those that came meanwhile
    assert outcome.waited_p95_seconds < 120.0


def test_who_has_waited_for_too_long_is_refused_as_in_the_service() -> None:
    outcome = held((0.0, "a", 1000.0), (50.0, "b", 1.0))
    assert (outcome.refused, outcome.cold_starts, outcome.loads) == (1, 2, 1)
    assert outcome.waited_seconds == 20.0 + 300.0


# --- properties -----------------------------------------------------------------------------------------


class Watched(LeastRecentlyUsed):
    """Sees to it that the models in memory never take more than there is."""

    def __init__(self, limit_bytes: int) -> None:
        super().__init__()
        self._left = limit_bytes

    def fold(self, fact: Fact) -> None:
        super().fold(fact)
        match fact:
            case Loaded():
                self._left -= fact.candidate.bytes
            case Evicted():
                self._left += fact.candidate.bytes
        assert self._left >= 0


@given(
    models=st.text(alphabet="abcdef", min_size=1, max_size=60),
    sizes=st.lists(st.integers(1, 3), min_size=6, max_size=6),
    room=st.integers(1, 4),
    seconds=st.sampled_from([0.0, 5.0, 90.0]),
    every=st.sampled_from([1.0, 40.0]),
    instant=st.booleans(),
)
@settings(max_examples=25, deadline=None)
def test_the_budget_is_kept_every_request_ends_and_a_replay_comes_out_the_same_again(
    models: str, sizes: list[int], room: int, seconds: float, every: float, instant: bool
) -> None:
    unequal = [
        Candidate(model_id=model_id, bytes=size * SIZE, reload_seconds=20.0 * size)
        for model_id, size in zip("abcdef", sizes, strict=True)
    ]
    requests = [msgspec.structs.replace(each, seconds=seconds) for each in uses(models, every=every)]
    history, limit = history_of(requests, *unequal), room * SIZE
    VirtualNode(history, Watched(limit), limit_bytes=limit, instant=instant).run("")
    for name in POLICIES:
        run = Run(policy=name, budget=limit, with_bets=True, instant=instant)
        outcome = run.outcome(history)
        assert outcome == run.outcome(history)
        assert outcome.requests == len(models)
        assert outcome.loads >= outcome.cold_starts - outcome.refused
        assert outcome.bets_won + outcome.bets_lost <= outcome.loads - outcome.cold_starts + outcome.refused


@given(models=st.text(alphabet="abcdef", min_size=1, max_size=80), room=st.integers(1, 4))
@settings(max_examples=30, deadline=None)
def test_nobody_beats_the_bound_and_lru_is_what_it_says(models: str, room: int) -> None:
    history = history_of(uses(models))
    outcomes = {
        name: Run(policy=name, budget=room * SIZE, instant=True).outcome(history)
        for name in (*POLICIES, Belady.name)
    }
    fewest = min(outcome.cold_starts for outcome in outcomes.values())
    assert outcomes[Belady.name].cold_starts == fewest
    resident: list[str] = []
    cold_starts = 0
    for model_id in models:
        if model_id in resident:
            resident.remove(model_id)
        else:
            cold_starts += 1
            del resident[: max(len(resident) - room + 1, 0)]
        resident.append(model_id)
    assert outcomes[LeastRecentlyUsed.name].cold_starts == cold_starts


# --- files ----------------------------------------------------------------------------------------------


def read(tmp_path: Path, text: str) -> History:
    path = tmp_path / "requests.csv"
    path.write_text(text)
    return read_csv(path, default=DEFAULT)


def test_a_file_is_read_with_costs_and_what_is_odd_about_it_is_told(tmp_path: Path) -> None:
    history = read(
        tmp_path, "colour,timestamp_s,model_id,model_gb,load_s\nred,5,b,1,\nblue,-3,a,2.5,0\n\nred,4,b,,\n"
    )
    assert [(each.at, each.model_id) for each in history.requests] == [(-3, "a"), (4, "b"), (5, "b")]
    assert history.candidates["a"] == Candidate(model_id="a", bytes=2_500_000_000, reload_seconds=0.0)
    assert history.candidates["b"] == Candidate(model_id="b", bytes=1_000_000_000, reload_seconds=20.0)
    assert history.remarks == (
        "columns that are not used: colour",
        "1 times one came before the one in front of it: they were put in the order of time",
    )
    assert read(tmp_path, made_up_csv(50)).requests == tuple(made_up(50))
    [remark] = read(tmp_path, "timestamp_s,model_id\n1,a\n2,a\n").remarks
    assert remark == "there is only one model: no policy can do better or worse than another"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "no column timestamp_s and no column model_id: the first line must name the columns"),
        ("timestamp_s,model\n1,a\n", "no column model_id"),
        ("timestamp_s,model_id\n", "has no requests: there is nothing to replay"),
        ("timestamp_s,model_id\n1,a\nsoon,b\n", "line 3: 'soon' is no number from -1e+12 to 1e+12"),
        ("timestamp_s,model_id\nnan,a\n", "line 2: 'nan' is no number"),
        ("timestamp_s,model_id,duration_s\n1,a,-2\n", "line 2: '-2' is no number"),
        ("timestamp_s,model_id\n1e300,a\n", "line 2: '1e300' is no number"),
        ("timestamp_s,model_id\n,a\n", "line 2: timestamp_s is empty"),
        ("timestamp_s,model_id,model_gb\n1,a,0\n", "line 2: '0' is no number from 1e-09 to"),
        ("timestamp_s,model_id,model_id\n1,a,b\n", "more than one column model_id"),
        ('timestamp_s,model_id\n1,"a\n2,b\n', "cannot be read as CSV: unexpected end of data"),
        ("timestamp_s,model_id\n1,\n", "line 2: model_id is empty"),
        ("timestamp_s,model_id\n1,a,b\n", "line 2: 3 values for 2 columns"),
    ],
)
def test_a_file_that_is_no_history_is_refused_with_the_line(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(InvalidRequest, match=re.escape(problem)):
        read(tmp_path, text)


def test_what_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "requests.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidRequest, match="cannot be read as CSV"):
        read_csv(tmp_path / "requests.csv", default=DEFAULT)


# --- comparing ------------------------------------------------------------------------------------------


def compared(history: History, policies: Sequence[str], *budgets: int | None) -> list[Outcome]:
    return Contest(policies, budgets, instant=True).outcomes(history)


def long_history() -> History:
    """Two days."""
    return history_of([msgspec.structs.replace(each, at=8 * each.at) for each in made_up(800)])


def test_lru_ttls_and_the_bound_are_beside_any_policy() -> None:
    outcomes = compared(history_of(uses("abcabc")), ["greedy_dual"], 2 * SIZE, None)
    assert [(each.name, each.memory_gb) for each in outcomes] == [
        *((name, 12.0) for name in ("greedy_dual", "lru", "ttl_300", "ttl_600", "ttl_3600", "belady")),
        *((f"{kind}_{ttl}", None) for ttl in (300, 600, 3600) for kind in ("learned", "ttl")),
    ]
    all_, with_bets = (
        [each.name for each in Contest(["all"], [2 * SIZE], ttls=[], with_bets=bets).outcomes(history)]
        for history, bets in ((history_of(uses("ab")), False), (history_of(uses("ab")), True))
    )
    assert all_ == [*POLICIES, "belady"]
    assert with_bets == [*POLICIES, "best_lately+bets", "belady"]


def test_bets_are_won_and_lost() -> None:
    requests = [
        Request(at=day * 86_400.0 + minute * 300.0 + number, model_id=model_id)
        for day in range(4)
        for minute in range(120)
        for number, model_id in enumerate("abab")
    ]
    bets, plain = (
        Run(policy="lru", budget=None, ttl_seconds=200.0, with_bets=with_bets).outcome(history_of(requests))
        for with_bets in (True, False)
    )
    assert bets.cold_starts < plain.cold_starts
    assert bets.waited_seconds < plain.waited_seconds
    assert bets.bets_won > 0
    assert bets.bets_won + bets.bets_lost <= bets.loads - bets.cold_starts


def test_what_is_likely_used_does_not_idle_out_only_to_be_bet_on_again() -> None:
    requests = [Request(at=number * 400.0, model_id=model_id) for number in range(600) for model_id in "ab"]
    run = Run(policy="lru", budget=None, ttl_seconds=200.0, with_bets=True)
    plain, bets = (
        msgspec.structs.replace(run, with_bets=with_bets).outcome(history_of(requests))
        for with_bets in (False, True)
    )
    assert plain.idle_unloads > 1_000
    assert bets.idle_unloads < 50
    assert bets.loads < 60


def test_a_bet_whose_model_leaves_after_its_time_was_not_used() -> None:
    bettor = Bettor(history_of(uses("ab")).candidates)
    for number in range(400):
        bettor.used("a", number * 300.0, conversation="")
    at = 400 * 300.0
    bet = bettor.take((), (), Footprint(SIZE), at)
    assert bet is not None
    assert bettor.take((), (), Footprint(SIZE), at) is None  # none on a model with an open bet
    told = bettor.chance("a", at)
    bettor.left("a", at + 7_200.0)
    assert (bettor.won, bettor.lost) == (0, 1)
    assert bettor.chance("a", at) < told  # it was too high: that is learned from


def test_a_budget_without_room_for_any_model_and_unknown_policies_are_refused() -> None:
    history = history_of(uses("ab"))
    with pytest.raises(
        InvalidRequest, match=r"5 GB has room for none of the models: the smallest, a, takes 6"
    ):
        compared(history, [], 5_000_000_000)
    for name, problem in (
        ("mru", "there is no policy 'mru': use best_lately"),
        ("builtins:dict", "no method fold"),
    ):
        with pytest.raises(InvalidRequest, match=problem):
            compared(history, [name], 2 * SIZE)


def test_whatever_a_policy_of_ones_own_does_it_is_named_and_the_default_goes_on() -> None:
    own = [f"support.own_policies:{name}" for name in ("Unstoppable", "Quits")]
    runs = [Run(policy=name, budget=2 * SIZE, instant=True) for name in (*own, "best_lately")]
    outcomes = outcomes_of(runs, history_of(uses("abcabcab" * 4)), patience_seconds=1.5)
    assert [(each.policy, each.remark) for each in outcomes] == [
        (
            own[0],
            "did not answer for 1.5 s and was ended with its process: best_lately was replayed in its place",
        ),
        (own[1], "ended the process: best_lately was replayed in its place"),
        ("best_lately", ""),
    ]
    assert len({each.cold_starts for each in outcomes}) == 1
    assert recommend(outcomes).policy == "best_lately"


def test_several_processes_give_what_one_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    history = history_of(made_up(200))
    contest = Contest(["lru"], [4 * SIZE], ttls=[])
    alone = contest.outcomes(history)
    monkeypatch.setattr("suite.prediction.replay.workers.LITTLE", 0)
    told: list[float] = []
    assert contest.outcomes(history, progress=told.append) == alone
    assert told == sorted(told)
    assert told[-1] == 1.0


def test_what_is_recommended_waited_least_with_the_least_memory_and_says_how_sure_that_is() -> None:
    history = long_history()
    contest = Contest(["best_lately"], [4 * SIZE, 16 * SIZE, 32 * SIZE], instant=True)
    outcomes = contest.outcomes(history)
    compared = len(outcomes)
    advice = contest.recommendation(history, outcomes)
    assert advice == recommend(outcomes)
    assert advice.memory_gb == 96.0  # all 16 models fit
    assert {each.keep_alive for each in outcomes[compared:]} == {"ttl_300", "ttl_600", "ttl_3600"}
    assert advice.saved_percent.low <= advice.saved_percent.estimate <= advice.saved_percent.high
    [small] = [each for each in outcomes if each.name == "best_lately" and each.memory_gb == 24.0]
    advice = recommend([small, *(each for each in outcomes if each.name == "lru" and each.memory_gb == 24.0)])
    assert (advice.policy, advice.instead_of, advice.certain) == ("best_lately", "lru", True)
    assert 0.0 < advice.saved_seconds.low < advice.saved_seconds.estimate < advice.saved_seconds.high
    first, waited, again = sentences(advice, [small])
    assert first == "recommended: best_lately with 24 GB; models stay until others need their memory"
    assert "% less than with lru in as much memory" in waited
    assert "90 % sure: " in waited
    assert "of 100 histories drawn from the 9 periods of 6 hours recommend the same" in again


def test_where_nothing_is_saved_it_says_so() -> None:
    outcomes = compared(history_of(uses("abc")), ["best_lately"], 3 * SIZE)
    waited = sentences(recommend(outcomes[:2]), outcomes)[1]
    assert waited.endswith("for memory and loads: as good as lru in as much memory; nothing saved")


def test_of_a_very_long_history_several_periods_are_drawn_as_one() -> None:
    days = [Request(at=day * 86_400.0, model_id="abc"[day % 3]) for day in range(1_000)]
    advice = recommend(compared(history_of(days), ["best_lately"], 2 * SIZE)[:2])
    assert (advice.periods, advice.period_seconds) == (250, 4 * 86_400.0)


def test_a_short_history_recommends_and_says_that_it_cannot_say_how_sure_that_is() -> None:
    outcomes = compared(history_of(uses("abcabc")), ["best_lately"], 2 * SIZE, 3 * SIZE)
    advice = recommend(outcomes)
    assert not advice.is_long_enough
    assert not advice.certain
    told = " ".join(sentences(advice, outcomes))
    assert (
        "how sure that is cannot be told: it takes 8 periods of an hour with requests, and there are 1"
        in told
    )
    assert "other budgets: 12 GB: " in told


def test_the_page_needs_no_other_host_and_shows_names_as_they_are() -> None:
    outcomes = compared(long_history(), ["lru"], 2 * SIZE, 4 * SIZE)
    shown = page("<Replay>", outcomes, ["a & b"])
    assert "&lt;Replay&gt;" in shown
    assert "a &amp; b" in shown
    assert shown.count("<svg") == 1 + 2 * 2  # budgets, and for each the policies and the periods
    assert not re.search(r"https?:|src=|@import|<link", shown)


# --- the log --------------------------------------------------------------------------------------------


def test_a_log_is_a_history_of_uses_with_the_time_that_they_took_and_the_costs_of_loads() -> None:
    reading = LogHistory(node="n1", default=DEFAULT)
    for seq, data in enumerate(
        (
            msgspec.structs.replace(
                loaded("a", node="n1", bytes_=3 * SIZE, load_ms=60_000.0), process_ms=8_000.0, gpu_bytes=SIZE
            ),
            loaded("b", node="n2", bytes_=9 * SIZE, load_ms=1.0),
            generated("a", node="n1", conversation="c1"),
            generated("a", node="n2", conversation="c2"),
            UsageRecorded(model_id="b", usage_type="embedding"),
        ),
        1,
    ):
        reading.fold(recorded(data, seq, at=T0))
    history = reading.history()
    assert [(each.model_id, each.group_id, each.seconds) for each in history.requests] == [
        ("a", "c1", 4.5),  # half a second until the first token, and four for the others
        ("b", "", 0.0),
    ]
    assert history.requests[0].at == T0.timestamp() - 4.5
    assert history.candidates["a"] == Candidate(model_id="a", bytes=4 * SIZE, reload_seconds=8.0)
    assert history.candidates["b"].bytes == 4 * SIZE  # the mean of those that were loaded here


def test_a_replay_of_a_log_waits_as_long_as_was_waited() -> None:
    reading = LogHistory(default=msgspec.structs.replace(DEFAULT, reload_seconds=20.0))
    uses = (("a", 120.0, 100.0, 20.0), ("b", 145.0, 5.0, 140.0))  # asked at 0
    for seq, (model_id, end, took, waited) in enumerate(uses, 1):
        use = generated(model_id, node="n1", conversation="", seconds=took, waited_ms=waited * 1000)
        reading.fold(recorded(use, seq, at=T0 + timedelta(seconds=end)))
    history = reading.history()
    assert [each.at for each in history.requests] == [T0.timestamp()] * 2
    assert history.remarks == ()
    assert lru(history, 1, instant=False).waited_seconds == 20.0 + 140.0
    assert lru(history, 2, instant=False).waited_seconds == 20.0 + 20.0


def test_a_log_of_an_older_version_has_a_remark_that_waits_are_missing() -> None:
    reading = LogHistory(default=DEFAULT)
    for seq, model_id in enumerate("ab", 1):
        reading.fold(recorded(generated(model_id, node="n1", conversation=""), seq, at=T0))
    [remark] = reading.history().remarks
    assert remark.startswith("2 requests are of versions that did not record for how long they had waited")


def loaded(model_id: str, *, node: str, bytes_: int, load_ms: float) -> InstanceLoaded:
    return InstanceLoaded(
        node=node, model_id=model_id, instance_id="i", pid=1, resident_bytes=bytes_, load_ms=load_ms
    )


def generated(
    model_id: str,
    *,
    node: str,
    conversation: str,
    seconds: float = 4.5,
    waited_ms: float | UnsetType = UNSET,
) -> Generated:
    return Generated(
        model_id=model_id,
        node=node,
        instance_id="i",
        generation_id="g",
        conversation_id=conversation,
        prompt_tokens=10,
        reused_tokens=0,
        completion_tokens=5,
        queue_ms=100.0,
        time_to_first_token_ms=500.0,
        generation_ms=seconds * 1000 - 500.0,
        outcome="stop",
        waited_ms=waited_ms,
    )
