"""The spans and events of a trace as a tree of lines."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Final, NamedTuple

from suite.telemetry import ids_of

if TYPE_CHECKING:
    from suite.messages.actions.traces import KeptSpan
    from suite.messages.envelope import Recorded

BAR_CELLS: Final = 20
_MILLISECOND: Final = 1_000_000
_MICROSECONDS: Final = 1_000_000


class Line(NamedTuple):
    """One span, or an event whose span is not kept here."""

    name: str
    """With the branches of the tree before it."""
    process: str
    start_ms: float
    """Since the trace began."""
    duration_ms: float | None
    """None: it is an event."""
    notes: tuple[str, ...]


class _Branch(NamedTuple):
    line: Line
    children: Sequence[_Branch]


def lines(spans: Sequence[KeptSpan], linked: Iterable[KeptSpan], events: Iterable[Recorded]) -> list[Line]:
    """The lines of a trace from top to bottom. `linked` are spans of other traces that this one led to."""
    tree = _Tree(spans, linked, events)
    return [line for root in tree.roots() for line in _drawn(root, "", "")]


def bar(line: Line, whole_ms: float) -> str:
    """When a span began and ended, as a part of the whole trace."""
    if line.duration_ms is None or whole_ms <= 0:
        return ""
    start = min(round(BAR_CELLS * min(line.start_ms / whole_ms, 1.0)), BAR_CELLS - 1)
    cells = max(1, round(BAR_CELLS * min(line.duration_ms / whole_ms, 1.0)))
    return " " * start + "█" * min(cells, BAR_CELLS - start)


class _Tree:
    def __init__(
        self, spans: Sequence[KeptSpan], linked: Iterable[KeptSpan], events: Iterable[Recorded]
    ) -> None:
        self._spans = {span.span_id: span for span in spans}
        self._children: defaultdict[str, list[KeptSpan]] = defaultdict(list)
        for span in sorted(spans, key=lambda span: span.start_ns):
            self._children[span.parent_id if span.parent_id in self._spans else ""].append(span)
        self._linked: defaultdict[str, list[KeptSpan]] = defaultdict(list)
        for span in linked:
            ours = [link.span_id for link in span.links if link.span_id in self._spans]
            self._linked[ours[0] if ours else ""].append(span)
        self._events: defaultdict[str, list[Recorded]] = defaultdict(list)
        for event in events:
            ids = ids_of(event.traceparent)
            id = "" if ids is None else ids.span_id
            self._events[id if id in self._spans else ""].append(event)
        starts = [span.start_ns for span in spans] + [_nanoseconds(each.time) for each in self._events[""]]
        self._began_ns = min(starts, default=0)

    def roots(self) -> Iterator[_Branch]:
        """What no span that is kept has caused, and events and links that belong to none."""
        yield from self._of_spans(self._children[""])
        for event in self._events[""]:
            yield _Branch(self._event(event), ())
        yield from self._of_links("")

    def _of_spans(self, spans: Iterable[KeptSpan]) -> Iterator[_Branch]:
        for span in spans:
            below = [*self._of_spans(self._children[span.span_id]), *self._of_links(span.span_id)]
            notes = (*_notes(span), *(f"event {event.seq}" for event in self._events[span.span_id]))
            yield _Branch(self._line(span, notes), below)

    def _of_links(self, span_id: str) -> Iterator[_Branch]:
        for span in self._linked[span_id]:
            yield _Branch(self._line(span, (*_notes(span), f"trace {span.trace_id}")), ())

    def _line(self, span: KeptSpan, notes: tuple[str, ...]) -> Line:
        return Line(
            name=span.name,
            process=f"{span.node} {span.process}" if span.process != "node" else span.node,
            start_ms=(span.start_ns - self._began_ns) / _MILLISECOND,
            duration_ms=(span.end_ns - span.start_ns) / _MILLISECOND,
            notes=notes,
        )

    def _event(self, event: Recorded) -> Line:
        start_ms = (_nanoseconds(event.time) - self._began_ns) / _MILLISECOND
        return Line(event.type, event.source, start_ms, None, (f"event {event.seq}",))


def _notes(span: KeptSpan) -> Iterator[str]:
    """What else is worth a word."""
    if span.error:
        yield f"error {span.error}{f': {span.error_text}' if span.error_text else ''}"
    tokens: Mapping[str, object] = span.attributes
    if "gen_ai.usage.output_tokens" in tokens:
        yield f"{tokens.get('gen_ai.usage.input_tokens')} + {tokens['gen_ai.usage.output_tokens']} tokens"
    if "http.response.status_code" in tokens:
        yield f"status {tokens['http.response.status_code']}"


def _drawn(branch: _Branch, first: str, others: str) -> Iterator[Line]:
    yield branch.line._replace(name=f"{first}{branch.line.name}")
    for number, child in enumerate(branch.children, start=1):
        is_last = number == len(branch.children)
        yield from _drawn(
            child, f"{others}{'└─ ' if is_last else '├─ '}", f"{others}{'   ' if is_last else '│  '}"
        )


def _nanoseconds(time: datetime) -> int:
    return round(time.timestamp() * _MICROSECONDS) * 1000
