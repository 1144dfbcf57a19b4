"""Given the facts so far, when a load is asked for, then who makes room."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from suite.domain.residency import Admit, Occupancy, Residency, decide, evolve
from suite.errors import NotEnoughMemory
from suite.messages.events import (
    Event,
    InstanceCrashed,
    InstanceLoaded,
    InstanceLoadFailed,
    InstanceLoadStarted,
    InstanceUnloaded,
)

NODE = "box1"


def load_started(model: str, size: int, instance: str = "") -> InstanceLoadStarted:
    return InstanceLoadStarted(
        node=NODE, model_id=model, instance_id=instance or f"{model}-1", reserved_bytes=size, context_tokens=8
    )


def loaded(model: str, size: int, instance: str = "") -> InstanceLoaded:
    return InstanceLoaded(
        node=NODE,
        model_id=model,
        instance_id=instance or f"{model}-1",
        pid=1,
        resident_bytes=size,
        load_ms=1.0,
    )


def given_facts(limit: int, *events: Event) -> Residency:
    state = Residency(limit_bytes=limit)
    for event in events:
        state = evolve(state, event)
    return state


def admit(model: str, need: int, **occupancy: Occupancy) -> Admit:
    return Admit(
        node=NODE,
        model_id=model,
        instance_id=f"{model}-1",
        need_bytes=need,
        context_tokens=8,
        occupancy=occupancy,
    )


def test_a_load_that_fits_evicts_nobody() -> None:
    state = given_facts(100, load_started("a", 40), loaded("a", 40))
    assert decide(state, admit("b", 60)).evicting == ()


def test_the_least_recently_used_idle_model_makes_room() -> None:
    state = given_facts(100, load_started("a", 40), loaded("a", 40), load_started("b", 40), loaded("b", 40))
    command = admit("c", 50, a=Occupancy(last_used=2.0), b=Occupancy(last_used=1.0))
    assert decide(state, command).evicting == ("b",)


def test_what_is_in_use_is_never_evicted() -> None:
    state = given_facts(100, load_started("a", 40), loaded("a", 40), load_started("b", 40), loaded("b", 40))
    command = admit("c", 50, a=Occupancy(last_used=2.0), b=Occupancy(last_used=1.0, holds=1))
    assert decide(state, command).evicting == ("a",)


def test_a_refusal_names_what_holds_the_memory() -> None:
    state = given_facts(2**31, load_started("a", 2**30), load_started("b", 2**30), loaded("b", 2**30))
    with pytest.raises(NotEnoughMemory, match=r"a 1\.00 GiB \(loading\), b 1\.00 GiB \(in use\)"):
        decide(state, admit("c", 2**30, b=Occupancy(holds=2)))


def test_a_model_over_the_limit_evicts_nobody_in_vain() -> None:
    state = given_facts(100, load_started("a", 40), loaded("a", 40))
    with pytest.raises(NotEnoughMemory, match="memory_limit_gb"):
        decide(state, admit("b", 101))


def test_a_model_that_is_leaving_is_waited_for_before_another_is_evicted() -> None:
    state = given_facts(100, load_started("a", 40), loaded("a", 40), load_started("b", 40), loaded("b", 40))
    command = admit("c", 50, a=Occupancy(last_used=9.0, leaving=True), b=Occupancy(last_used=1.0))
    assert decide(state, command).evicting == ("a",)


def test_measured_bytes_count_when_they_are_more_than_the_estimate() -> None:
    assert given_facts(100, load_started("a", 40), loaded("a", 70)).reserved_bytes == 70
    assert given_facts(100, load_started("a", 40), loaded("a", 10)).reserved_bytes == 40


@pytest.mark.parametrize(
    "end",
    [
        InstanceUnloaded(node=NODE, model_id="a", instance_id="a-1", reason="idle", freed_bytes=1),
        InstanceCrashed(node=NODE, model_id="a", instance_id="a-1", exit_code=-9, generations=0),
        InstanceLoadFailed(node=NODE, model_id="a", instance_id="a-1", code="load_failed", message=""),
    ],
)
def test_every_end_gives_the_memory_back(end: Event) -> None:
    assert given_facts(100, load_started("a", 40), end).reserved_bytes == 0


def test_the_end_of_an_earlier_life_does_not_end_the_present_one() -> None:
    late = InstanceUnloaded(node=NODE, model_id="a", instance_id="a-0", reason="idle", freed_bytes=1)
    assert given_facts(100, load_started("a", 40), late).reserved_bytes == 40


@given(
    limit=st.integers(1, 200),
    sizes=st.lists(st.integers(1, 120), max_size=12),
    uses=st.lists(st.tuples(st.integers(0, 1), st.floats(0, 10)), min_size=12, max_size=12),
)
def test_admissions_never_pass_the_limit_nor_touch_what_is_held(
    limit: int, sizes: list[int], uses: list[tuple[int, float]]
) -> None:
    state = Residency(limit_bytes=limit)
    occupancy = {str(i): Occupancy(holds=holds, last_used=used) for i, (holds, used) in enumerate(uses)}
    for i, size in enumerate(sizes):
        try:
            started = decide(state, admit(str(i), size, **occupancy))
        except NotEnoughMemory:
            continue
        for model in started.evicting:
            assert occupancy[model].holds == 0
            gone = InstanceUnloaded(
                node=NODE, model_id=model, instance_id=f"{model}-1", reason="evicted", freed_bytes=0
            )
            state = evolve(state, gone)
        state = evolve(evolve(state, started), loaded(str(i), size))
        assert state.reserved_bytes <= limit
