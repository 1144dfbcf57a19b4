"""Who gets memory when there are several: RAM and GPUs, each with its own budget."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from suite.domain.footprint import NOTHING, Footprint, total_of
from suite.domain.residency import Residency, evolve
from suite.domain.turns import LONGEST_TURN_SECONDS, may_leave
from suite.errors import NotEnoughMemory, Overloaded
from suite.messages.decisions import GpuRoom, MoreMemory
from suite.messages.events import InstanceLoadStarted
from support.memory import Memory

LIMIT = Footprint(100, {"gpu0": 100, "gpu1": 50})
SIZES = {
    "ram": Footprint(60),
    "gpu": Footprint(10, {"gpu0": 60}),
    "other": Footprint(10, {"gpu0": 50}),
    "small": Footprint(5, {"gpu0": 20}),
    "second": Footprint(20, {"gpu1": 40}),
    "split": Footprint(10, {"gpu0": 40, "gpu1": 20}),
    "partial": Footprint(50, {"gpu0": 50}),
    "whole": Footprint(100, {"gpu0": 100, "gpu1": 50}),
    "never": Footprint(10, {"gpu1": 60}),
}
MODELS = st.sampled_from(sorted(SIZES))


class AnyOrder(RuleBasedStateMachine):
    """Requests, crashes, pins, measurements and time in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.memory = Memory(LIMIT, queue_limit=5)

    @rule(
        model=MODELS,
        wait=st.sampled_from([0.0, 5.0, 1e6]),
        priority=st.integers(-3, 3),
        growth=st.sampled_from([NOTHING, NOTHING, Footprint(20), Footprint(0, {"gpu0": 30})]),
    )
    def ask(self, model: str, wait: float, priority: int, growth: Footprint) -> None:
        with suppress(NotEnoughMemory, Overloaded):
            self.memory.ask(model, SIZES[model] + growth, growth=growth, wait=wait, priority=priority)

    @rule(model=MODELS)
    def bet(self, model: str) -> None:
        with suppress(NotEnoughMemory, Overloaded):
            self.memory.ask(model, SIZES[model], wait=0.0, only_evicting=("gpu", "ram"), purpose="preload")

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
    @rule(
        data=st.data(),
        over=st.sampled_from([None, None, Footprint(20), Footprint(0, {"gpu0": 15}), Footprint(90)]),
    )
    def finish_load(self, data: st.DataObject, over: Footprint | None) -> None:
        model = data.draw(st.sampled_from(self.memory.loading))
        reserved = self.memory.state.residency.residents[model].reserved_bytes
        self.memory.finish_load(model, None if over is None else reserved + over)

    @precondition(lambda self: self.memory.residents)
    @rule(data=st.data(), how=st.sampled_from(["crash", "unload", "drain"]))
    def end(self, data: st.DataObject, how: str) -> None:
        getattr(self.memory, how)(data.draw(st.sampled_from(sorted(self.memory.residents))))

    @precondition(lambda self: self.memory.leaving)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        self.memory.leave(data.draw(st.sampled_from(sorted(self.memory.leaving))))

    @rule(model=MODELS)
    def pin(self, model: str) -> None:
        state = self.memory.state
        others = total_of(state.pinned_bytes(each) for each in state.pinned if each != model)
        if (SIZES[model] + others).is_within(LIMIT):
            self.memory.pin(model, SIZES[model])

    @rule(model=MODELS)
    def unpin(self, model: str) -> None:
        self.memory.unpin(model)

    @rule(
        left=st.sampled_from(
            [
                LIMIT,
                Footprint(0, {"gpu0": 100, "gpu1": 50}),
                Footprint(100, {"gpu0": 50}),
                Footprint(80, {"gpu0": 0, "gpu1": 50}),
            ]
        )
    )
    def others_leave(self, left: Footprint) -> None:
        self.memory.others_leave(left)

    @rule(seconds=st.sampled_from([0.1, 1.0, 7.0, 70.0]))
    def pass_time(self, seconds: float) -> None:
        self.memory.pass_time(seconds)

    @invariant()
    def no_budget_is_exceeded(self) -> None:
        """Except by what was measured to be more than was reserved."""
        measured = self.memory.state.measured
        processes = self.memory.processes
        excess = total_of(processes[id].beyond(SIZES[id]) for id in processes if id in measured)
        assert (total_of(processes.values()) - excess).is_within(LIMIT)

    @invariant()
    def an_idle_model_gives_way(self) -> None:
        """To the first of those who wait that could ever have the memory, as things stand.

        What a pinned model needs beyond that which is kept for it, it waits for like any other.
        """
        memory, state = self.memory, self.memory.state
        residents = state.residency.residents
        stays = [id for id in residents if id not in memory.leaving or memory.using.get(id)]
        free = state.residency.admissible_bytes - total_of(residents[id].reserved_bytes for id in stays)
        free -= total_of(each for id, each in state.pinned.items() if id not in residents)
        idle = total_of(each.reserved_bytes for id, each in residents.items() if self.is_idle(id))
        for model in sorted(state.waiting, key=lambda each: state.waiting[each].rank):
            others = total_of(state.pinned_bytes(each) for each in state.pinned if each != model)
            need = state.need_bytes(state.queue(model)[0])
            if need.is_within(state.residency.admissible_bytes - others):
                kept = state.pinned.get(model, NOTHING)
                assert model in residents or not need.is_within(free + kept + idle)
                return

    def is_idle(self, model: str) -> bool:
        memory, use = self.memory, self.memory.occupancy()[model]
        can_leave = may_leave(memory.state, model, now=memory.now, use=use)
        return model not in memory.state.pinned and (can_leave or (use.gives_way and not use.leaving))

    def teardown(self) -> None:
        """As soon as what runs comes to its end, all who wait are served one after the other."""
        memory = self.memory
        memory.others_leave(LIMIT)
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


