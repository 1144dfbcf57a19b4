"""The few plain forms that a schema is brought into before a grammar is made of it.

- `{"$ref": name}`, of a definition; `{"anyOf": forms}`; `{"enum": values}`
- `{"type": "object"}`, of anything, or with `properties`, `required`, and `additionalProperties`, whose names
  are none of those `taken`
- `{"type": "array"}`, of anything, or with `prefixItems`, or with `items`, `minItems` and `maxItems`
- `{"type": "string"}`, with `format`, or with `pattern` (as GBNF), or with `minLength` and `maxLength`
- `{"type": "number"}`, and so "integer", "boolean", "null", and "value", which is any JSON

A type is `implied` where the schema permits others, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from suite.engine.schema.keywords import is_of, same

Schema: TypeAlias = dict[str, Any]

ANYTHING: Schema = {"type": "value"}


def can_end(schema: Schema, definitions: Mapping[str, Schema], within: frozenset[str] = frozenset()) -> bool:
    """Whether any finite JSON follows it; `within`: the definitions that it is a part of."""
    if (name := schema.get("$ref")) is not None:
        return name not in within and can_end(definitions[name], definitions, within | {name})
    if "anyOf" in schema:
        return any(can_end(part, definitions, within) for part in schema["anyOf"])
    if "properties" in schema:
        needed = (schema["properties"][name] for name in schema["required"])
        return all(can_end(part, definitions, within) for part in needed)
    if "prefixItems" in schema:
        return all(can_end(item, definitions, within) for item in schema["prefixItems"])
    if schema.get("minItems", 0) > 0:
        return can_end(schema["items"], definitions, within)
    return True


def apart(
    one: Schema, other: Schema, definitions: Mapping[str, Schema], within: frozenset[str] = frozenset()
) -> bool:
    """Whether it is plain that nothing follows both; `within` as in `can_end`."""
    for first, second in ((one, other), (other, one)):
        if (name := first.get("$ref")) is not None:
            return name not in within and apart(definitions[name], second, definitions, within | {name})
        if "anyOf" in first:
            return all(apart(part, second, definitions, within) for part in first["anyOf"])
    for first, second in ((one, other), (other, one)):
        if "enum" in first:
            return not any(_may_follow(value, second) for value in first["enum"])
    types = {one["type"], other["type"]}
    if "value" in types or types == {"number", "integer"}:
        return False
    if len(types) > 1:
        return not ("implied" in one or "implied" in other)
    return "properties" in one and "properties" in other and _objects_apart(one, other, definitions, within)


def _may_follow(value: object, schema: Schema) -> bool:
    if "enum" in schema:
        return any(same(value, other) for other in schema["enum"])
    return schema["type"] == "value" or "implied" in schema or is_of(value, schema["type"])


def _objects_apart(
    one: Schema, other: Schema, definitions: Mapping[str, Schema], within: frozenset[str]
) -> bool:
    for first, second in ((one, other), (other, one)):
        if second["additionalProperties"] is False and not set(first["required"]) <= set(
            second["properties"]
        ):
            return True
    return any(
        apart(one["properties"][name], other["properties"][name], definitions, within)
        for name in set(one["required"]) & set(other["required"])
    )
