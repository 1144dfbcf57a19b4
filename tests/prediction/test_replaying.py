"""A history in virtual time: what is counted, comparisons, and bad input."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from suite.errors import InvalidRequest
from suite.prediction.eviction.policies import POLICIES
from suite.prediction.eviction.policy import Candidate
from suite.prediction.eviction.recency import LeastRecentlyUsed
from suite.prediction.keep_alive import LearnedKeepAlive, TimeToLive
from suite.prediction.replay.belady import Belady
from suite.prediction.replay.contest import contestants, replay
from suite.prediction.replay.history import History, Request, read_csv
from suite.prediction.replay.node import VirtualNode
from suite.prediction.replay.outcome import Outcome
from suite.prediction.replay.page import page
from suite.prediction.replay.recommendation import recommend
from support.histories import DEFAULT, SIZE, history_of, made_up, made_up_csv


def uses(models: str, *, every: float = 100.0) -> list[Request]:
    return [Request(at=number * every, model_id=model_id) for number, model_id in enumerate(models)]


def lru(history: History, room: int) -> Outcome:
    return VirtualNode(history, LeastRecentlyUsed(), limit_bytes=room * SIZE).run("lru")


def test_it_counts_cold_starts_evictions_waiting_and_memory_over_time() -> None:
    outcome = lru(history_of(uses("abacb")), 2)
    assert (outcome.requests, outcome.cold_starts, outcome.loads, outcome.evictions) == (5, 4, 4, 2)
    assert outcome.cold_percent == 80.0
    assert (outcome.waited_p50_seconds, outcome.waited_seconds) == (20.0, 80.0)
    assert outcome.model_hours == pytest.approx((400 + 300) / 3600)  # one since 0 s, two since 100 s
    assert outcome.gb_hours == pytest.approx(6 * outcome.model_hours)


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
    node = VirtualNode(history, LeastRecentlyUsed(), limit_bytes=None, keep_alive=TimeToLive(100.0))
    outcome = node.run("ttl")
    assert (outcome.cold_starts, outcome.idle_unloads, outcome.evictions) == (2, 1, 0)
    assert outcome.model_hours == pytest.approx(160 / 3600)


def test_what_is_learned_keeps_models_no_longer_in_all_than_the_ttl_and_has_no_more_cold_starts() -> None:
    history = history_of(made_up(6_000))
    learned, plain = (
        VirtualNode(history, LeastRecentlyUsed(), limit_bytes=None, keep_alive=keep_alive).run("")
        for keep_alive in (LearnedKeepAlive(300.0), TimeToLive(300.0))
    )
    assert learned.model_hours <= 1.01 * plain.model_hours
    assert learned.cold_starts <= plain.cold_starts


@given(
    models=st.text(alphabet="abcdef", min_size=1, max_size=60),
    sizes=st.lists(st.integers(1, 3), min_size=6, max_size=6),
    room=st.integers(1, 4),
)
@settings(max_examples=40)
def test_the_budget_is_kept_and_nobody_beats_the_bound(models: str, sizes: list[int], room: int) -> None:
    unequal = [
        Candidate(model_id=model_id, bytes=size * SIZE, reload_seconds=float(size))
        for model_id, size in zip("abcdef", sizes, strict=True)
    ]
    history = history_of(uses(models), *unequal)
    for name, make in POLICIES.items():
        outcome = VirtualNode(history, make(room * SIZE), limit_bytes=room * SIZE).run(name)
        assert outcome.gb_hours <= room * SIZE / 1e9 * history.hours + 1e-9
        assert outcome.loads == outcome.cold_starts - outcome.refused
    alike = history_of(uses(models))
    bound = VirtualNode(alike, Belady(alike.requests), limit_bytes=room * SIZE).run("").cold_starts
    for name, make in POLICIES.items():
        assert bound <= VirtualNode(alike, make(room * SIZE), limit_bytes=room * SIZE).run(name).cold_starts


# --- files ----------------------------------------------------------------------------------------------


def read(tmp_path: Path, text: str) -> History:
    path = tmp_path / "requests.csv"
    path.write_text(text)
    return read_csv(path, default=DEFAULT)


def test_a_file_is_read_with_costs_and_what_is_odd_about_it_is_told(tmp_path: Path) -> None:
    history = read(
        tmp_path, "colour,timestamp_s,model_id,model_gb,load_s\nred,5,b,,\nblue,-3,a,2.5,7\n\nred,4,b,1,\n"
    )
    assert [(each.at, each.model_id) for each in history.requests] == [(-3, "a"), (4, "b"), (5, "b")]
    assert history.candidates["a"] == Candidate(model_id="a", bytes=2_500_000_000, reload_seconds=7.0)
    assert history.candidates["b"] == Candidate(model_id="b", bytes=1_000_000_000, reload_seconds=20.0)
    assert history.remarks == (
        "columns that are not used: colour",
        "1 requests stood behind a later one: they were put in the order of time",
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
        ("timestamp_s,model_id\n1,a\nsoon,b\n", "line 3: 'soon' is no number"),
        ("timestamp_s,model_id\nnan,a\n", "line 2: 'nan' is no number"),
        ("timestamp_s,model_id,duration_s\n1,a,-2\n", "line 2: '-2' is no number"),
        ("timestamp_s,model_id,model_gb\n1,a,0\n", "line 2: '0' is no number"),
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


def test_lru_ttls_and_the_bound_are_beside_any_policy() -> None:
    outcomes = replay(history_of(uses("abcabc")), contestants(["greedy_dual"]), [2 * SIZE, None])
    assert [(each.policy, each.memory_gb) for each in outcomes] == [
        *((name, 12.0) for name in ("greedy_dual", "lru", "ttl_300", "ttl_600", "ttl_3600", "belady")),
        *((f"{kind}_{ttl}", None) for ttl in (300, 600, 3600) for kind in ("learned", "ttl")),
    ]
    assert [each.name for each in contestants(["all"])] == [*POLICIES]


def test_a_budget_without_room_for_any_model_and_unknown_policies_are_refused() -> None:
    history = history_of(uses("ab"))
    with pytest.raises(
        InvalidRequest, match=r"5 GB has room for none of the models: the smallest, a, takes 6"
    ):
        replay(history, contestants([]), [5_000_000_000])
    for name, problem in (
        ("mru", "there is no policy 'mru': use best_lately"),
        ("nosuch:Policy", "cannot be imported: ModuleNotFoundError"),
        ("math:nosuch", "cannot be imported: AttributeError"),
    ):
        with pytest.raises(InvalidRequest, match=problem):
            contestants([name])
    for name, problem in (
        ("math:sqrt", "cannot be made without arguments"),
        ("builtins:dict", "no method fold"),
    ):
        with pytest.raises(InvalidRequest, match=problem):
            replay(history, contestants([name]), [2 * SIZE])


class Forgetful(LeastRecentlyUsed):
    """A policy of one's own that works until it is asked."""

    def worth(self, candidate: Candidate, *, now: float) -> float:
        del now
        raise KeyError(candidate.model_id)


