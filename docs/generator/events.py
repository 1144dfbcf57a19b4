"""The reference of the events: every fact of the log, with its subject, its fields and their meaning."""

from __future__ import annotations

import inspect

from generator.markdown import prose
from generator.schemas import Shape, fields_table, shape_of
from suite.messages.asyncapi import asyncapi
from suite.messages.events import Event
from suite.messages.jsonschema import event_types

_INTRODUCTION = """\
# Events

Every event of the log, which is the JetStream stream `SUITE`. An event is a CloudEvent in binary mode: the
body is the JSON object described here, and the headers have its id (`ce-id`), its type (`ce-type`) and its
time (`ce-time`). Ids in a subject are percent-encoded outside letters, digits, `-` and `_`. No event has a
prompt or an answer.

A type name ends with a version. A new version is a new type; readers get older ones converted. The same as
JSON Schema is in `schemas/events`, and as AsyncAPI in `schemas/asyncapi.json`. [Consume the
log](../how-to/consume-the-log.md) says how to read it.
"""


def page() -> str:
    """The page as Markdown."""
    parts = [_INTRODUCTION]
    for aggregate in sorted({kind.aggregate for kind in event_types()}):
        parts.append(f"## {aggregate}\n\nSubject: `{_subject(aggregate)}`\n")
        parts += [_section(kind) for kind in event_types() if kind.aggregate == aggregate]
    return "\n".join(parts)


def _section(kind: type[Event]) -> str:
    shape: Shape = shape_of(kind)
    return f"### {kind.type}\n\n{prose(inspect.getdoc(kind))}\n\n{fields_table(shape.fields)}"


def _subject(aggregate: str) -> str:
    address: str = asyncapi()["channels"][f"event.{aggregate}"]["address"]
    return address
