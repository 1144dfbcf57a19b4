"""Who gets memory when: nobody who waits is forgotten, and nothing that is used is taken away."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from suite.domain.turns import LEAST_TURN_SECONDS, LONGEST_TURN_SECONDS, UNUSED, may_leave
from suite.errors import NotEnoughMemory, Overloaded
from support.clients import Client, run
from support.memory import Memory

LIMIT = 100
SIZES = {"a": 60, "b": 60, "c": 30, "d": 30, "e": 10, "f": 100, "g": 101}
MODELS = st.sampled_from(sorted(SIZES))


class AnyOrder(RuleBasedStateMachine):
    """Requests, crashes, pins, measurements and time in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.memory = Memory(LIMIT, queue_limit=5)
        self.measured_over: set[str] = set()

    @rule(
        model=MODELS,
        wait=st.sampled_from([0.0, 5.0, 1e6]),
        priority=st.integers(-3, 3),
        growth=st.sampled_from([0, 0, 20, 200]),
    )
    def ask(self, model: str, wait: float, priority: int, growth: int) -> None:
        with suppress(NotEnoughMemory, Overloaded):
            self.memory.ask(model, SIZES[model] + growth, growth=growth, wait=wait, priority=priority)

    @rule(model=MODELS)
    def bet(self, model: str) -> None:
        with suppress(NotEnoughMemory, Overloaded):
            self.memory.ask(model, SIZES[model], wait=0.0, only_evicting=("a", "c"), purpose="preload")

    @precondition(lambda self: any(self.memory.using.values()))
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        used = sorted(id for ids in self.memory.using.values() for id in ids)
        self.memory.finish(data.draw(st.sampled_from(used)))

    @precondition(lambda self: self.memory.waiting)
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        self.memory.withdraw(data.draw(st.sampled_from(self.memory.waiting)).request_id)

    @precondition(lambda self: self.memory.loading)
    @rule(data=st.data(), over=st.sampled_from([None, None, None, 20, 90]))
    def finish_load(self, data: st.DataObject, over: int | None) -> None:
        model = data.draw(st.sampled_from(self.memory.loading))
        reserved = self.memory.state.residency.residents[model].reserved_bytes.ram
        self.memory.finish_load(model, None if over is None else reserved + over)

    @precondition(lambda self: self.memory.loading)
    @rule(data=st.data())
    def fail_load(self, data: st.DataObject) -> None:
        self.memory.fail_load(data.draw(st.sampled_from(self.memory.loading)))

    @precondition(lambda self: self.memory.residents)
    @rule(data=st.data())
    def crash(self, data: st.DataObject) -> None:
        self.memory.crash(data.draw(st.sampled_from(sorted(self.memory.residents))))

    @precondition(lambda self: self.memory.residents)
    @rule(data=st.data())
    def unload(self, data: st.DataObject) -> None:
        self.memory.unload(data.draw(st.sampled_from(sorted(self.memory.residents))))

    @precondition(lambda self: self.memory.residents)
    @rule(data=st.data())
    def drain(self, data: st.DataObject) -> None:
        self.memory.drain(data.draw(st.sampled_from(sorted(self.memory.residents))))

    @precondition(lambda self: self.memory.leaving)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        self.memory.leave(data.draw(st.sampled_from(sorted(self.memory.leaving))))

    @rule(model=MODELS)
    def pin(self, model: str) -> None:
        state = self.memory.state
        others = sum(state.pinned_bytes(each).ram for each in state.pinned if each != model)
        if SIZES[model] + others <= LIMIT:
            self.memory.pin(model, SIZES[model])

    @rule(model=MODELS)
    def unpin(self, model: str) -> None:
        self.memory.unpin(model)

    @rule(serving=st.sets(MODELS, max_size=2))
    def promote(self, serving: set[str]) -> None:
        self.memory.promote(*serving)

    @rule(left=st.sampled_from([0, 50, 80, 90, LIMIT, 10 * LIMIT]))
    def others_leave(self, left: int) -> None:
        self.memory.others_leave(left)

    @rule(seconds=st.sampled_from([0.1, 1.0, 7.0, 70.0]))
    def pass_time(self, seconds: float) -> None:
        self.memory.pass_time(seconds)

    @rule(seconds=st.sampled_from([-1000.0, -1.0, 100.0, 1e5]))
    def the_clock_jumps(self, seconds: float) -> None:
        """Nothing is decided on the way."""
        self.memory.now += seconds
        self.memory.settle()

    @invariant()
    def the_budget_holds(self) -> None:
        """Processes may only need more together than the limit where one needs more than was estimated."""
        processes = self.memory.processes
        measured = self.memory.state.measured
        excess = sum(max(0, processes[model].ram - SIZES[model]) for model in processes if model in measured)
        assert sum(each.ram for each in processes.values()) - excess <= LIMIT

    @invariant()
    def nobody_waits_without_need(self) -> None:
        memory = self.memory
        for request in memory.waiting:
            assert request.deadline > memory.now
            model = request.model_id
            assert model not in memory.residents or model in memory.leaving or model in memory.state.closing

    @invariant()
    def an_idle_model_gives_way(self) -> None:
        """To the first of those who wait that could ever have the memory, as things stand.

        What a pinned model needs beyond that which is kept for it, it waits for like any other.
        """
        memory, state = self.memory, self.memory.state
        residents, admissible = state.residency.residents, state.residency.admissible_bytes.ram
        free = admissible - sum(
            each.reserved_bytes.ram
            for id, each in residents.items()
            if id not in memory.leaving or memory.using.get(id)
        )
        free -= sum(bytes_.ram for id, bytes_ in state.pinned.items() if id not in residents)
        idle = sum(each.reserved_bytes.ram for id, each in residents.items() if self.is_idle(id))
        for model in sorted(state.waiting, key=lambda each: state.waiting[each].rank):
            others = sum(state.pinned_bytes(each).ram for each in state.pinned if each != model)
            others += state.serving_bytes(besides=model).ram
            need = state.need_bytes(state.queue(model)[0]).ram
            if need <= admissible - others:
                kept = state.pinned[model].ram if model in state.pinned else 0
                assert model in residents or free + kept + idle < need
                return

    def is_idle(self, model: str) -> bool:
        memory, use = self.memory, self.memory.occupancy()[model]
        can_leave = may_leave(memory.state, model, now=memory.now, use=use)
        stays = model in memory.state.pinned or model in memory.state.serving
        return not stays and (can_leave or (use.gives_way and not use.leaving))

    @invariant()
    def a_place_for_everyone_who_waits(self) -> None:
        places = self.memory.plan.places
        assert set(places) == set(self.memory.state.waiting)
        assert sorted(place.place for place in places.values()) == list(range(1, len(places) + 1))

    def teardown(self) -> None:
        """As soon as what runs comes to its end, all who wait are served one after the other."""
        memory = self.memory
        memory.others_leave(LIMIT)
        memory.promote()
        rounds = 0
        while memory.waiting:
            rounds += 1
            assert rounds <= 4 * len(SIZES), "somebody waits for ever"
            for model in sorted(memory.leaving):
                memory.leave(model)
            for model in memory.loading:
                memory.finish_load(model)
            for ids in list(memory.using.values()):
                for id in sorted(ids):
                    memory.finish(id)
            memory.pass_time(LONGEST_TURN_SECONDS + 1)


