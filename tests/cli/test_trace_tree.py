"""The tree of a trace, whatever of it is known."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from suite.cli.trace_tree import Line, bar, lines
from suite.messages.actions.traces import KeptSpan, LinkedSpan
from suite.messages.envelope import Recorded
from suite.messages.events import NodeStopped

TRACE = f"{7:032x}"


def span(number: int, parent: int = 0, *, linked: int = 0, error: str = "") -> KeptSpan:
    return KeptSpan(
        trace_id=f"{8:032x}" if linked else TRACE,
        span_id=f"{number:016x}",
        parent_id=f"{parent:016x}" if parent else "",
        name=f"span {number}",
        kind="internal",
        process="model tiny",
        node="box",
        start_ns=number * 1_000_000,
        end_ns=(number + 2) * 1_000_000,
        error=error,
        links=(LinkedSpan(trace_id=TRACE, span_id=f"{linked:016x}"),) if linked else (),
    )


def event(seq: int, span_number: int) -> Recorded:
    return Recorded(
        seq=seq,
        subject="suite.event.node.box.stopped",
        id=str(seq),
        type="suite.node.stopped.v1",
        source="/node/box",
        time=datetime.fromtimestamp(0.004, UTC),
        data=NodeStopped(node="box", epoch=1),
        traceparent=f"00-{TRACE}-{span_number:016x}-01",
    )


def test_spans_events_and_what_is_linked_stand_where_they_belong() -> None:
    tree = lines([span(3, 1), span(1), span(2, 1, error="timeout")], [span(9, linked=3)], [event(17, 3)])
    assert [line.name for line in tree] == ["span 1", "├─ span 2", "└─ span 3", "   └─ span 9"]
    assert [line.start_ms for line in tree] == [0.0, 1.0, 2.0, 8.0]
    assert {line.process for line in tree} == {"box model tiny"}
    assert tree[1].notes == ("error timeout",)
    assert tree[2].notes == ("event 17",)
    assert tree[3].notes == (f"trace {8:032x}",)


def test_an_event_without_its_span_is_told_by_itself() -> None:
    [line] = lines([], [], [event(17, 3)])
    assert line == Line("suite.node.stopped.v1", "/node/box", 0.0, None, ("event 17",))


@given(
    parents=st.lists(st.integers(0, 30), max_size=30),
    links=st.lists(st.integers(1, 40), max_size=5),
    events=st.lists(st.integers(0, 40), max_size=5),
)
def test_everything_is_told_once_whatever_is_missing(
    parents: list[int], links: list[int], events: list[int]
) -> None:
    # A parent comes before its child, and may be missing.
    spans = [span(number, min(parent, number - 1)) for number, parent in enumerate(parents, 2)]
    linked = [span(100 + number, linked=link) for number, link in enumerate(links)]
    recorded = [event(500 + number, of) for number, of in enumerate(events)]
    told = lines(spans, linked, recorded)
    names = [line.name.lstrip("│├└─ ") for line in told]
    for each in (*spans, *linked):
        assert names.count(each.name) == 1
    notes = [note for line in told for note in line.notes]
    for recorded_event in recorded:
        assert notes.count(f"event {recorded_event.seq}") == 1


@given(start=st.floats(0, 1e6), duration=st.floats(0, 1e6), whole=st.floats(0, 2e6))
def test_a_bar_fits(start: float, duration: float, whole: float) -> None:
    assert len(bar(Line("span", "node", start, duration, ()), whole)) <= 20
