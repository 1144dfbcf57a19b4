"""From a JSON schema to a grammar, with llama-cpp-python's converter.

The converter is strict where it need not be and silent where it should not: it stumbles over annotations,
takes a definition that is called "string" for the type, and drops what stands beside `enum`, `$ref` or
several types. So a schema is checked and put into the forms that it handles well first. What a grammar cannot
enforce, such as the bounds of numbers, is told in warnings.

Only for the probing process: a schema can be as hostile as a grammar.
"""

from __future__ import annotations

import json
from urllib.parse import unquote

from suite.engine.grammar import MAX_BYTES, Constraint
from suite.engine.schema_converter import Schema, convert
from suite.errors import InvalidSchema

_TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")
_ANNOTATIONS = frozenset(
    ("$schema", "$id", "$anchor", "$comment", "$defs", "definitions", "title", "description")
)
_ANNOTATIONS |= {"default", "examples", "deprecated", "readOnly", "writeOnly"}
_OF_TYPE = {
    "object": ("properties", "required", "additionalProperties"),
    "array": ("items", "prefixItems", "minItems", "maxItems"),
    "string": ("minLength", "maxLength", "pattern", "format"),
}
_COUNTS = (("minItems", "maxItems"), ("minLength", "maxLength"))
_HANDLED = frozenset(["type", *(name for names in _OF_TYPE.values() for name in names)])
_FORMATS = frozenset(("date", "time", "date-time", "uuid", "uuid1", "uuid2", "uuid3", "uuid4", "uuid5"))
_MAX_GRAMMAR_BYTES = 4 * MAX_BYTES
_ANYTHING: Schema = {"type": "value"}
"""The converter's name for any JSON value."""


def to_grammar(schema: object) -> Constraint:
    """The grammar of the JSON that follows a schema. Raises InvalidSchema with the path to what is wrong."""
    reader = _Reader(schema)
    try:
        root = reader.read(schema, "")
        if not reader.can_end(root, frozenset()):
            raise InvalidSchema("the schema cannot be met: it requires itself without end")
        text = convert(root, reader.definitions)
    except RecursionError:
        raise InvalidSchema("the schema is nested too deeply or asks for too many items") from None
    if len(text.encode()) > _MAX_GRAMMAR_BYTES:
        raise InvalidSchema(f"the schema makes a grammar of {len(text) // 1024} KiB: make it simpler")
    return Constraint(grammar=text, warnings=tuple(reader.warnings))