AnyOrder.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestAnyOrder = AnyOrder.TestCase


# --- what a request gets ----------------------------------------------------------------------------------


def memory(limit: int = 100, **loaded: int) -> Memory:
    """One in which models are loaded, idle, and had their turn; the first of them was used least recently."""
    memory = Memory(limit)
    for model, size in loaded.items():
        request = memory.ask(model, size)
        memory.pass_time(0.5)
        memory.finish_load(model)
        memory.finish(request)
        memory.pass_time(1.0)
    memory.pass_time(LONGEST_TURN_SECONDS)
    memory.starts.clear()
    return memory


def test_a_load_that_fits_evicts_nobody() -> None:
    node = memory(a=40)
    node.ask("b", 60)
    assert node.starts[0].evicting == ()


def test_the_least_recently_used_idle_model_makes_room() -> None:
    node = memory(a=40, b=40)
    node.finish(node.ask("a", 40))
    node.ask("c", 50)
    assert node.starts[0].evicting == ("b",)


def test_no_more_leave_than_have_to() -> None:
    node = memory(a=10, b=80)
    node.ask("c", 80)
    assert node.starts[0].evicting == ("b",)


def test_what_is_in_use_stays_where_another_is_idle() -> None:
    node = memory(a=40, b=40)
    node.ask("a", 40)
    node.ask("c", 50)
    assert node.starts[0].evicting == ("b",)


