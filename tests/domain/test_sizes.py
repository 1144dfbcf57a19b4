"""Given the measurements so far, then what the next load reserves."""

from __future__ import annotations

import msgspec

from suite.domain.footprint import Footprint
from suite.domain.sizes import LOADS, Need, SizeKey, Sizes, evolve, merged
from suite.domain.sizes import need as need_of
from suite.messages.events import (
    Event,
    InstanceCrashed,
    InstanceGrew,
    InstanceLoaded,
    InstanceLoadFailed,
    InstanceUnloaded,
)

NODE = "box1"
KEY = SizeKey("abc", "k1")


def loaded(instance: str, size: int, *, content: str = "abc", settings_key: str = "k1") -> InstanceLoaded:
    return InstanceLoaded(
        node=NODE,
        model_id="a",
        instance_id=instance,
        pid=1,
        resident_bytes=size,
        load_ms=1.0,
        content=content,
        settings_key=settings_key,
    )


def unloaded(instance: str, peak: int) -> InstanceUnloaded:
    return InstanceUnloaded(
        node=NODE, model_id="a", instance_id=instance, reason="idle", freed_bytes=1, peak_bytes=peak
    )


def need(*events: Event, key: SizeKey = KEY) -> int | None:
    found = sized(*events, key=key)
    return None if found is None else found.peak_bytes.ram


def sized(*events: Event, key: SizeKey = KEY) -> Need | None:
    sizes: Sizes = {}
    for event in events:
        sizes = evolve(sizes, event)
    return need_of(sizes, key)


def test_before_the_first_load_nothing_is_known_and_afterwards_what_was_measured() -> None:
    assert need() is None
    assert need(loaded("1", 60)) == 60
    assert need(loaded("1", 60), loaded("2", 50)) == 60


def test_what_was_used_at_most_counts() -> None:
    assert need(loaded("1", 60), unloaded("1", 90)) == 90
    grew = InstanceGrew(node=NODE, model_id="a", instance_id="1", reserved_bytes=80)
    assert need(loaded("1", 60), grew) == 80
    crashed = InstanceCrashed(
        node=NODE, model_id="a", instance_id="1", exit_code=-9, generations=0, peak_bytes=70
    )
    assert need(loaded("1", 60), crashed) == 70
    assert need(loaded("1", 60), unloaded("2", 90)) == 60, "another load, of which nothing is known"


def test_what_versions_that_knew_one_memory_said_in_one_total_counts_once() -> None:
    ready = msgspec.structs.replace(loaded("1", 20), gpu_bytes=40)
    expected = Need(Footprint(20, {"gpu0": 40}), Footprint(35, {"gpu0": 40}))
    assert sized(ready, unloaded("1", 75)) == expected
    assert sized(ready, unloaded("1", 75), loaded("2", 10)) == expected
    assert sized(ready, unloaded("1", 0)) == Need(expected.ready_bytes, expected.ready_bytes), "not known"


def test_another_content_or_other_settings_are_another_size() -> None:
    facts = (loaded("1", 60), loaded("2", 70, content="def"), loaded("3", 80, settings_key="k2"))
    assert [need(*facts, key=each) for each in (KEY, SizeKey("def", "k1"), SizeKey("abc", "k2"))] == [
        60,
        70,
        80,
    ]
    assert need(loaded("1", 60, content="")) is None, "content that is not known is not mistaken for any"


def test_a_size_that_was_seen_once_is_forgotten_after_some_loads() -> None:
    once = (loaded("once", 60), unloaded("once", 500))
    later = [loaded(str(number), 60) for number in range(LOADS)]
    assert need(*once, *later[1:]) == 500
    assert need(*once, *later) == 60


def test_what_is_recalled_later_is_added_to_what_was_measured_meanwhile() -> None:
    earlier = evolve(evolve({}, loaded("1", 60)), unloaded("1", 90))
    later = evolve({}, loaded("2", 70))
    assert merged(earlier, later)[KEY] == {**earlier[KEY], **later[KEY]}
    assert merged(earlier, {}) == earlier == merged({}, earlier)


def test_what_it_needs_when_it_is_ready_is_told_apart_from_what_it_grew_to() -> None:
    assert sized(loaded("1", 60), unloaded("1", 300), loaded("2", 70)) == Need(Footprint(70), Footprint(300))
    too_large = InstanceLoadFailed(
        node=NODE,
        model_id="a",
        instance_id="1",
        code="not_enough_memory",
        message="",
        resident_bytes=300,
        content="abc",
        settings_key="k1",
    )
    assert sized(too_large) == Need(Footprint(300), Footprint(300))
