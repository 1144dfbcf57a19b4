"""list_traces and get_trace: of which traces spans are kept, and the spans of one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import chain
from typing import Final, TypeVar

import anyio.to_thread

from suite.actions.gathering import gathered
from suite.bus.service import Call, action
from suite.config import TRACES
from suite.errors import InvalidRequest, SuiteError
from suite.messages.actions.traces import (
    GetTraceReply,
    GetTraceRequest,
    KeptSpan,
    ListTracesReply,
    ListTracesRequest,
    without_content,
)
from suite.node.node import Node
from suite.projections.page import PAGE_BYTES
from suite.projections.reply_size import as_many_as_fit, left_out
from suite.telemetry.span_store import SpanStore

T = TypeVar("T")

_MOST_READING: Final = 2
"""So many requests read the spans at once, which may be some 30 MB."""


def _newest(request: ListTracesRequest, replies: Mapping[str, ListTracesReply]) -> ListTracesReply:
    """The newest of all nodes. One that several have parts of is told once, as its first part."""
    traces: dict[str, KeptSpan] = {}
    for each in chain.from_iterable(reply.traces for reply in replies.values()):
        other = traces.setdefault(each.trace_id, each)
        if each.start_ns < other.start_ns:
            traces[each.trace_id] = each
    return ListTracesReply(traces=_listed(list(traces.values()), request.limit))


@action("list_traces", route="each", is_lookup=True, limit=_MOST_READING)
@gathered("list_traces", _newest)
async def list_traces(node: Node, request: ListTracesRequest, _: Call) -> ListTracesReply:
    """List the newest traces of which spans are kept."""
    traces = await _read(lambda: _store(node).traces())
    # What is linked to other traces, such as folds, is in the trees of these.
    return ListTracesReply(traces=_listed([each for each in traces if not each.links], request.limit))


def _listed(traces: list[KeptSpan], limit: int) -> tuple[KeptSpan, ...]:
    newest_first = sorted(traces, key=lambda each: -each.start_ns)
    return as_many_as_fit(map(without_content, newest_first), limit=limit)


def _together(request: GetTraceRequest, replies: Mapping[str, GetTraceReply]) -> GetTraceReply:
    """The spans of all nodes, of one trace. Raises InvalidRequest if they found several."""
    found = {each.trace_id for each in replies.values() if each.trace_id is not None}
    if len(found) > 1:
        raise InvalidRequest(f"{len(found)} traces begin with {request.id}: send more of it")
    spans = {span.span_id: span for each in replies.values() for span in each.spans}
    linked = {span.span_id: span for each in replies.values() for span in each.linked}
    return _told(found.pop() if found else None, list(spans.values()), list(linked.values()))


@action("get_trace", route="each", is_lookup=True, limit=_MOST_READING)
@gathered("get_trace", _together)
async def get_trace(node: Node, request: GetTraceRequest, _: Call) -> GetTraceReply:
    """Get the spans of a trace that are kept."""
    return await _read(lambda: _found(_store(node), request.id))


def _found(store: SpanStore, id: str) -> GetTraceReply:
    trace_id = store.meant(id)
    if trace_id is None:
        return GetTraceReply(trace_id=None, spans=(), linked=())
    spans, linked = store.trace(trace_id)
    return _told(trace_id, spans, linked)


def _told(trace_id: str | None, spans: list[KeptSpan], linked: list[KeptSpan]) -> GetTraceReply:
    own = sorted(map(without_content, spans), key=lambda each: each.start_ns)
    others = sorted(map(without_content, linked), key=lambda each: each.start_ns)
    kept = as_many_as_fit(own, room_bytes=PAGE_BYTES * 3 // 4)
    also = as_many_as_fit(others, room_bytes=PAGE_BYTES // 4)
    return GetTraceReply(
        trace_id=trace_id,
        spans=kept,
        linked=also,
        warnings=(
            *left_out(own, kept, "spans after these"),
            *left_out(others, also, "linked spans"),
        ),
    )


def _store(node: Node) -> SpanStore:
    return SpanStore(node.settings.data_dir / TRACES, 0)


async def _read(work: Callable[[], T]) -> T:
    """Read spans in a thread. Raises SuiteError if that is not possible."""
    try:
        return await anyio.to_thread.run_sync(work)
    except OSError as error:
        raise SuiteError(f"the spans that are kept here cannot be read: {error.strerror}") from error