def test_memory_that_is_being_freed_is_waited_for_before_another_is_evicted() -> None:
    node = memory(a=40, b=40)
    node.unload("b")
    node.ask("c", 50)
    assert node.starts[0].evicting == ("b",)
    assert not node.loading
    node.leave("b")
    assert node.loading == ["c"]


def test_memory_that_is_freed_only_when_a_drain_ends_is_waited_for_in_the_line() -> None:
    node = memory(a=60, b=40)
    running = node.ask("a", 60)
    node.drain("a")
    node.ask("c", 40, wait=0.0)
    assert node.starts[-1].evicting == ("b",)
    assert node.loading == []
    node.leave("b")
    assert node.loading == ["c"]
    assert node.ask("d", 60, wait=0.0) in node.refused
    again = node.ask("a", 60, wait=10.0)
    behind = node.ask("d", 60, wait=5.0)
    node.pass_time(6.0)
    assert behind in node.refused
    assert node.plan.places["a"].waits_for == ("a",)
    node.finish(running)
    node.leave("a")
    assert again in node.served


def test_a_refusal_after_the_wait_says_what_uses_the_memory() -> None:
    node = memory(2**32, a=2**30, b=2**30)
    node.ask("a", 2**30)
    node.pin("b", 2**30)
    node.ask("c", 2**31)
    late = node.ask("d", 2**30, wait=3.0)
    node.pass_time(2.9)
    assert not node.refused
    node.pass_time(0.2)
    expected = "d needs 1.00 GiB of 4.00 GiB, which is used by a 1.00 GiB (in use), b 1.00 GiB (pinned)"
    assert expected in node.refused[late].message


def test_what_other_programs_use_is_not_admitted_and_costs_nobody_its_place() -> None:
    node = memory(2**32, a=2**30)
    node.ask("a", 2**30)
    node.others_leave(3 * 2**29)
    late = node.ask("b", 2**30, wait=3.0)
    node.pass_time(4.0)
    assert (
        "b needs 1.00 GiB of 4.00 GiB, of which other programs leave 1.50 GiB, which is used by "
        "a 1.00 GiB (in use): unload one of them when it is free, end other programs"
    ) in node.refused[late].message
    assert not node.evicted
    waits = node.ask("b", 2**30)
    node.others_leave(2**32)
    assert waits in node.served


def test_who_waits_for_other_programs_keeps_no_place_from_those_behind() -> None:
    node = memory(a=60)
    node.others_leave(80)
    large = node.ask("b", 90)
    assert node.ask("c", 60) in node.served
    assert node.starts[-1].evicting == ("a",)
    assert node.plan.places["b"].waits_for == ()
    node.others_leave(100)
    node.leave("a")
    node.finish_load("c")
    node.pass_time(LONGEST_TURN_SECONDS)
    assert node.state.closing == {"c"}
    for used in tuple(node.using["c"]):
        node.finish(used)
    assert large in node.served


def test_a_model_that_grew_over_the_limit_makes_an_idle_one_leave() -> None:
    node = memory(a=40, b=40)
    node.ask("a", 40)
    node.grow("a", 70)
    assert node.evicted == ["b"]


