"""The few simple forms to which a schema is reduced before a grammar is written from it.

- `{"$ref": name}`, of a definition; `{"anyOf": forms}`; `{"enum": values}` - `{"type": "object"}`, of
anything, or with `properties`, `required`, and `additionalProperties`, which excludes
  the names in `taken`
- `{"type": "array"}`, of anything, or with `prefixItems`, or with `items`, `minItems` and `maxItems`
- `{"type": "string"}`, with `format`, or with `pattern` (as GBNF), or with `minLength` and `maxLength`
- `{"type": "number"}`, and so "integer", "boolean", "null", and "value", which is any JSON

A form is marked `implied` if the schema did not name the type, and so permits other types, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from suite.engine.schema.keywords import has_type, json_equal

Schema: TypeAlias = dict[str, Any]

ANYTHING: Schema = {"type": "value"}


def is_satisfiable(
    schema: Schema, definitions: Mapping[str, Schema], within: frozenset[str] = frozenset()
) -> bool:
    """Whether any finite JSON value satisfies the schema. `within` has the definitions that contain it."""
    if (name := schema.get("$ref")) is not None:
        return name not in within and is_satisfiable(definitions[name], definitions, within | {name})
    if "anyOf" in schema:
        return any(is_satisfiable(part, definitions, within) for part in schema["anyOf"])
    if "properties" in schema:
        needed = (schema["properties"][name] for name in schema["required"])
        return all(is_satisfiable(part, definitions, within) for part in needed)
    if "prefixItems" in schema:
        return all(is_satisfiable(item, definitions, within) for item in schema["prefixItems"])
    if schema.get("minItems", 0) > 0:
        return is_satisfiable(schema["items"], definitions, within)
    return True


def are_disjoint(
    one: Schema, other: Schema, definitions: Mapping[str, Schema], within: frozenset[str] = frozenset()
) -> bool:
    """Whether it is certain that no value satisfies both; `within` as in `is_satisfiable`."""
    for first, second in ((one, other), (other, one)):
        if (name := first.get("$ref")) is not None:
            return name not in within and are_disjoint(
                definitions[name], second, definitions, within | {name}
            )
        if "anyOf" in first:
            return all(are_disjoint(part, second, definitions, within) for part in first["anyOf"])
    for first, second in ((one, other), (other, one)):
        if "enum" in first:
            return not any(_may_follow(value, second) for value in first["enum"])
    types = {one["type"], other["type"]}
    if "value" in types or types == {"number", "integer"}:
        return False
    if len(types) > 1:
        return not ("implied" in one or "implied" in other)
    return (
        "properties" in one
        and "properties" in other
        and _objects_are_disjoint(one, other, definitions, within)
    )


def _may_follow(value: object, schema: Schema) -> bool:
    if "enum" in schema:
        return any(json_equal(value, other) for other in schema["enum"])
    return schema["type"] == "value" or "implied" in schema or has_type(value, schema["type"])


def _objects_are_disjoint(
    one: Schema, other: Schema, definitions: Mapping[str, Schema], within: frozenset[str]
) -> bool:
    for first, second in ((one, other), (other, one)):
        if second["additionalProperties"] is False and not set(first["required"]) <= set(
            second["properties"]
        ):
            return True
    return any(
        are_disjoint(one["properties"][name], other["properties"][name], definitions, within)
        for name in set(one["required"]) & set(other["required"])
    )
