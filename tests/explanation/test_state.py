"""Why a model is where it is at a moment: which of its newest events count."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from suite.explanation.state import NodeLife, Residence, node_life, residence, told
from suite.messages.decisions import Decision
from suite.messages.envelope import Recorded
from suite.messages.events import (
    Event,
    InstanceLoaded,
    InstanceLoadStarted,
    InstanceUnloaded,
    ModelPinned,
    NodeLost,
    WaitStarted,
)

NOON = datetime(2026, 11, 28, 12, tzinfo=UTC)
DECISION = Decision(need_bytes=2, free_bytes=4, limit_bytes=8, waiting=1)
EVENTS: dict[int, Event] = {
    2: ModelPinned(model_id="m", node="box1"),
    3: InstanceLoadStarted(
        node="box1", model_id="m", instance_id="i", reserved_bytes=2, context_tokens=8, decision=DECISION
    ),
    4: InstanceLoaded(node="box1", model_id="m", instance_id="i", pid=1, resident_bytes=2, load_ms=5),
    5: InstanceUnloaded(node="box1", model_id="m", instance_id="i", reason="shutdown", freed_bytes=2),
    6: WaitStarted(node="box1", model_id="m", place=1, decision=DECISION),
    7: NodeLost(node="box1", epoch=1, observer="box2"),
}


@pytest.mark.parametrize(
    ("newest", "node_seq", "expected"),
    [
        ({"model.registered": 1}, 0, Residence(state="not_loaded", seq=0)),
        (
            {"model.pinned": 2, "instance.load_started": 3},
            1,
            Residence(state="loading", seq=3, started_seq=3, pinned_seq=2),
        ),
        (
            {"instance.load_started": 3, "instance.loaded": 4},
            1,
            Residence(state="loaded", seq=4, started_seq=3),
        ),
        (
            {"instance.load_started": 3, "instance.loaded": 4},
            7,
            Residence(state="not_loaded", seq=4, node_seq=7),
        ),
        ({"instance.load_started": 3, "instance.unloaded": 5}, 0, Residence(state="not_loaded", seq=5)),
        (
            {"instance.unloaded": 5, "admission.wait_started": 6},
            1,
            Residence(state="waiting", seq=5, waits_seq=6),
        ),
        (
            {"instance.unloaded": 5, "admission.wait_started": 6},
            7,
            Residence(state="not_loaded", seq=5),
        ),
        (
            {"admission.wait_started": 6, "admission.wait_ended": 8},
            1,
            Residence(state="not_loaded", seq=0),
        ),
        (
            {"instance.load_started": 3, "instance.loaded": 4, "instance.grew": 6},
            1,
            Residence(state="loaded", seq=4, started_seq=3),
        ),
        (
            {"model.quarantined": 6, "instance.loaded": 4, "instance.crashed": 5},
            1,
            Residence(state="not_loaded", seq=5, quarantined_seq=6),
        ),
        ({"model.quarantined": 6, "model.released": 7}, 1, Residence(state="not_loaded", seq=0)),
        ({"model.pinned": 2, "model.unpinned": 3}, 1, Residence(state="not_loaded", seq=0)),
    ],
)
def test_which_events_count(newest: dict[str, int], node_seq: int, expected: Residence) -> None:
    assert residence(newest, NodeLife(node_seq)) == expected


@pytest.mark.parametrize(
    ("newest", "expected"),
    [
        ({}, NodeLife()),
        ({"node.started": 1}, NodeLife(1)),
        ({"node.started": 1, "node.draining": 4}, NodeLife(1, draining_seq=4)),
        ({"node.started": 1, "node.draining": 4, "node.resumed": 5}, NodeLife(1)),
        ({"node.started": 6, "node.stopped": 5, "node.draining": 4}, NodeLife(6)),
        ({"node.lost": 5, "node.draining": 4}, NodeLife(5)),
    ],
)
def test_which_events_of_a_node_count(newest: dict[str, int], expected: NodeLife) -> None:
    assert node_life(newest) == expected


@pytest.mark.parametrize(
    ("place", "lines"),
    [
        (
            Residence(state="loaded", seq=4, started_seq=3, pinned_seq=2),
            (
                "m is loaded on box1 since 2026-11-28T12:00:00Z.",
                "m began to load on box1 because 1 request needed it.",
                "It needed 2 bytes, and 4 bytes of 8 bytes was free.",
                "Nobody had to leave for it.",
                "m was pinned on box1: it stays loaded.",
            ),
        ),
        (
            Residence(state="loading", seq=3, started_seq=99),
            ("m is being loaded on box1 since 2026-11-28T12:00:00Z.",),
        ),
        (
            Residence(state="waiting", seq=5, waits_seq=6),
            (
                "Requests wait for m on box1 since 2026-11-28T12:00:00Z or a little earlier.",
                "m was unloaded on box1: the service stopped.",
                "1 request waited for m on box1, for 0 s by then; it was next in line.",
                "It needed 2 bytes, and 4 bytes of 8 bytes was free.",
            ),
        ),
        (
            Residence(state="not_loaded", seq=4, node_seq=7),
            (
                "m is not loaded on box1 since 2026-11-28T12:00:00Z.",
                "The service on box1 ended without a stop, as box2 noticed.",
            ),
        ),
        (
            Residence(state="not_loaded", seq=0),
            ("m is not loaded on box1: the log has no load of it until then.",),
        ),
    ],
)
def test_the_sentences_of_a_state(place: Residence, lines: tuple[str, ...]) -> None:
    events = {
        seq: Recorded(
            seq=seq, subject="", id="id", type=event.type, source="/node/box1", time=NOON, data=event
        )
        for seq, event in EVENTS.items()
    }
    assert told("m", "box1", place, events) == lines