def test_a_model_over_the_limit_leaves_after_its_least_time_unless_the_machine_lacks_the_memory() -> None:
    def grown() -> Memory:
        node = memory(a=40)
        node.ask("a", 40)
        request = node.ask("b", 40)
        node.pass_time(5.0)
        node.finish_load("b")
        node.finish(request)
        node.grow("a", 70)
        return node

    node = grown()
    assert not node.evicted
    node.pass_time(5.1)
    assert node.evicted == ["b"]
    node = grown()
    node.others_leave(100)
    assert node.evicted == ["b"]


def test_who_may_not_wait_is_refused_and_nobody_closes_for_it() -> None:
    node = memory(a=60)
    node.ask("a", 60)
    assert node.ask("b", 60, wait=0.0) in node.refused
    node.pass_time(100.0)
    assert not node.state.closing


def test_a_bet_has_only_those_leave_that_it_was_taken_on() -> None:
    node = memory(a=40, b=40)
    node.ask("c", 50, wait=0.0, only_evicting=("b",))
    assert node.starts[0].evicting == ("b",)
    assert node.decisions[-1].only_evicting == ("b",)
    node = memory(a=40, b=40)
    assert node.ask("c", 90, wait=0.0, only_evicting=("b",)) in node.refused
    assert node.ask("c", 50, wait=0.0, only_evicting=()) in node.refused
    node.ask("c", 50)
    assert node.starts[0].evicting == ("a",)


def test_the_load_of_a_bet_gives_way_to_a_request_unless_a_client_waits_for_it_too() -> None:
    node = memory()
    node.ask("a", 60, wait=0.0, only_evicting=(), purpose="preload")
    other = node.ask("b", 60, wait=0.0)
    assert node.starts[-1].evicting == ("a",)
    assert other in node.served
    node = memory()
    node.ask("a", 60, wait=0.0, only_evicting=(), purpose="preload")
    joined = node.ask("a", 60)
    assert node.ask("b", 60, wait=0.0) in node.refused
    node.ask("b", 60)
    node.pass_time(3600.0)
    assert not node.leaving
    node.finish_load("a")
    assert joined in node.using["a"]


def test_what_may_leave_for_a_bet_is_idle_unpinned_and_was_there_for_its_least_time() -> None:
    def idle(node: Memory) -> list[str]:
        return [
            id
            for id in sorted(node.residents)
            if may_leave(node.state, id, now=node.now, use=node.occupancy().get(id, UNUSED))
        ]

    node = memory(a=20, b=20, c=20, d=20)
    node.ask("a", 20)
    node.pin("b", 20)
    node.unload("c")
    assert idle(node) == ["d"]
    node.leave("c")
    request = node.ask("c", 20)
    node.pass_time(5.0)
    assert idle(node) == ["d"]
    node.finish_load("c")
    node.finish(request)
    assert idle(node) == ["d"]
    node.pass_time(5.1)
    assert idle(node) == ["c", "d"]


def test_what_is_over_the_limit_is_refused_at_once() -> None:
    node = memory(a=40)
    with pytest.raises(NotEnoughMemory, match="memory_limit_gb"):
        node.ask("b", 101)


def test_a_full_queue_is_refused_at_once() -> None:
    node = Memory(100, queue_limit=2)
    node.ask("a", 60)
    node.ask("b", 60)
    node.ask("b", 60)
    with pytest.raises(Overloaded, match="2 requests wait"):
        node.ask("b", 60)
    node.ask("c", 60)


def test_1000_waiters_for_one_model_are_let_in_by_one_load() -> None:
    node = Memory(100, queue_limit=1000)
    running = node.ask("a", 60)
    node.finish_load("a")
    waiting = {node.ask("b", 60) for _ in range(1000)}
    with pytest.raises(Overloaded, match="1000 requests wait"):
        node.ask("b", 60)
    node.pass_time(LONGEST_TURN_SECONDS)
    node.finish(running)
    node.leave("a")
    assert node.using["b"] == waiting
    assert [start.model_id for start in node.starts] == ["a", "b"]


