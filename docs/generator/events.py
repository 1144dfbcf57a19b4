"""The reference of the events: every fact of the log, with its subject, its fields and their meaning."""

from __future__ import annotations

import inspect

from generator.markdown import prose
from generator.schemas import Shape, fields_table, objects, shape_of
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
    shapes = {kind: shape_of(kind) for kind in event_types()}
    sections = [_INTRODUCTION]
    for aggregate in sorted({kind.aggregate for kind in event_types()}):
        sections.append(f"## {aggregate}\n\nSubject: `{_subject(aggregate)}`\n")
        sections += [_section(kind, shape) for kind, shape in shapes.items() if kind.aggregate == aggregate]
    parts = {name: part for shape in shapes.values() for name, part in shape.parts.items()}
    return "\n".join([*sections, objects(parts, "The objects that events contain.")])


def _section(kind: type[Event], shape: Shape) -> str:
    return f"### {kind.type}\n\n{prose(inspect.getdoc(kind))}\n\n{fields_table(shape.fields)}"


def _subject(aggregate: str) -> str:
    address: str = asyncapi()["channels"][f"event.{aggregate}"]["address"]
    return address
