"""JSON schemas in words: the type, limits and default of a field, as a reader wants to know them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from generator.markdown import code, prose, table
from suite.messages.jsonschema import schema_of

Schema = Mapping[str, Any]

_LIMITS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "over {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "under {}",
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
    "minItems": "at least {} entries",
    "maxItems": "at most {} entries",
    "maxProperties": "at most {} entries",
    "pattern": "matches {}",
    "format": "{}",
}

_NO_LIMIT = 10**9
"""A limit of this size only keeps out what is no number that anybody means."""


class Field(NamedTuple):
    """A field of a message, in words."""

    name: str
    type: str
    default: str
    meaning: str


class Shape(NamedTuple):
    """A message, and the objects that its fields have."""

    description: str
    fields: tuple[Field, ...]
    parts: Mapping[str, Shape]


def shape_of(kind: type) -> Shape:
    """The fields of a wire type in words, and those of the objects in it."""
    schema = schema_of(kind)
    parts = {name: _shape(part) for name, part in schema.get("$defs", {}).items() if "properties" in part}
    return _shape(schema)._replace(parts=parts)


def fields_table(fields: tuple[Field, ...]) -> str:
    """A table of fields."""
    rows = [(code(each.name), each.type, each.default, each.meaning) for each in fields]
    return table(("Field", "Type", "Default", "Meaning"), rows)


def objects(parts: Mapping[str, Shape], introduction: str) -> str:
    """A section with the objects that messages contain, to which the types of their fields link."""
    lines = [f"## Objects\n\n{introduction}\n"]
    for name, part in sorted(parts.items()):
        lines.append(f"### {name}\n\n{part.description}\n\n{fields_table(part.fields)}")
    return "\n".join(lines)


def type_in_words(schema: Schema) -> str:
    """The type and limits of a value: ``integer, at least 1``."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(type_in_words(each) for each in schema["anyOf"])
    if "enum" in schema:
        return " or ".join(code(json.dumps(each)) for each in schema["enum"])
    if "const" in schema:
        return code(json.dumps(schema["const"]))
    return ", ".join([_kind(schema), *_limits(schema)])


def _shape(schema: Schema) -> Shape:
    required = schema.get("required", ())
    fields = tuple(
        Field(
            name=name,
            type=type_in_words(each),
            default="required" if name in required else _default(each),
            meaning=prose(each.get("description")),
        )
        for name, each in schema["properties"].items()
    )
    return Shape(prose(schema.get("description")), fields, {})


def _kind(schema: Schema) -> str:
    kind = schema.get("type", "any")
    if kind == "array" and "items" in schema and schema["items"]:
        return f"list of {type_in_words(schema['items'])}"
    if kind == "object" and isinstance(schema.get("additionalProperties"), Mapping):
        return f"object of {type_in_words(schema['additionalProperties'])}"
    return str(kind)


def _limits(schema: Schema) -> Iterator[str]:
    for keyword, words in _LIMITS.items():
        value = schema.get(keyword)
        if value is not None and not (isinstance(value, int | float) and value >= _NO_LIMIT):
            yield words.format(code(value) if keyword == "pattern" else value)


def _default(schema: Schema) -> str:
    return code(json.dumps(schema["default"])) if "default" in schema else ""