class _Reader:
    """Checks a schema and brings it into the converter's forms."""

    def __init__(self, document: object) -> None:
        self.warnings: list[str] = []
        self.definitions: dict[str, Schema] = {}
        """What is referred to, in the converter's forms."""
        self._document = document

    def read(self, schema: object, path: str) -> Schema:
        if schema is True:
            return _ANYTHING
        if schema is False:
            raise _wrong(path, "false permits nothing")
        if not isinstance(schema, dict):
            raise _wrong(path, f"a schema is an object, not {json.dumps(schema)[:50]}")
        rules = {name: value for name, value in schema.items() if name not in _ANNOTATIONS}
        if "$ref" in rules:
            return self._reference(rules, path)
        if "const" in rules:
            return {"const": rules["const"]}
        if "enum" in rules:
            return self._choice(rules, path)
        if "allOf" in rules:
            return self._all_of(rules, path)
        for name in ("anyOf", "oneOf"):
            if name in rules:
                return self._any_of(rules, name, path)
        types = rules.get("type", _implied(rules))
        if isinstance(types, list):
            if not types:
                raise _wrong(f"{path}/type", "an empty list permits nothing")
            return {"anyOf": [self.read({**rules, "type": type}, path) for type in types]}
        if types is None:
            self._warn_of(rules, path)
            return _ANYTHING
        if types not in _TYPES:
            raise _wrong(f"{path}/type", f"{json.dumps(types)[:50]} is none of {', '.join(_TYPES)}")
        return self._typed(str(types), rules, path)

    def can_end(self, schema: Schema, within: frozenset[str]) -> bool:
        """Whether any finite JSON follows it; `within`: the definitions that it is a part of."""
        if (reference := schema.get("$ref")) is not None:
            return reference not in within and self.can_end(self.definitions[reference], within | {reference})
        if "anyOf" in schema:
            return any(self.can_end(part, within) for part in schema["anyOf"])
        if "properties" in schema:
            return all(self.can_end(schema["properties"][name], within) for name in schema["required"])
        if "prefixItems" in schema:
            return all(self.can_end(item, within) for item in schema["prefixItems"])
        if schema.get("minItems", 0) > 0:
            return self.can_end(schema["items"], within)
        return True

    def _reference(self, rules: Schema, path: str) -> Schema:
        reference = rules["$ref"]
        beside = {name: value for name, value in rules.items() if name != "$ref"}
        self._warn_of(beside, path, all_of_them=True)
        if not isinstance(reference, str) or not (reference == "#" or reference.startswith("#/")):
            raise _wrong(f"{path}/$ref", "only references such as #/$defs/name are followed")
        if reference not in self.definitions:
            target = self._document
            for part in reference.split("/")[1:]:
                key = unquote(part).replace("~1", "/").replace("~0", "~")
                if isinstance(target, list) and key.isdecimal() and int(key) < len(target):
                    target = target[int(key)]
                elif isinstance(target, dict) and key in target:
                    target = target[key]
                else:
                    raise _wrong(f"{path}/$ref", f"there is no {reference[:100]}")
            self.definitions[reference] = _ANYTHING  # until it is read, for it may refer to itself
            self.definitions[reference] = self.read(target, reference.removeprefix("#"))
        return {"$ref": reference}

    def _choice(self, rules: Schema, path: str) -> Schema:
        values = rules["enum"]
        if not isinstance(values, list) or not values:
            raise _wrong(f"{path}/enum", "a list of at least one value is needed")
        types = rules.get("type", list(_TYPES))
        types = types if isinstance(types, list) else [types]
        fitting = [value for value in values if any(_is_of(value, type) for type in types)]
        if not fitting:
            raise _wrong(path, "none of the enum's values has the type")
        return {"enum": fitting}

    def _any_of(self, rules: Schema, name: str, path: str) -> Schema:
        parts = rules[name]
        if not isinstance(parts, list) or not parts:
            raise _wrong(f"{path}/{name}", "a list of at least one schema is needed")
        beside = {key: value for key, value in rules.items() if key != name}
        self._warn_of(beside, path, all_of_them=True)
        read, refusals = [], []
        for number, part in enumerate(parts):
            try:
                read.append(self.read(part, f"{path}/{name}/{number}"))
            except InvalidSchema as error:
                if part is not False:
                    raise
                refusals.append(error)
        if not read:
            raise refusals[0]
        return {"anyOf": read}

    def _all_of(self, rules: Schema, path: str) -> Schema:
        parts = rules["allOf"]
        if not isinstance(parts, list) or not parts:
            raise _wrong(f"{path}/allOf", "a list of at least one schema is needed")
        beside = {name: value for name, value in rules.items() if name != "allOf"}
        merged: Schema = {}
        for number, part in enumerate([beside, *parts] if beside else parts):
            if len(parts) == 1 and not beside:
                return self.read(part, f"{path}/allOf/0")
            if not isinstance(part, dict) or _implied(part) not in ("object", None) or "$ref" in part:
                raise _wrong(f"{path}/allOf", "only objects with properties can be joined")
            merged.setdefault("type", "object")
            merged.setdefault("properties", {}).update(part.get("properties", {}))
            merged.setdefault("required", []).extend(part.get("required", []))
            self._warn_of(part, f"{path}/allOf/{number}")
        return self.read(merged, path)

    def _typed(self, type: str, rules: Schema, path: str) -> Schema:
        self._warn_of(rules, path)
        read: Schema = {"type": type}
        for least, most in _COUNTS:
            if least in _OF_TYPE.get(type, ()):
                read |= _counted(rules, least, most, path)
        if type == "object":
            read |= self._object(rules, path)
        if type == "array":
            read |= self._array(rules, path, counted=len(read) > 1)
        if type == "string":
            if rules.get("format") in _FORMATS:
                return {"type": "string", "format": rules["format"]}
            if "pattern" in rules:
                return {"type": "string", "pattern": _pattern(rules["pattern"], path)}
        return read

    def _object(self, rules: Schema, path: str) -> Schema:
        properties, required = rules.get("properties", {}), rules.get("required", [])
        if not isinstance(properties, dict):
            raise _wrong(f"{path}/properties", "an object is needed")
        if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
            raise _wrong(f"{path}/required", "a list of names is needed")
        others = rules.get("additionalProperties", not (properties or required))
        missing = [name for name in required if name not in properties]
        if missing and rules.get("additionalProperties") is False:
            raise _wrong(f"{path}/required", f"{missing[0]!r} is required and not permitted")
        if not properties and not required and others is True:
            return {}
        read = {
            name: self.read(schema, f"{path}/properties/{name}")
            for name, schema in properties.items()
            if schema is not False or name in required
        }
        for name in missing:
            read[name] = _ANYTHING if others in (True, False) else self.read(others, path)
        object_: Schema = {"properties": read, "required": required, "additionalProperties": False}
        if others is True:
            object_["additionalProperties"] = _ANYTHING
        elif others is not False:
            object_["additionalProperties"] = self.read(others, f"{path}/additionalProperties")
        return object_

    def _array(self, rules: Schema, path: str, *, counted: bool) -> Schema:
        items = rules.get("items", True)
        first = items if isinstance(items, list) else rules.get("prefixItems")
        if first is not None:
            if not isinstance(first, list) or not first:
                raise _wrong(f"{path}/prefixItems", "a list of at least one schema is needed")
            if not rules.get("minItems", 0) <= len(first) <= rules.get("maxItems", len(first)):
                raise _wrong(path, f"an array of prefixItems has just these {len(first)} items here")
            path = f"{path}/prefixItems"
            return {"prefixItems": [self.read(item, f"{path}/{n}") for n, item in enumerate(first)]}
        if items is True and not counted:
            return {}
        if items is False:
            if rules.get("minItems", 0) > 0:
                raise _wrong(f"{path}/items", "false permits no items and minItems requires some")
            return {"items": _ANYTHING, "minItems": 0, "maxItems": 0}
        return {"items": self.read(items, f"{path}/items")}

    def _warn_of(self, rules: Schema, path: str, *, all_of_them: bool = False) -> None:
        for name, value in rules.items():
            handled = name in _HANDLED and not all_of_them
            if name == "format":
                handled = value in _FORMATS
            if not handled and name not in _ANNOTATIONS:
                self.warnings.append(f"json schema: {path}/{name} cannot be enforced")


