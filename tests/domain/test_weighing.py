"""A decision says what it has weighed, and what would have changed it: the decider was asked again."""

from __future__ import annotations

import msgspec

from suite.domain.footprint import Footprint
from suite.domain.turns import LONGEST_TURN_SECONDS, Queued, Request, evolve
from suite.domain.weighing import MOST_CANDIDATES, weigh, weigh_excess
from suite.messages.decisions import Candidate, Decision, MoreMemory, NotPinned, NotUsed, UsedLater, WorthMore
from support.memory import Memory


def memory(limit: int = 100, **loaded: int) -> Memory:
    """One in which models are loaded, idle, and had their turn; the first of them was used least recently."""
    memory = Memory(limit)
    for model, size in loaded.items():
        request = memory.ask(model, size)
        memory.finish_load(model)
        memory.finish(request)
        memory.pass_time(1.0)
    memory.pass_time(LONGEST_TURN_SECONDS)
    memory.decisions.clear()
    return memory


def standings(decision: Decision) -> dict[str, str]:
    return {each.model_id: each.standing for each in decision.candidates}


def test_who_was_weighed_in_the_order_of_leaving() -> None:
    node = memory(a=30, b=40, c=30)
    node.ask("c", 30)
    node.ask("d", 20)
    (decision,) = node.decisions
    assert (decision.need_bytes, decision.free_bytes, decision.limit_bytes) == (20, 0, 100)
    assert (decision.waiting, decision.purpose, decision.more_candidates) == (1, "request", 0)
    assert decision.candidates[0] == Candidate(
        model_id="a", bytes=30, standing="idle", chosen=True, unused_seconds=63.0
    )
    assert standings(decision) == {"a": "idle", "b": "idle", "c": "used"}


def test_one_stays_if_it_had_been_used_later_than_the_next() -> None:
    node = memory(a=30, b=40, c=30)
    node.ask("d", 20)
    assert node.decisions[0].alternatives == (
        MoreMemory(bytes=20, starts=True),
        UsedLater(model_id="a", unused_seconds=62.0, starts=True, evicting=("b",)),
    )


def test_one_stays_if_the_policy_had_found_it_worth_more_than_the_next() -> None:
    node = memory(a=30, b=40, c=30)
    request = Request(
        request_id="r", model_id="d", need_bytes=Footprint(20), since=node.now, deadline=node.now
    )
    state = evolve(node.state, Queued(request=request))
    worth = {"a": 3.0, "b": 1.0, "c": 2.0}
    occupancy = {id: msgspec.structs.replace(use, worth=worth[id]) for id, use in node.occupancy().items()}
    decision = weigh(state, "d", now=node.now, occupancy=occupancy, policy="best_lately")
    assert decision.policy == "best_lately"
    assert [(each.model_id, each.worth) for each in decision.candidates] == [
        ("b", 1.0),
        ("c", 2.0),
        ("a", 3.0),
    ]
    assert WorthMore(model_id="b", worth=2.0, starts=True, evicting=("c",)) in decision.alternatives


def test_who_is_pinned_or_used_would_have_left() -> None:
    node = memory(a=30, b=30, c=40)
    node.pin("a", 30)
    node.ask("b", 30)
    node.ask("d", 20)
    (decision,) = node.decisions
    assert standings(decision) == {"c": "idle", "b": "used", "a": "pinned"}
    assert decision.alternatives == (
        MoreMemory(bytes=20, starts=True),
        NotPinned(model_id="a", starts=True, evicting=("a",)),
        NotUsed(model_id="b", starts=True, evicting=("b",)),
    )


def test_memory_that_was_kept_for_a_pinned_model() -> None:
    node = memory(a=40)
    node.pin("p", 50)
    node.ask("b", 40)
    assert NotPinned(model_id="p", starts=True) in node.decisions[0].alternatives


