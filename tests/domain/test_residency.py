"""Given the facts so far, then who has memory, and how much."""

from __future__ import annotations

import pytest

from suite.domain.footprint import Footprint
from suite.domain.residency import GROWTH_BYTES, Residency, evolve, grown
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
    state = Residency(limit_bytes=Footprint(limit))
    for event in events:
        state = evolve(state, event)
    return state


def test_measured_bytes_count_when_they_are_more_than_the_estimate() -> None:
    assert given_facts(100, load_started("a", 40), loaded("a", 70)).reserved_bytes.ram == 70
    assert given_facts(100, load_started("a", 40), loaded("a", 10)).reserved_bytes.ram == 40


@pytest.mark.parametrize(
    "end",
    [
        InstanceUnloaded(node=NODE, model_id="a", instance_id="a-1", reason="idle", freed_bytes=1),
        InstanceCrashed(node=NODE, model_id="a", instance_id="a-1", exit_code=-9, generations=0),
        InstanceLoadFailed(node=NODE, model_id="a", instance_id="a-1", code="load_failed", message=""),
    ],
)
def test_every_end_gives_the_memory_back(end: Event) -> None:
    assert given_facts(100, load_started("a", 40), end).reserved_bytes.ram == 0


def test_the_end_of_an_earlier_life_does_not_end_the_present_one() -> None:
    late = InstanceUnloaded(node=NODE, model_id="a", instance_id="a-0", reason="idle", freed_bytes=1)
    assert given_facts(100, load_started("a", 40), late).reserved_bytes.ram == 40


def test_a_model_grows_in_steps_up_to_the_limit_and_never_shrinks() -> None:
    limit, before = Footprint(10 * GROWTH_BYTES), Footprint(2 * GROWTH_BYTES)
    assert grown(before, Footprint(GROWTH_BYTES), limit) == before
    assert grown(before, before + Footprint(1), limit) == Footprint(3 * GROWTH_BYTES)
    assert grown(before, Footprint(20 * GROWTH_BYTES), limit) == limit
    over = Footprint(11 * GROWTH_BYTES)  # as it was when the limit was higher
    assert grown(over, before, limit) == over


def test_what_a_model_has_on_a_gpu_that_is_not_known_grows_in_ram() -> None:
    limit = Footprint(10 * GROWTH_BYTES, {"gpu0": GROWTH_BYTES})
    grew = grown(Footprint(0), Footprint(0, {"gpu0": 1, "gpu1": 1}), limit)
    assert grew == Footprint(GROWTH_BYTES, {"gpu0": GROWTH_BYTES})
