"""The keywords of JSON Schema 2020-12: the types that each applies to, and checks of values against them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeGuard

from suite.errors import InvalidSchema

TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")
FORMATS = frozenset(("date", "time", "date-time", "uuid", "uuid1", "uuid2", "uuid3", "uuid4", "uuid5"))
"""The formats that a grammar can enforce."""
ANNOTATIONS = frozenset(
    (
        *("$schema", "$id", "$anchor", "$dynamicAnchor", "$vocabulary", "$comment", "$defs", "definitions"),
        *("title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly"),
    )
)
_ABOUT: Mapping[str, Collection[str]] = {
    "object": (
        *("properties", "required", "additionalProperties", "patternProperties", "propertyNames"),
        *("minProperties", "maxProperties", "unevaluatedProperties"),
        *("dependentRequired", "dependentSchemas", "dependencies"),
    ),
    "array": (
        *("items", "prefixItems", "minItems", "maxItems", "additionalItems", "uniqueItems"),
        *("contains", "minContains", "maxContains", "unevaluatedItems"),
    ),
    "string": ("minLength", "maxLength", "pattern", "contentEncoding", "contentMediaType", "contentSchema"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
}
_TYPE_OF = {name: type for type, names in _ABOUT.items() for name in names}
_IMPLYING = ("object", "array", "string", "number")

_SIZES: Mapping[str, Callable[[Any, Any], bool]] = {
    "minLength": lambda value, limit: len(value) >= limit,
    "maxLength": lambda value, limit: len(value) <= limit,
    "minItems": lambda value, limit: len(value) >= limit,
    "maxItems": lambda value, limit: len(value) <= limit,
    "minProperties": lambda value, limit: len(value) >= limit,
    "maxProperties": lambda value, limit: len(value) <= limit,
    "minimum": lambda value, limit: value >= limit,
    "maximum": lambda value, limit: value <= limit,
    "exclusiveMinimum": lambda value, limit: value > limit,
    "exclusiveMaximum": lambda value, limit: value < limit,
}
LIMITS = frozenset(_SIZES)
"""The keywords that limit the size of a value by a number."""


def applies_to(name: str, setting: object, types: Collection[str]) -> bool:
    """Whether a keyword with this setting constrains values of one of the types."""
    about = "string" if name == "format" and setting in FORMATS else _TYPE_OF.get(name)
    return about is None or about in types or (about == "number" and "integer" in types)


def implied_type(rules: Mapping[str, object]) -> str | None:
    """The type that the keywords of a schema without `type` imply; None if they imply none."""
    about = {"string" if rules.get("format") in FORMATS else None, *(_TYPE_OF.get(name) for name in rules)}
    return next((type for type in _IMPLYING if type in about), None)


def schema_error(path: str, what: str) -> InvalidSchema:
    """The error that says what is wrong at a path of the schema."""
    return InvalidSchema(f"{path or 'the schema'}: {what}")


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether a JSON value is a number; unlike in Python, true is not."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def has_type(value: object, type: str) -> bool:
    """Whether a JSON value has a type."""
    if isinstance(value, float):
        return type == "number" or (type == "integer" and value.is_integer())
    if is_number(value):
        return type in ("number", "integer")
    return type == type_of(value)


def type_of(value: object) -> str:
    """The type of a JSON value; "number" for integers too."""
    if value is None:
        return "null"
    kinds = ((bool, "boolean"), ((int, float), "number"), (str, "string"), (list, "array"))
    return next((name for kind, name in kinds if isinstance(value, kind)), "object")


def satisfies(value: object, name: str, limit: object) -> bool:
    """Whether a value satisfies one of `LIMITS`."""
    return not applies_to(name, limit, (type_of(value),)) or _SIZES[name](value, limit)


def json_equal(one: object, other: object) -> bool:
    """Whether two JSON values are equal; unlike in Python, 1 is not true."""
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(json_equal, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(json_equal(one[name], other[name]) for name in one)
    return isinstance(one, bool) == isinstance(other, bool) and one == other
