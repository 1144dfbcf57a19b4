"""Reads what a schema says of arrays into their form."""

from __future__ import annotations

from suite.engine.schema.conjunction import Conjunction, Part, SchemaReader
from suite.engine.schema.document import Subschema
from suite.engine.schema.keywords import schema_error
from suite.engine.schema.scalar import counted
from suite.engine.schema.tree import Schema

_ENFORCED = ("type", "items", "prefixItems", "additionalItems", "minItems", "maxItems")


def read_array(joined: Conjunction, reader: SchemaReader) -> Schema:
    """An array by its items. Those of `prefixItems` are all written, although a schema permits fewer."""
    counts = counted(joined, "minItems", "maxItems", reader)
    unevaluated = joined.unevaluated("unevaluatedItems")
    reader.warn_of(joined, (*_ENFORCED, *_also_enforced(joined, counts, unevaluated)), "array")
    others = [rest for part in joined.parts if (rest := _rest(part)) is not None]
    if unevaluated is not None and not others:
        others = [unevaluated]
    length = max(len(_first(part)) for part in joined.parts)
    if not (length or counts or others):
        return {"type": "array"}
    ends = not others and counts.get("minItems", 0) <= length > 0
    further = False if ends else reader.read(others)
    first = [reader.read(_at(joined, index)) for index in range(min(length, counts.get("maxItems", length)))]
    return {"type": "array", **counts, "prefixItems": first, "items": further}


def _also_enforced(joined: Conjunction, counts: Schema, unevaluated: Subschema | None) -> list[str]:
    enforced = []
    if counts.get("maxItems", 2) < 2:
        enforced.append("uniqueItems")
    if unevaluated is not None and len(joined.settings("unevaluatedItems")) == 1:
        enforced.append("unevaluatedItems")
    return enforced


def _first(part: Part) -> list[Subschema]:
    """The schemas of a part's first items."""
    name = "items" if isinstance(part.rules.get("items"), list) else "prefixItems"
    given = part.rules.get(name, [])
    if not isinstance(given, list) or (name in part.rules and not given):
        raise schema_error(f"{part.path}/{name}", "it must be a list of at least one schema")
    return [part.schema.child(name, index) for index in range(len(given))]


def _rest(part: Part) -> Subschema | None:
    """The schema of a part's further items."""
    name = "additionalItems" if isinstance(part.rules.get("items"), list) else "items"
    return part.schema.child(name) if name in part.rules else None


def _at(joined: Conjunction, index: int) -> list[Subschema]:
    """All that has to be satisfied by the item at an index."""
    schemas = (next(iter(_first(part)[index:]), _rest(part)) for part in joined.parts)
    return [schema for schema in schemas if schema is not None]