def _wrong(path: str, what: str) -> InvalidSchema:
    return InvalidSchema(f"{path or 'the schema'}: {what}")


def _implied(rules: Schema) -> object:
    """The type of a schema, told or, where it is not, seen by what else it has."""
    if "type" in rules:
        return rules["type"]
    return next((type for type, names in _OF_TYPE.items() if any(name in rules for name in names)), None)


def _is_of(value: object, type: object) -> bool:
    if isinstance(value, bool):
        return type == "boolean"
    if value is None:
        return type == "null"
    if isinstance(value, (int, float)):
        return type == "number" or (type == "integer" and value == int(value))
    if isinstance(value, str):
        return type == "string"
    return type == ("array" if isinstance(value, list) else "object")


def _counted(rules: Schema, least: str, most: str, path: str) -> Schema:
    read = {}
    for name in (least, most):
        if name in rules:
            value = rules[name]
            if not _is_of(value, "integer") or value < 0:
                raise _wrong(f"{path}/{name}", "a whole number from 0 on is needed")
            if value > MAX_BYTES:
                raise _wrong(f"{path}/{name}", f"more than {MAX_BYTES} cannot be counted")
            read[name] = int(value)
    if read.get(least, 0) > read.get(most, MAX_BYTES):
        raise _wrong(path, f"{least} is larger than {most}")
    return read


def _pattern(pattern: object, path: str) -> str:
    if not isinstance(pattern, str):
        raise _wrong(f"{path}/pattern", "a text is needed")
    if not (pattern.startswith("^") and pattern.endswith("$")):
        raise _wrong(f"{path}/pattern", 'a pattern has to begin with "^" and end with "$" here')
    translated, bracket, open_groups, characters = "", False, 0, iter(pattern)
    for character in characters:
        if character == "\\":
            escaped = next(characters, "")
            plain = {"d": "0-9", "w": "a-zA-Z0-9_", "s": " "}.get(escaped)
            translated += "\\" + escaped if plain is None else plain if bracket else f"[{plain}]"
            continue
        if not bracket:
            open_groups += {"(": 1, ")": -1}.get(character, 0)
        bracket = character == "[" or (bracket and character != "]")
        translated += character
    if open_groups:
        raise _wrong(f"{path}/pattern", "its parentheses are not balanced")
    return translated
