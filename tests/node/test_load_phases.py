"""How long the parts of a load took."""

from __future__ import annotations

import pytest

from suite.node.load_phases import LoadPhases


def test_each_phase_ends_with_the_next() -> None:
    phases = LoadPhases(10.0)
    phases.begin("evict", 10.5)
    phases.begin("inspect", 11.0)
    phases.begin("spawn", 11.5)
    phases.begin("map", 12.0)
    phases.begin("warm_up", 15.0)
    assert phases.seconds(16.0) == {
        "reserve": 0.5,
        "evict": 0.5,
        "inspect": 0.5,
        "spawn": 0.5,
        "map": 3.0,
        "warm_up": 1.0,
    }


def test_a_phase_begins_once_and_what_did_not_begin_takes_no_time() -> None:
    phases = LoadPhases(0.0)
    phases.begin("map", 1.0)
    phases.begin("map", 2.0)
    assert phases.seconds(4.0) == {"reserve": 1.0, "map": 3.0}
    assert sum(phases.seconds(4.0).values()) == pytest.approx(4.0)
