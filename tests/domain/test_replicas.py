"""Hot models get copies, and lose them: a fleet in virtual time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from suite.domain.footprint import Footprint
from suite.domain.nodes import Hosted, Nodes, NodeView, Offered
from suite.domain.replicas import Add, Decision, Remove, Replicas, Rule

RULE = Rule()
SLOTS = 4
MODEL = "hot"


class Fleet:
    """Nodes that carry out what is decided, with requests that go where the least is to do."""

    def __init__(self, room: Mapping[str, int], rule: Rule = RULE) -> None:
        self.views = {
            name: NodeView(
                node=name, free=Footprint(free), offered={MODEL: Offered(footprint=Footprint(1), sha256="x")}
            )
            for name, free in room.items()
        }
        self.replicas = Replicas(rule)
        self.now = 0.0
        self.decided: list[Decision] = []

    def host(self, node: str, model_id: str = MODEL, hosted: Hosted | None = None) -> None:
        view = self.views[node]
        hosted = hosted or Hosted(slots=SLOTS, footprint=Footprint(1), sha256="x", loss=3.0)
        self.views[node] = msgspec.structs.replace(view, hosted={**view.hosted, model_id: hosted})

    @property
    def copies(self) -> list[str]:
        return [name for name, view in self.views.items() if MODEL in view.hosted]

    def ask(self, requests: int) -> None:
        """Have so many requests run or wait at the same time."""
        copies = self.copies
        for number, node in enumerate(copies):
            share = requests // len(copies) + (number < requests % len(copies))
            before = self.views[node].hosted[MODEL]
            self.host(node, hosted=msgspec.structs.replace(before, holds=share, may_leave=not share))

    def run(self, seconds: int, requests: Callable[[int], int]) -> list[Decision]:
        """Let time pass with a load. Returns what was decided meanwhile."""
        since = len(self.decided)
        for second in range(seconds):
            self.ask(requests(second))
            self.now += 1.0
            for each in self.replicas.decide(Nodes(self.views.values()), here="box1", now=self.now):
                self.decided.append(each)
                self._carry_out(each)
        return self.decided[since:]

    def _carry_out(self, decision: Decision) -> None:
        if isinstance(decision, Add):
            copy = Hosted(slots=SLOTS, footprint=Footprint(1), sha256="x", is_replica=True, loss=3.0)
            self.host(decision.node, decision.model_id, copy)
        else:
            view = self.views[decision.node]
            left = {id: each for id, each in view.hosted.items() if id != decision.model_id}
            self.views[decision.node] = msgspec.structs.replace(view, hosted=left)


def steady(requests: int) -> Callable[[int], int]:
    return lambda _: requests


def test_a_model_for_which_requests_wait_gets_a_copy_and_loses_it_when_it_is_not_needed() -> None:
    fleet = Fleet({"box1": 1, "box2": 1, "box3": 1})
    fleet.host("box1")
    [added] = fleet.run(30, steady(7))
    assert isinstance(added, Add)
    assert len(fleet.copies) == 2
    assert fleet.run(300, steady(2)) == []  # it is used whenever it is looked at
    assert fleet.run(60, lambda second: second % 2) == [Remove(model_id=MODEL, node=added.node)]
    assert fleet.copies == ["box1"]


def test_a_copy_that_somebody_has_asked_for_stays() -> None:
    fleet = Fleet({"box1": 1, "box2": 1})
    fleet.host("box1")
    fleet.host("box2")
    assert fleet.run(300, steady(0)) == []


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 40), st.integers(1, 5))
def test_a_steady_load_changes_nothing_for_long(requests: int, nodes: int) -> None:
    fleet = Fleet({f"box{number}": 1 for number in range(1, nodes + 1)})
    fleet.host("box1")
    fleet.run(300, steady(requests))
    assert fleet.run(600, steady(requests)) == []


loads = st.lists(st.tuples(st.integers(1, 120), st.integers(0, 40)), max_size=8)


@settings(deadline=None, max_examples=50)
@given(loads, st.integers(1, 5), st.integers(0, 4))
def test_there_is_always_a_copy_and_never_more_than_are_allowed(
    loads: Sequence[tuple[int, int]], nodes: int, most: int
) -> None:
    fleet = Fleet({f"box{number}": 1 for number in range(1, nodes + 1)}, Rule(max_copies=most))
    fleet.host("box1")
    for seconds, requests in loads:
        fleet.run(seconds, steady(requests))
        assert "box1" in fleet.copies  # not a replica, so it is left alone
        assert len(fleet.copies) <= (most or nodes)


@settings(deadline=None, max_examples=50)
@given(loads)
def test_a_pinned_copy_stays(loads: Sequence[tuple[int, int]]) -> None:
    fleet = Fleet({"box1": 1, "box2": 1})
    fleet.host("box1")
    pinned = Hosted(slots=SLOTS, footprint=Footprint(1), is_replica=True, may_leave=False)
    for seconds, requests in loads:
        fleet.host("box2", hosted=pinned)
        views = Nodes(fleet.views.values())
        for _ in range(seconds):
            fleet.now += 1.0
            for each in fleet.replicas.decide(views, here="box1", now=fleet.now):
                assert not isinstance(each, Remove), requests


def test_a_copy_takes_no_memory_of_what_is_worth_more() -> None:
    for loss, is_worth_it in ((2.9, True), (3.1, False)):
        fleet = Fleet({"box1": 1, "box2": 0})
        fleet.host("box1")
        fleet.host("box2", "idle", Hosted(footprint=Footprint(1), may_leave=True, loss=loss))
        decided = fleet.run(30, steady(20))
        assert decided == [Add(model_id=MODEL, node="box2", evicting=("idle",))] * is_worth_it


def test_a_copy_is_of_the_same_file() -> None:
    fleet = Fleet({"box1": 1, "box2": 1})
    fleet.host("box1")
    other = {MODEL: Offered(footprint=Footprint(1), sha256="y")}
    fleet.views["box2"] = msgspec.structs.replace(fleet.views["box2"], offered=other)
    assert fleet.run(30, steady(20)) == []


def test_no_copy_is_added_while_one_is_loading() -> None:
    fleet = Fleet({"box1": 1, "box2": 1, "box3": 1})
    fleet.host("box1")
    fleet.host("box2", hosted=Hosted(slots=SLOTS, footprint=Footprint(1), sha256="x", is_ready=False))
    fleet.views["box1"] = msgspec.structs.replace(
        fleet.views["box1"], hosted={MODEL: Hosted(slots=SLOTS, holds=40, sha256="x", loss=3.0)}
    )
    views = Nodes(fleet.views.values())
    decided = [fleet.replicas.decide(views, here="box1", now=float(second)) for second in range(60)]
    assert not any(decided)


def test_a_node_that_refused_is_left_alone_for_a_while() -> None:
    fleet = Fleet({"box1": 1, "box2": 1})
    fleet.host("box1", hosted=Hosted(slots=SLOTS, holds=40, sha256="x", loss=3.0))
    views = Nodes(fleet.views.values())
    asked = []
    for second in range(100):
        for each in fleet.replicas.decide(views, here="box1", now=float(second)):
            asked.append(second)
            fleet.replicas.note_refused(each.model_id, each.node, now=float(second))
    assert len(asked) == 2
    assert asked[1] - asked[0] >= 60
