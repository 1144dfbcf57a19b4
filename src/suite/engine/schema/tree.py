"""The few simple forms to which a schema is reduced before a grammar is written from it.

- `{"$ref": name}`, of a definition; `{"anyOf": forms}`; `{"enum": values}`
- `{"anyOf": [], "why": reason}`: nothing
- `{"type": "object"}`, of anything; or with `properties`, in the order in which they are written, `required`,
  and `additionalProperties`: a form, which excludes the names in `taken`, or False. `closed`: the schema
  forbids others, too. `keys`: the form of the names of others. `minProperties` is 0 or 1, and
  `maxProperties` counts others where no property is named.
- `{"type": "array"}`, of anything; or with `prefixItems` and `items`, which is a form or False, and
  `minItems` and `maxItems`
- `{"type": "string"}`, with `format`, or with `pattern` (as GBNF), or with `minLength` and `maxLength`
- `{"type": "number"}` or "integer", with `minimum` and `maximum` or without both
- `{"type": "boolean"}`, "null", and "value", which is any JSON

A form is marked `implied` if the schema did not name the type, and so permits other types, too.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping
from typing import Any, TypeAlias

from suite.engine.schema.keywords import has_type, json_equal

Schema: TypeAlias = dict[str, Any]
Definitions: TypeAlias = Mapping[Hashable, Schema]

ANYTHING: Schema = {"type": "value"}
ENDLESS = "no value can satisfy the schema: it requires itself without end"


def nothing(path: str, why: str) -> Schema:
    """The form that no value has."""
    return {"anyOf": [], "why": f"{path or 'the schema'}: {why}"}


def union(forms: Collection[Schema]) -> Schema:
    """The form of what has one of these forms."""
    found: list[Schema] = []
    for form in forms:
        if "enum" in form and found and "enum" in found[-1]:
            found[-1] = {"enum": [*found[-1]["enum"], *form["enum"]]}
        elif form not in found:
            found.append(form)
    return found[0] if len(found) == 1 else {"anyOf": found}


# --- what can be satisfied ----------------------------------------------------------------------------------


def satisfiable(definitions: Definitions) -> set[Hashable]:
    """The names of the definitions that any finite JSON value satisfies."""
    found: set[Hashable] = set()
    while more := {
        name for name, form in definitions.items() if name not in found and is_satisfiable(form, found)
    }:
        found |= more
    return found


def is_satisfiable(form: Schema, possible: Collection[Hashable]) -> bool:
    """Whether any finite JSON value has a form; `possible` are the definitions that values satisfy."""
    if "$ref" in form:
        return form["$ref"] in possible
    return not any(not is_satisfiable(part, possible) for part in _needed(form)) and (
        "anyOf" not in form or any(is_satisfiable(part, possible) for part in form["anyOf"])
    )


def _needed(form: Schema) -> list[Schema]:
    """The forms within an object or an array that no value of it can do without."""
    if "properties" in form:
        members = [form["properties"][name] for name in form["required"]]
        return members + ([_any_member(form)] if form.get("minProperties") else [])
    least = form.get("minItems", 0)
    needed: list[Schema] = form.get("prefixItems", [])[:least]
    rest = form.get("items", False)
    return needed + ([rest] if rest is not False and least > len(needed) else [])


def _any_member(form: Schema) -> Schema:
    others = form["additionalProperties"]
    return {"anyOf": [*form["properties"].values(), *([] if others is False else [others])], "why": ENDLESS}


def prune(form: Schema, possible: Collection[Hashable]) -> Schema:
    """A satisfiable form without the parts in it that no value satisfies."""
    if "anyOf" in form:
        return union([prune(part, possible) for part in form["anyOf"] if is_satisfiable(part, possible)])
    if "properties" in form:
        return form | {
            "properties": {
                name: prune(part, possible)
                for name, part in form["properties"].items()
                if is_satisfiable(part, possible)
            },
            "additionalProperties": _rest(form["additionalProperties"], possible)
            if is_satisfiable(form.get("keys", ANYTHING), possible)
            else False,
        }
    if "items" in form:
        return form | _prune_items(form, possible)
    return form


def _prune_items(form: Schema, possible: Collection[Hashable]) -> Schema:
    first: list[Schema] = []
    for item in form["prefixItems"]:
        if not is_satisfiable(item, possible):
            return {"prefixItems": first, "items": False}
        first.append(prune(item, possible))
    return {"prefixItems": first, "items": _rest(form["items"], possible)}


def _rest(form: Schema | bool, possible: Collection[Hashable]) -> Schema | bool:
    if isinstance(form, bool):
        return form
    return prune(form, possible) if is_satisfiable(form, possible) else False


def reason(form: Schema, definitions: Definitions, possible: Collection[Hashable]) -> str:
    """Why no value has a form."""
    seen: set[Hashable] = set()
    while "why" not in form:
        if (name := form.get("$ref")) is not None:
            if name in seen:
                return ENDLESS
            seen.add(name)
            form = definitions[name]
        else:
            parts = form.get("anyOf") or _needed(form)
            form = next(part for part in parts if not is_satisfiable(part, possible))
    return str(form["why"])


# --- what excludes each other -------------------------------------------------------------------------------


def are_disjoint(
    one: Schema, other: Schema, definitions: Definitions, within: frozenset[Hashable] = frozenset()
) -> bool:
    """Whether it is certain that no value that is written for one satisfies the schema of the other.

    `within` has the definitions that contain these forms.
    """
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


def _may_follow(value: object, form: Schema) -> bool:
    if "enum" in form:
        return any(json_equal(value, other) for other in form["enum"])
    return form["type"] == "value" or "implied" in form or has_type(value, form["type"])


def _objects_are_disjoint(
    one: Schema, other: Schema, definitions: Definitions, within: frozenset[Hashable]
) -> bool:
    for first, second in ((one, other), (other, one)):
        described = second["properties"]
        if second["closed"] and not set(first["required"]) <= set(described):
            return True
        if any(
            are_disjoint(first["properties"][name], described[name], definitions, within)
            for name in first["required"]
            if name in described
        ):
            return True
    return False