def test_a_priority_counts_as_ten_seconds_of_waiting() -> None:
    node = memory(a=60)
    node.ask("a", 60)
    node.ask("b", 60)
    node.pass_time(15.0)
    node.ask("c", 60, priority=1)
    assert node.plan.places["b"].place == 1
    node.ask("d", 60, priority=2)
    assert node.plan.places["d"].place == 1


def test_small_models_do_not_wait_behind_a_large_one_for_memory_that_it_does_not_need() -> None:
    node = memory(a=60)
    node.ask("a", 60)
    node.ask("b", 70)
    node.ask("c", 30)
    node.ask("d", 10)
    assert [start.model_id for start in node.starts] == ["c"]  # 40 are free, and b leaves 30 of them


def test_a_closing_model_opens_again_when_nobody_waits_for_its_memory() -> None:
    node = memory(a=60)
    node.ask("a", 60)
    other = node.ask("b", 60)
    node.pass_time(2.0)
    behind = node.ask("a", 60)
    assert node.state.closing == {"a"}
    assert behind not in node.served
    node.withdraw(other)
    assert behind in node.served


def test_models_that_need_more_than_was_estimated_are_remembered_and_give_it_back() -> None:
    node = memory(a=50)
    node.ask("b", 50)
    node.finish_load("b", measured=70)
    assert node.evicted == ["a"]
    node.leave("a")
    node.crash("b")
    node.ask("b", 50)
    assert node.starts[-1].reserved_bytes.ram == 70


def test_a_model_that_turns_out_to_be_over_the_limit_is_not_tried_again() -> None:
    node = memory()
    node.ask("a", 50)
    node.finish_load("a", measured=101)
    assert not node.residents
    with pytest.raises(NotEnoughMemory, match="101 bytes"):
        node.ask("a", 50)


def test_memory_is_kept_for_what_is_pinned_and_not_loaded() -> None:
    node = memory(a=40)
    node.pin("p", 50)
    node.ask("b", 40)
    assert node.starts[0].evicting == ("a",)
    node.leave("a")
    node.ask("p", 50)
    assert node.starts[1].evicting == ()


def test_what_it_grew_to_never_keeps_a_model_out_that_fits_when_it_is_ready() -> None:
    node = memory()
    node.ask("g", 300, growth=250)
    assert node.starts[-1].reserved_bytes.ram == 100, "not more than the limit"
    node = memory(p=40)
    node.pin("p", 40)
    node.ask("g", 80, growth=30)
    assert node.starts[-1].reserved_bytes.ram == 60, "nor than what is not pinned"
    node = memory()
    node.others_leave(70)
    node.ask("g", 90, growth=40)
    assert node.starts[-1].reserved_bytes.ram == 70, "nor than what other programs leave"
    node = memory(a=40)
    node.pin("p", 30)
    node.ask("p", 80, growth=50)
    assert (node.starts[-1].reserved_bytes.ram, node.starts[-1].evicting) == (80, ("a",)), "where it can"
    node = memory(p=60)
    node.pin("p", 60)
    with pytest.raises(NotEnoughMemory, match="g needs 50 bytes"):
        node.ask("g", 80, growth=30)


# --- what went wrong elsewhere ----------------------------------------------------------------------------


def test_a_model_that_answers_is_not_ended_for_another() -> None:
    """llama.cpp issues 21678 and 23640."""
    node = memory(a=60)
    running = node.ask("a", 60)
    node.ask("b", 60)
    node.pass_time(3600.0)
    assert not node.starts
    node.finish(running)
    assert node.starts[0].evicting == ("a",)


def test_a_model_that_is_loading_is_not_evicted() -> None:
    """llama.cpp issue 25528."""
    node = memory()
    node.ask("a", 60)
    node.ask("b", 60)
    node.pass_time(3600.0)
    assert node.residents == {"a"}


def test_a_waiter_is_told_when_the_load_that_it_waits_for_fails() -> None:
    """llama.cpp issue 28443: somebody waited for ever. The next in line gets the memory."""
    node = memory()
    node.ask("a", 60)
    other = node.ask("b", 60)
    node.fail_load("a")
    assert other in node.served
    node.crash("b")
    assert not node.waiting