AnyOrder.TestCase.settings = settings(max_examples=50, stateful_step_count=35, deadline=None)
TestAnyOrder = AnyOrder.TestCase


# --- who leaves -------------------------------------------------------------------------------------------


def memory(*loaded: str, limit: Footprint = LIMIT) -> Memory:
    """One in which models are loaded, idle, and had their turn; the first of them was used least recently."""
    node = Memory(limit)
    for model in loaded:
        request = node.ask(model, SIZES[model])
        node.pass_time(0.5)
        node.finish_load(model)
        node.finish(request)
        node.pass_time(1.0)
    node.pass_time(LONGEST_TURN_SECONDS)
    node.starts.clear()
    node.decisions.clear()
    return node


def test_models_in_different_memories_do_not_drive_each_other_out() -> None:
    node = memory("ram", "gpu", "second")
    assert node.evicted == []
    assert node.residents == {"ram", "gpu", "second"}


def test_only_a_model_leaves_that_frees_something_where_memory_is_short() -> None:
    node = memory("ram", "second", "gpu")
    node.ask("other", SIZES["other"])
    assert node.evicted == ["gpu"], "though the others were not used for longer"
    assert node.starts[-1].evicting == ("gpu",)


def test_one_that_is_large_where_it_matters_makes_small_ones_in_front_of_it_unnecessary() -> None:
    node = memory("small", "gpu", limit=Footprint(100, {"gpu0": 80}))
    node.ask("other", SIZES["other"])
    assert node.evicted == ["gpu"]


def test_a_load_waits_for_every_memory_that_it_needs_and_takes_no_part_of_them_before() -> None:
    node = memory("ram", "gpu")
    node.ask("gpu", SIZES["gpu"])
    node.ask("partial", SIZES["partial"])
    assert node.residents == {"ram", "gpu"}, "nobody leaves RAM for one that gets no GPU yet"
    assert node.plan.places["partial"].waits_for == ("ram", "gpu")


def test_what_needs_none_of_a_full_gpu_does_not_wait_for_it() -> None:
    node = memory("gpu")
    node.others_leave(Footprint(100, {"gpu0": 0, "gpu1": 50}))
    node.ask("ram", SIZES["ram"])
    assert node.starts[-1].model_id == "ram"
    assert node.evicted == []


def test_a_gpu_of_which_is_not_known_what_others_use_counts_as_free() -> None:
    node = memory()
    node.others_leave(Footprint(100, {"gpu1": 0}))
    assert node.state.residency.admissible_bytes == Footprint(100, {"gpu0": 100, "gpu1": 0})
    node.ask("gpu", SIZES["gpu"])
    assert node.residents == {"gpu"}


