"""Where spans go on this machine: into the store of kept spans, and to stderr."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SpanExporter, SpanExportResult
from opentelemetry.trace import StatusCode

from suite.messages.actions.traces import KeptSpan, LinkedSpan
from suite.telemetry.sampling import context_of
from suite.telemetry.span_store import SpanStore

logger = logging.getLogger("suite.telemetry")

_MOST_TEXT: Final = 2_000
"""Longer texts are not kept, so that a few prompts do not take the place of all other spans."""


class StoreExporter(SpanExporter):
    """Keeps spans in a store. A disk that takes none is told of once, until it takes them again."""

    def __init__(self, store: SpanStore) -> None:
        self._store = store
        self._fails = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Keep spans."""
        try:
            self._store.append(map(kept, spans))
        except OSError as error:
            if not self._fails:
                logger.warning("no spans are kept for `suite trace`: %s", error)
            self._fails = True
            return SpanExportResult.FAILURE
        self._fails = False
        return SpanExportResult.SUCCESS


def kept(span: ReadableSpan) -> KeptSpan:
    """A span as it is kept."""
    context, resource = context_of(span), span.resource.attributes
    attributes = dict(span.attributes or {})
    failed = span.status.status_code is StatusCode.ERROR
    return KeptSpan(
        trace_id=f"{context.trace_id:032x}",
        span_id=f"{context.span_id:016x}",
        parent_id="" if span.parent is None else f"{span.parent.span_id:016x}",
        name=span.name,
        kind=span.kind.name.lower(),
        process=str(resource.get("suite.process", "")),
        node=str(resource.get("suite.node.name", "")),
        start_ns=span.start_time or 0,
        end_ns=span.end_time or 0,
        error=str(attributes.get("error.type", "error")) if failed else "",
        error_text=span.status.description or "",
        attributes=_short(attributes),
        links=tuple(
            LinkedSpan(trace_id=f"{link.context.trace_id:032x}", span_id=f"{link.context.span_id:016x}")
            for link in span.links
        ),
    )


def console() -> SpanExporter:
    """Writes a line for each span to stderr."""
    return ConsoleSpanExporter(out=sys.stderr, formatter=_line)


def _line(span: ReadableSpan) -> str:
    return str(span.to_json(indent=None)).replace("\n", " ") + "\n"


def _short(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: f"{value[:_MOST_TEXT]}…" if isinstance(value, str) and len(value) > _MOST_TEXT else value
        for key, value in attributes.items()
    }