def test_what_a_wait_waits_for_and_what_would_end_it() -> None:
    node = memory(a=60, b=40)
    node.ask("a", 60)
    node.ask("c", 70)
    node.pass_time(0.25)
    node.ask("c", 70)
    decision = node.weighed("c")
    assert (decision.waiting, decision.waited_seconds) == (2, 0.25)
    assert standings(decision) == {"b": "idle", "a": "used"}
    assert all(each.chosen for each in decision.candidates)
    assert decision.candidates[1].stays_seconds is not None
    assert decision.alternatives == (
        MoreMemory(bytes=30, starts=True, evicting=("b",)),
        NotUsed(model_id="a", starts=True, evicting=("a", "b")),
    )


def test_what_makes_possible_what_can_never_fit() -> None:
    node = memory(a=60)
    node.ask("a", 60)
    node.ask("c", 70)
    node.pin("a", 60)
    assert not node.waiting
    node.pin("a", 20)
    node.unpin("a")
    node.ask("c", 70)
    decision = weigh(
        msgspec.structs.replace(node.state, pinned={"a": 60}), "c", now=node.now, occupancy=node.occupancy()
    )
    assert decision.alternatives == (
        MoreMemory(bytes=30, starts=True),
        NotPinned(model_id="a", starts=False),
    )


def test_what_leaves_for_others_in_front_is_promised() -> None:
    node = memory(a=40, b=40)
    node.ask("a", 40)
    node.ask("c", 90)
    node.ask("d", 30)
    assert standings(node.weighed("d")) == {"b": "promised", "a": "used"}


def test_an_event_lists_the_chosen_and_no_more_than_so_many_others() -> None:
    node = memory(100, **{f"m{number}": 2 for number in range(45)}, big=8)
    node.ask("new", 10)
    (decision,) = node.decisions
    assert len(decision.candidates) == MOST_CANDIDATES
    assert decision.more_candidates == 46 - MOST_CANDIDATES
    assert sum(each.chosen for each in decision.candidates) == 4


def test_what_left_because_all_together_needed_too_much() -> None:
    node = memory(a=50)
    node.ask("b", 50)
    state = node.state
    residents = dict(state.residency.residents)
    residents["b"] = msgspec.structs.replace(residents["b"], reserved_bytes=Footprint(70))
    over = msgspec.structs.replace(
        state, residency=msgspec.structs.replace(state.residency, residents=residents)
    )
    decision = weigh_excess(over, now=node.now, occupancy=node.occupancy())
    assert (decision.purpose, decision.free_bytes) == ("excess", -20)
    assert {each.model_id: each.chosen for each in decision.candidates} == {"a": True, "b": False}


def test_more_memory_helps_also_where_other_programs_use_it() -> None:
    node = memory(a=30, b=30)
    residency = msgspec.structs.replace(node.state.residency, available_bytes=Footprint(70))
    request = Request(
        request_id="r", model_id="d", need_bytes=Footprint(20), since=node.now, deadline=node.now
    )
    state = evolve(msgspec.structs.replace(node.state, residency=residency), Queued(request=request))
    decision = weigh(state, "d", now=node.now, occupancy=node.occupancy())
    assert (decision.free_bytes, decision.left_by_others_bytes) == (10, 70)
    assert decision.alternatives[0] == MoreMemory(bytes=10, starts=True)


def test_a_request_may_have_others_leave_than_the_preload_in_front_of_it() -> None:
    node = memory(a=50, b=50)
    preload = Request(
        request_id="p",
        model_id="d",
        need_bytes=Footprint(20),
        since=node.now,
        deadline=node.now,
        purpose="preload",
        only_evicting=("b",),
    )
    alone = evolve(node.state, Queued(request=preload))
    decision = weigh(alone, "d", now=node.now, occupancy=node.occupancy())
    assert (decision.purpose, [each.model_id for each in decision.candidates if each.chosen]) == (
        "preload",
        ["b"],
    )
    request = msgspec.structs.replace(preload, request_id="r", purpose="request", only_evicting=None)
    both = evolve(alone, Queued(request=request))
    decision = weigh(both, "d", now=node.now, occupancy=node.occupancy())
    assert (decision.purpose, [each.model_id for each in decision.candidates if each.chosen]) == (
        "request",
        ["a"],
    )