def test_a_model_is_not_evicted_between_its_load_and_the_request_that_it_was_loaded_for() -> None:
    """llama.cpp issue 28698."""
    node = memory(a=60)
    first = node.ask("b", 60)
    node.ask("a", 60)
    node.leave("a")
    node.finish_load("b")
    node.pass_time(3600.0)
    assert node.residents == {"b"}
    node.finish(first)
    assert node.leaving == {"b": "evicted"}


def test_where_all_memory_is_pinned_the_refusal_comes_at_once_and_says_so() -> None:
    """llama.cpp issue 18373 hung."""
    node = memory(a=40, b=40)
    node.pin("a", 40)
    node.pin("b", 40)
    with pytest.raises(NotEnoughMemory, match="these models are pinned: a 40 bytes, b 40 bytes"):
        node.ask("c", 30)


def test_who_waits_when_all_memory_becomes_pinned_is_refused_then() -> None:
    node = memory(a=60)
    node.ask("a", 60)
    waiting = node.ask("b", 60)
    node.pin("a", 60)
    assert "pinned" in node.refused[waiting].message


def test_bytes_are_protected_and_not_a_number_of_models() -> None:
    """llama.cpp issues 25326 and 21231."""
    node = memory(a=10, b=10, c=10, d=10)
    node.ask("e", 60)
    assert node.starts[0].evicting == ()
    node.finish_load("e")
    node.ask("f", 20)
    assert node.starts[1].evicting == ("a", "b")


def test_what_is_pinned_stays_whoever_waits_and_for_how_long() -> None:
    """ollama issue 10948, llama.cpp issue 18153."""
    node = memory(p=40, a=40)
    node.pin("p", 40)
    node.finish(node.ask("a", 40))
    node.ask("b", 60)
    node.pass_time(3600.0)
    assert node.evicted == ["a"]


def test_what_serves_while_another_version_is_promoted_stays_until_that_has_ended() -> None:
    node = memory(old=40, new=40)
    node.promote("old")
    node.ask("other", 40)
    assert node.evicted == ["new"], "and not the one that was used least recently"
    assert {each.model_id: each.standing for each in node.decisions[-1].candidates} == {
        "new": "idle",
        "old": "serving",
    }
    waiting = node.ask("big", 80, wait=5.0)  # nobody is refused at once for what passes
    node.pass_time(6.0)
    told = node.refused[waiting].message
    assert "old 40 bytes (it serves under chat until the promotion there has ended)" in told
    node.leave("new")
    node.finish_load("other")
    node.finish("r3")
    node.pass_time(LONGEST_TURN_SECONDS)
    node.promote()
    node.ask("big", 80)
    assert node.evicted == ["new", "old", "other"]


def test_a_model_is_loaded_once_for_all_who_ask_for_it_at_once() -> None:
    """llama-swap issue 281."""
    node = Memory(100)
    waiting = [node.ask("a", 60) for _ in range(3)]
    assert [start.model_id for start in node.starts] == ["a"]
    node.finish_load("a")
    assert node.using["a"] == {*waiting}


def test_who_asks_for_a_model_while_it_is_unloaded_gets_it_again() -> None:
    """llama-swap issue 946: a request during an unload hung the model for ever."""
    node = memory(a=60)
    node.unload("a")
    waiting = node.ask("a", 60)
    assert waiting not in node.served
    node.leave("a")
    node.finish_load("a")
    assert node.using["a"] == {waiting}


def test_a_request_that_has_been_let_in_keeps_its_model_until_it_is_done() -> None:
    """triton-inference-server issue 3583: what loads, uses and unloads a model must not come in between."""
    node = memory(a=60)
    running = node.ask("a", 60)
    node.ask("b", 60)
    node.ask("c", 100)
    node.pass_time(3600.0)
    assert not node.leaving
    node.finish(running)
    assert node.leaving == {"a": "evicted"}


