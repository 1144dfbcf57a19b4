"""Converts a JSON schema into a grammar.

A schema is checked and reduced to a few simple forms (`suite.engine.schema.tree`), from which the grammar is
written (`suite.engine.schema.rules`). Warnings name the keywords that a grammar cannot enforce, such as the
bounds of numbers. A schema that no value can satisfy is refused (ADR 17).

This must run in a process that may crash, because a schema can be as hostile as a grammar.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from itertools import combinations
from urllib.parse import unquote

from suite.engine.grammar.grammar import MAX_BYTES, SchemaGrammar
from suite.engine.schema import pattern
from suite.engine.schema.all_of import merge_all_of
from suite.engine.schema.keywords import (
    ANNOTATIONS,
    FORMATS,
    LIMITS,
    TYPES,
    applies_to,
    has_type,
    implied_type,
    is_number,
    json_equal,
    satisfies,
    schema_error,
    type_of,
)
from suite.engine.schema.rules import write_grammar
from suite.engine.schema.tree import ANYTHING, Schema, are_disjoint, is_satisfiable
from suite.errors import InvalidSchema

_ENFORCED = {
    "object": ("properties", "required", "additionalProperties"),
    "array": ("items", "prefixItems", "additionalItems", "minItems", "maxItems"),
}
_MAX_GRAMMAR_BYTES = 4 * MAX_BYTES
_MOST_COMPARED = 64
"""Of a `oneOf` with more parts, it is not checked whether they exclude each other."""


def to_grammar(schema: object) -> SchemaGrammar:
    """The grammar of the JSON that a schema permits. Raises InvalidSchema, with the path of the error."""
    reader = _Reader(schema)
    try:
        root = reader.read(schema, "")
        if not is_satisfiable(root, reader.definitions):
            raise InvalidSchema("no value can satisfy the schema: it requires itself without end")
        text = write_grammar(root, reader.definitions)
    except RecursionError:
        raise InvalidSchema("the schema is nested too deeply") from None
    if len(text.encode()) > _MAX_GRAMMAR_BYTES:
        raise InvalidSchema(f"the schema makes a grammar of {len(text) // 1024} KiB: make it simpler")
    return SchemaGrammar(grammar=text, warnings=tuple(reader.warnings))


class _Reader:
    """Checks a schema and reduces it to the simple forms."""

    def __init__(self, document: object) -> None:
        self.warnings: dict[str, None] = {}
        """The warnings in their order, without duplicates (an ordered set)."""
        self.definitions: dict[str, Schema] = {}
        """The schemas behind references, in the simple forms."""
        self._document = document

    def read(self, schema: object, path: str) -> Schema:
        if schema is True:
            return ANYTHING
        if schema is False:
            raise schema_error(path, "false permits nothing")
        if not isinstance(schema, dict):
            raise schema_error(path, f"a schema is an object, not {json.dumps(schema)[:50]}")
        rules = {name: value for name, value in schema.items() if name not in ANNOTATIONS}
        types = _types(rules, path)
        if not isinstance(rules.get("format", ""), str):
            raise schema_error(f"{path}/format", "it must be a text")
        if "$ref" in rules:
            return self._reference(rules, path)
        if "allOf" in rules:
            return self._all_of(rules, path)
        if "const" in rules or "enum" in rules:
            return self._choice(rules, types, path)
        for name in ("anyOf", "oneOf"):
            if name in rules:
                return self._any_of(rules, name, path)
        if types is None:
            self._warn_of(rules, path)
            return ANYTHING
        read = [self._typed(type, rules, path) for type in types]
        if "type" not in rules:
            return read[0] | {"implied": True}
        return read[0] if len(read) == 1 else {"anyOf": read}

    def _reference(self, rules: Schema, path: str) -> Schema:
        reference = rules["$ref"]
        self._warn_of(rules, path, enforced=("$ref",))
        if not isinstance(reference, str) or not (reference == "#" or reference.startswith("#/")):
            raise schema_error(f"{path}/$ref", "only references such as #/$defs/name are followed")
        if reference not in self.definitions:
            target = self._document
            for part in reference.split("/")[1:]:
                key = unquote(part).replace("~1", "/").replace("~0", "~")
                if isinstance(target, list) and key.isdecimal() and int(key) < len(target):
                    target = target[int(key)]
                elif isinstance(target, dict) and key in target:
                    target = target[key]
                else:
                    raise schema_error(f"{path}/$ref", f"there is no {reference[:100]}")
            self.definitions[reference] = ANYTHING  # until it is read, for it may refer to itself
            self.definitions[reference] = self.read(target, reference.removeprefix("#"))
        return {"$ref": reference}

    def _choice(self, rules: Schema, types: list[str] | None, path: str) -> Schema:
        """The values of an `enum` or a `const` that satisfy the other keywords of the schema."""
        values = [rules["const"]] if "const" in rules else _listed(rules, "enum", path)
        if "type" in rules and types is not None:
            values = [value for value in values if any(has_type(value, type) for type in types)]
        if "const" in rules and "enum" in rules:
            among = _listed(rules, "enum", path)
            values = [value for value in values if any(json_equal(value, other) for other in among)]
        limits = {name: limit for name, limit in rules.items() if name in LIMITS}
        for name, limit in limits.items():
            if not is_number(limit):
                raise schema_error(f"{path}/{name}", "it must be a number")
            values = [value for value in values if satisfies(value, name, limit)]
        if not values:
            keyword = "const" if "const" in rules else "enum"
            raise schema_error(path, f"no value of its {keyword} satisfies the other keywords")
        left = {type_of(value) for value in values}
        self._warn_of(rules, path, enforced=("const", "enum", "type", *limits), types=left)
        return {"enum": values}

    def _any_of(self, rules: Schema, name: str, path: str) -> Schema:
        parts = _listed(rules, name, path)
        self._warn_of(rules, path, enforced=(name,))
        read = [
            self.read(part, f"{path}/{name}/{number}")
            for number, part in enumerate(parts)
            if part is not False
        ]
        if not read:
            raise schema_error(f"{path}/{name}", "false permits nothing")
        if name == "oneOf" and not self._are_disjoint(read):
            self._warn([f"{path}/{name}"])
        return {"anyOf": read}

    def _are_disjoint(self, parts: list[Schema]) -> bool:
        return len(parts) <= _MOST_COMPARED and all(
            are_disjoint(one, other, self.definitions) for one, other in combinations(parts, 2)
        )

    def _all_of(self, rules: Schema, path: str) -> Schema:
        beside = {name: value for name, value in rules.items() if name != "allOf"}
        placed: list[tuple[str, object]] = [(path, beside)]
        placed += [(f"{path}/allOf/{n}", part) for n, part in enumerate(_listed(rules, "allOf", path))]
        placed = [(where, part) for where, part in placed if part is not True and part != {}]
        if len(placed) < 2:
            return self.read(placed[0][1], placed[0][0]) if placed else ANYTHING
        merged, lost = merge_all_of(placed)
        self._warn(lost)
        return self.read(merged, path)

    def _typed(self, type: str, rules: Schema, path: str) -> Schema:
        if type == "string":
            return self._string(rules, path)
        self._warn_of(rules, path, enforced=("type", *_ENFORCED.get(type, ())), types=(type,))
        if type == "object":
            return {"type": type, **self._object(rules, path)}
        if type == "array":
            counts = _counted(rules, "minItems", "maxItems", path)
            return {"type": type, **counts, **self._array(rules, path, counted=bool(counts))}
        return {"type": type}

    def _string(self, rules: Schema, path: str) -> Schema:
        """A string by its format, its pattern or its length: a grammar can enforce only one of them."""
        counts = _counted(rules, "minLength", "maxLength", path)
        form = counts
        if rules.get("format") in FORMATS:
            form = {"format": rules["format"]}
        elif "pattern" in rules:
            form = {"pattern": _pattern(rules["pattern"], path)}
        self._warn_of(rules, path, enforced=("type", *form), types=("string",))
        return {"type": "string", **form}

    def _object(self, rules: Schema, path: str) -> Schema:
        properties, required = rules.get("properties", {}), rules.get("required", [])
        if not isinstance(properties, dict):
            raise schema_error(f"{path}/properties", "it must be an object")
        if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
            raise schema_error(f"{path}/required", "it must be a list of names")
        others = rules.get("additionalProperties", not (properties or required))
        missing = [name for name in required if name not in properties]
        if missing and rules.get("additionalProperties") is False:
            raise schema_error(f"{path}/required", f"{missing[0]!r} is required and not permitted")
        if not properties and not required and others is True:
            return {}
        read = {
            name: self.read(schema, f"{path}/properties/{name}")
            for name, schema in properties.items()
            if schema is not False or name in required
        }
        if not isinstance(others, bool):
            others = self.read(others, f"{path}/additionalProperties")
        for name in missing:
            read[name] = ANYTHING if isinstance(others, bool) else others
        return {
            "properties": read,
            "required": required,
            "additionalProperties": ANYTHING if others is True else others,
            "taken": [*properties, *missing],
        }

    def _array(self, rules: Schema, path: str, *, counted: bool) -> Schema:
        items = rules.get("items", True)
        first = items if isinstance(items, list) else rules.get("prefixItems")
        if first is not None:
            if not isinstance(first, list) or not first:
                raise schema_error(f"{path}/prefixItems", "it must be a list of at least one schema")
            if not rules.get("minItems", 0) <= len(first) <= rules.get("maxItems", len(first)):
                raise schema_error(path, f"an array with prefixItems must have these {len(first)} items")
            path = f"{path}/prefixItems"
            return {"prefixItems": [self.read(item, f"{path}/{n}") for n, item in enumerate(first)]}
        if items is True and not counted:
            return {}
        if items is False:
            if rules.get("minItems", 0) > 0:
                raise schema_error(f"{path}/items", "false permits no items and minItems requires some")
            return {"items": ANYTHING, "minItems": 0, "maxItems": 0}
        return {"items": self.read(items, f"{path}/items")}

    def _warn_of(
        self, rules: Schema, path: str, *, enforced: Collection[str] = (), types: Collection[str] = TYPES
    ) -> None:
        """Warn about all keywords except those that are enforced or do not apply to the types."""
        self._warn(
            f"{path}/{name}"
            for name, setting in rules.items()
            if name not in enforced and applies_to(name, setting, types)
        )

    def _warn(self, paths: Iterable[str]) -> None:
        self.warnings.update((f"json schema: {path} cannot be enforced", None) for path in paths)


def _types(rules: Schema, path: str) -> list[str] | None:
    """The types that a schema names, or the one that its keywords imply; None: any type."""
    if "type" not in rules:
        implied = implied_type(rules)
        return None if implied is None else [implied]
    named = rules["type"] if isinstance(rules["type"], list) else [rules["type"]]
    if not named:
        raise schema_error(f"{path}/type", "an empty list permits nothing")
    for type in named:
        if type not in TYPES:
            raise schema_error(f"{path}/type", f"{json.dumps(type)[:50]} is none of {', '.join(TYPES)}")
    return named


def _listed(rules: Schema, name: str, path: str) -> list[object]:
    found = rules[name]
    if not isinstance(found, list) or not found:
        raise schema_error(f"{path}/{name}", "it must be a list that is not empty")
    return found


def _counted(rules: Schema, least: str, most: str, path: str) -> Schema:
    read = {}
    for name in (least, most):
        if name in rules:
            value = rules[name]
            if not has_type(value, "integer") or value < 0:
                raise schema_error(f"{path}/{name}", "it must be a whole number, 0 or more")
            if value > MAX_BYTES:
                raise schema_error(f"{path}/{name}", f"it must be at most {MAX_BYTES}")
            read[name] = int(value)
    if read.get(least, 0) > read.get(most, MAX_BYTES):
        raise schema_error(path, f"{least} is larger than {most}")
    return read


def _pattern(given: object, path: str) -> str:
    if not isinstance(given, str):
        raise schema_error(f"{path}/pattern", "it must be a text")
    try:
        return pattern.to_gbnf(given)
    except pattern.UnsupportedPattern as error:
        raise schema_error(f"{path}/pattern", str(error)) from None