def test_a_policy_of_ones_own_that_fails_is_told_in_its_outcome_and_never_recommended() -> None:
    name = f"{__name__}:Forgetful"
    outcomes = replay(history_of(uses("abcabcab" * 4)), contestants([name]), [2 * SIZE])
    assert outcomes[0].remark == ("worth raised KeyError: 'a', at fact 4: best_lately went on from there")
    assert recommend(outcomes).policy != name


def test_what_is_recommended_waited_least_with_the_least_memory_and_says_how_sure_that_is() -> None:
    history = history_of(made_up(6_000))
    outcomes = replay(history, contestants(["best_lately"]), [4 * SIZE, 16 * SIZE, 32 * SIZE])
    advice = recommend(outcomes)
    assert advice == recommend(outcomes)
    assert advice.memory_gb == 96.0  # all 16 models fit
    assert advice.saved_percent.low <= advice.saved_percent.estimate <= advice.saved_percent.high
    small = recommend([each for each in outcomes if each.memory_gb == 24.0])
    assert (small.policy, small.instead_of, small.certain) == ("best_lately", "lru", True)
    assert small.saved_seconds.low > 0


def test_the_page_needs_no_other_host_and_shows_names_as_they_are() -> None:
    outcomes = replay(history_of(made_up(6_000)), contestants(["lru"]), [2 * SIZE])
    shown = page("<Replay>", outcomes, ["a & b"])
    assert "&lt;Replay&gt;" in shown
    assert "a &amp; b" in shown
    assert shown.count("<svg") == 2
    assert not re.search(r"https?:|src=|@import|<link", shown)