def test_an_excess_on_a_gpu_has_only_those_leave_that_are_there() -> None:
    node = memory("ram", "small", "gpu")
    node.grow("gpu", Footprint(10, {"gpu0": 95}))
    assert node.evicted == ["small"]


def test_pinned_memory_is_kept_where_the_model_needs_it() -> None:
    node = memory()
    node.pin("gpu", SIZES["gpu"])
    with pytest.raises(NotEnoughMemory) as refused:
        node.ask("partial", SIZES["partial"])
    assert "50 bytes of 100 bytes on gpu0" in refused.value.message
    assert "gpu 60 bytes" in refused.value.message
    assert "vram_limit_gb" in refused.value.message
    node.ask("ram", SIZES["ram"])
    assert node.residents == {"ram"}


# --- what is told -----------------------------------------------------------------------------------------


def test_what_can_never_fit_is_refused_with_the_memory_that_is_too_small() -> None:
    with pytest.raises(NotEnoughMemory) as refused:
        memory().ask("never", SIZES["never"])
    assert refused.value.message == (
        "never needs 60 bytes on gpu1, the limit is 50 bytes: raise vram_limit_gb"
    )


def test_who_waited_in_vain_is_told_who_uses_the_memory_that_was_short() -> None:
    node = memory("ram", "gpu")
    node.ask("gpu", SIZES["gpu"])
    late = node.ask("other", SIZES["other"], wait=3.0)
    node.pass_time(4.0)
    message = node.refused[late].message
    assert message.startswith(
        "other needs 50 bytes of 100 bytes on gpu0, which is used by gpu 60 bytes (in use)"
    )
    assert "raise vram_limit_gb" in message


def test_a_decision_says_which_memory_was_the_scarcest_and_what_each_had() -> None:
    node = memory("ram", "gpu")
    node.ask("other", SIZES["other"])
    (decision,) = node.decisions
    assert (decision.need_bytes, decision.free_bytes, decision.limit_bytes) == (10, 30, 100)
    assert decision.scarcest == "gpu0"
    assert decision.gpus == (
        GpuRoom(name="gpu0", need_bytes=50, free_bytes=40, limit_bytes=100),
        GpuRoom(name="gpu1", need_bytes=0, free_bytes=50, limit_bytes=50),
    )
    assert decision.alternatives[0] == MoreMemory(bytes=10, gpus={"gpu0": 10}, starts=True)
    assert [(each.bytes, each.gpus) for each in decision.candidates] == [(60, {}), (70, {"gpu0": 60})]
    assert [each.chosen for each in decision.candidates] == [False, True]


def test_a_node_without_gpus_has_one_budget_in_which_everything_counts() -> None:
    started = InstanceLoadStarted(
        node="box1", model_id="m", instance_id="i", reserved_bytes=70, gpus={"gpu0": 60}, context_tokens=8
    )
    assert evolve(Residency(limit_bytes=Footprint(100)), started).reserved_bytes == Footprint(70)
    assert evolve(Residency(limit_bytes=LIMIT), started).reserved_bytes == Footprint(10, {"gpu0": 60})


# --- bytes by memory --------------------------------------------------------------------------------------

COUNTS = st.integers(0, 5)
FOOTPRINTS = st.builds(Footprint, COUNTS, st.dictionaries(st.sampled_from(["gpu0", "gpu1"]), COUNTS))


@given(need=FOOTPRINTS, room=FOOTPRINTS)
def test_it_fits_if_nothing_is_missing_in_any_memory(need: Footprint, room: Footprint) -> None:
    each = [need[name] <= room[name] for name in ("ram", "gpu0", "gpu1")]
    assert need.is_within(room) == all(each)
    assert bool(need.beyond(room)) != need.is_within(room)
    assert need.is_within(room + need.beyond(room))
    assert need.is_within(need.at_least(room)) and need.at_most(room).is_within(room)
    assert Footprint.of(need.total, need.gpus)["gpu0"] == need["gpu0"]
    assert need.counted_in(Footprint()) == Footprint(need.total)