def test_memory_that_the_next_in_line_waits_for_is_not_given_to_a_third() -> None:
    node = memory(a=60)
    running = node.ask("a", 60)
    large = node.ask("f", 100)
    node.ask("c", 30)
    node.pass_time(3600.0)
    assert not node.starts
    node.finish(running)
    assert [start.model_id for start in node.starts] == ["f"]
    assert large in node.served


def test_a_crash_frees_the_memory_for_the_next_in_line() -> None:
    """ollama issues 9926 and 11997: memory counted for a process that was gone."""
    node = memory(a=60)
    node.ask("a", 60)
    waiting = node.ask("b", 60)
    node.crash("a")
    assert waiting in node.served
    assert node.starts[-1].evicting == ()


def test_requests_are_answered_model_by_model() -> None:
    """llama-swap issue 612: A B A A C becomes A A A B C."""
    node = Memory(60)
    order: list[str] = []
    for model in ("a", "b", "a", "a", "c"):
        node.ask(model, 60)
    while len(order) < 5:
        for model in node.loading:
            node.finish_load(model)
        for id in [id for ids in node.using.values() for id in ids]:
            order.append(node.served[id].model_id)
            node.finish(id)
        node.pass_time(1.0)
        for model in list(node.leaving):
            node.leave(model)
    assert order == ["a", "a", "a", "b", "c"]


def test_two_models_do_not_drive_each_other_out_with_each_request() -> None:
    """llama-swap issue 612: each stays for a turn, though it is unused for a moment after each request."""
    clients = [Client(models=["a"], requests=50), Client(models=["b"], requests=50)]
    outcome = run(clients, Memory(60), {"a": 60, "b": 60}, load_seconds=2.0, use_seconds=0.2)
    assert len(outcome.waits) == 100
    assert outcome.loads <= 100 / 15


def test_an_idle_model_leaves_before_its_turn_is_over_but_not_between_two_requests() -> None:
    """Its load took 2 s, so its turn is 4 s, and it stays for 2 s at least."""
    node = Memory(60)
    request = node.ask("a", 60)
    node.pass_time(2.0)
    node.finish_load("a")
    node.ask("b", 60)
    node.pass_time(1.9)
    node.finish(request)
    assert not node.leaving
    node.pass_time(0.15)
    node.finish(node.ask("a", 60))
    node.pass_time(0.15)
    assert not node.leaving
    node.pass_time(0.1)
    assert node.leaving == {"a": "evicted"}


# --- nobody waits for long --------------------------------------------------------------------------------


def test_four_clients_and_room_for_one_of_two_models() -> None:
    clients = [Client(models=["a"] if i % 2 else ["b"], requests=100) for i in range(4)]
    outcome = run(clients, Memory(60), {"a": 60, "b": 60}, load_seconds=0.5, use_seconds=0.2)
    assert len(outcome.waits) == 400
    assert max(outcome.waits) <= 5 * sum(outcome.waits) / 400
    assert outcome.loads <= 200


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(10, 100), min_size=2, max_size=6),
    wanted=st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=5), min_size=1, max_size=8),
    load_seconds=st.floats(0.1, 20),
    use_seconds=st.floats(0.01, 5),
)
@example(sizes=[10, 10, 10, 10, 81], wanted=[[0], [1], [0, 4]], load_seconds=1.0, use_seconds=1.0)
def test_however_they_ask_every_wait_is_bounded(
    sizes: list[int], wanted: list[list[int]], load_seconds: float, use_seconds: float
) -> None:
    """Each other model has at most one turn and one load before a model that waits, and then runs dry."""
    models = {f"m{i}": size for i, size in enumerate(sizes)}
    clients = [Client(models=[f"m{i % len(sizes)}" for i in asked], requests=30) for asked in wanted]
    outcome = run(clients, Memory(100), models, load_seconds=load_seconds, use_seconds=use_seconds)
    assert len(outcome.waits) == 30 * len(clients)
    turn = min(max(LEAST_TURN_SECONDS, 2 * load_seconds), LONGEST_TURN_SECONDS)
    assert max(outcome.waits) <= (len(models) + 1) * (2 * turn + 2 * load_seconds + 2 * use_seconds)
