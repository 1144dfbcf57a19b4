"""What a node learns from its log about its models: their costs, and what their memory is worth."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

import msgspec
import pytest

from suite.domain.footprint import Footprint
from suite.messages.envelope import Recorded
from suite.messages.events import (
    Event,
    Generated,
    InstanceLoaded,
    InstanceLoadStarted,
    InstanceUnloaded,
    UsageRecorded,
)
from suite.prediction.costs import Costs, LoadKey
from suite.prediction.eviction.appraiser import Appraiser
from suite.prediction.eviction.best_lately import BestLately
from suite.prediction.eviction.greedy_dual import GreedyDual
from suite.prediction.eviction.policy import Candidate
from suite.prediction.keep_alive import KeepAliveFold, LearnedKeepAlive
from suite.prediction.steady_time import SteadyTime
from support.folding import T0, log_of, recorded

NODE, LIMIT = "box", 2


def load(
    model_id: str, seconds: float, *, content: str = "c", bytes_: int = 1, node: str = NODE
) -> list[Event]:
    instance_id = f"{model_id}{seconds}"
    return [
        InstanceLoadStarted(
            node=node,
            model_id=model_id,
            instance_id=instance_id,
            reserved_bytes=bytes_,
            context_tokens=512,
            content=content,
            settings_key="s",
        ),
        InstanceLoaded(
            node=node,
            model_id=model_id,
            instance_id=instance_id,
            pid=1,
            resident_bytes=bytes_,
            load_ms=seconds * 1000,
        ),
    ]


def generated(model_id: str, *, read: int = 100, reused: int = 0, seconds: float = 1.0) -> Generated:
    return Generated(
        model_id=model_id,
        node=NODE,
        instance_id="i",
        generation_id="g",
        prompt_tokens=read + reused,
        reused_tokens=reused,
        completion_tokens=1,
        queue_ms=500,
        time_to_first_token_ms=500 + seconds * 1000,
        generation_ms=seconds * 1000,
        outcome="stop",
    )


def evicted(model_id: str) -> InstanceUnloaded:
    return InstanceUnloaded(node=NODE, model_id=model_id, instance_id="i", reason="evicted", freed_bytes=1)


def use(model_id: str) -> UsageRecorded:
    return UsageRecorded(model_id=model_id, usage_type="test")


def costs_of(*events: Event) -> Costs:
    costs = Costs(NODE)
    for event in events:
        costs.fold(event)
    return costs


def test_a_load_costs_the_median_of_the_loads_of_that_content_with_these_settings() -> None:
    loads = [event for seconds in (90.0, 4.0, 5.0, 6.0, 5.0, 60.0) for event in load("m", seconds)]
    costs = costs_of(*loads, *load("m", 1.0, content="other"), *load("m", 2.0, node="else"))
    assert costs.load_seconds(LoadKey("m", "c", "s")) == 5.0  # the first one is forgotten
    assert costs.load_seconds(LoadKey("m", "other", "s")) == 1.0
    assert costs.load_seconds(LoadKey("m", "c", "")) is None
    assert costs.candidate("m") == Candidate(model_id="m", bytes=1, reload_seconds=1.0)


def test_the_wait_for_those_that_had_to_leave_is_no_part_of_the_costs_and_memory_of_gpus_is() -> None:
    started, loaded = load("m", 60.0, bytes_=3)
    assert isinstance(loaded, InstanceLoaded)
    costs = costs_of(started, msgspec.structs.replace(loaded, process_ms=2000.0, gpu_bytes=4))
    assert costs.candidate("m") == Candidate(model_id="m", bytes=7, gpus={"gpu0": 4}, reload_seconds=2.0)


def test_conversations_cost_what_reading_them_again_takes_as_far_as_prompts_go_on_with_them() -> None:
    assert costs_of().read_seconds("m", 1000) == 0.0
    assert costs_of(generated("m")).read_seconds("m", 1000) == 0.0  # nobody goes on with anything
    costs = costs_of(*[generated("m", read=100, reused=300, seconds=2.0)] * 5)
    assert costs.read_seconds("m", 1000) == pytest.approx(0.75 * 1000 / 50)
    assert costs.read_seconds("other", 1000) == 0.0


def at(time: datetime, *, source: str = "/node/test") -> Recorded:
    return msgspec.structs.replace(recorded(use("m"), 1, at=time), source=source)


def test_time_goes_on_after_a_clock_that_was_ahead_was_put_right() -> None:
    time = SteadyTime("test")
    began = time.advance(at(T0))
    assert time.advance(at(T0 - timedelta(seconds=1))) == began  # a little late in the log
    assert time.at(T0 + timedelta(seconds=10)) == began + 10
    ahead = time.advance(at(T0 + timedelta(days=200)))
    assert time.at(T0 + timedelta(minutes=1)) == ahead
    assert time.advance(at(T0 + timedelta(minutes=1))) == ahead
    assert time.advance(at(T0 + timedelta(minutes=2))) == ahead + 60


def test_time_does_not_run_away_between_two_nodes_whose_clocks_do_not_agree() -> None:
    time, skew = SteadyTime("test"), timedelta(seconds=90)
    began = time.advance(at(T0))
    for seconds in range(1, 200, 2):
        elsewhere = at(T0 + timedelta(seconds=seconds) + skew, source="/node/else/m")
        time.advance(elsewhere)
        ended = time.advance(at(T0 + timedelta(seconds=seconds + 1)))
    assert began + 200 <= ended <= began + 200 + skew.total_seconds()
    assert time.at(T0 + timedelta(seconds=210)) == ended + 10


def appraiser_of(events: Iterable[Recorded]) -> Appraiser:
    appraiser = Appraiser(NODE, BestLately(Footprint(LIMIT)), limit_bytes=Footprint(LIMIT))
    for event in events:
        appraiser.fold(event)
    return appraiser


def a_day() -> list[Recorded]:
    """Three models and memory for two: c is seldom used."""
    events: list[Event] = [*load("a", 3.0), *load("b", 4.0), *load("c", 5.0)]
    for round in range(40):
        events += [generated("a"), use("b"), generated("a"), use("b" if round % 8 else "c")]
        events += [evicted("c"), *load("c", 5.0)] if round % 8 == 0 else []
    return log_of(events)


def test_the_same_events_and_moment_give_the_same_worth() -> None:
    log = a_day()
    one, again = appraiser_of(log), appraiser_of(log)
    candidates = [Candidate(model_id=id, bytes=1, reload_seconds=3.0) for id in "abc"]
    now = log[-1].time + timedelta(minutes=1)
    worth = one.worth(candidates, now)
    assert worth == again.worth(candidates, now) == one.worth(candidates, now)  # to ask teaches nothing
    assert min(worth, key=worth.__getitem__) == "c"
    assert (one.policy, one.first_seq, one.last_seq) == ("best_lately", 1, len(log))
    assert one.follows == again.follows


def test_only_what_this_node_did_and_uses_that_say_no_node_count() -> None:
    mine, all_ = GreedyDual(), GreedyDual()
    appraiser = Appraiser(NODE, mine, limit_bytes=Footprint(LIMIT))
    elsewhere = Appraiser("else", all_, limit_bytes=Footprint(LIMIT))
    for event in log_of([*load("a", 3.0), generated("a"), use("a"), evicted("a")]):
        appraiser.fold(event)
        elsewhere.fold(event)
    a = Candidate(model_id="a", bytes=1, reload_seconds=3.0)
    assert appraiser.worth([a], T0)["a"] == 6.0
    assert elsewhere.worth([a], T0)["a"] == 3.0


def test_a_learned_keep_alive_learns_from_the_log_and_what_was_never_used_stays_as_by_the_ttl() -> None:
    fold, same = KeepAliveFold(NODE, LearnedKeepAlive(300.0)), LearnedKeepAlive(300.0)
    assert fold.seconds("a") == 300.0
    for seq in range(1, 200):
        at = T0 + timedelta(seconds=20 * seq)
        fold.fold(recorded(generated("a"), seq, at=at))
        fold.fold(recorded(evicted("a"), seq, at=at))
        same.used("a", at.timestamp())
    assert fold.seconds("a") == same.seconds("a") != 300.0
