"""Values that a JSON schema permits, as far as is needed to make requests of the published schemas."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any, Final, TypeAlias

from support.fuzzing.mutation import junk, text

Schema: TypeAlias = Mapping[str, Any]
Hint: TypeAlias = Sequence[Any] | Callable[[Random], Any]
"""What to choose from, or what makes a value."""

_DEEPEST: Final = 6
_OPTIONAL: Final = 0.3
"""How often a member that may be left out is there."""


class Values:
    """Values of the schemas in one document, whose references these are.

    Members that have a hint, by their names, take most of their values from there.
    """

    def __init__(self, document: Schema, hints: Mapping[str, Hint]) -> None:
        self._document = document
        self._hints = hints

    def value(self, random: Random) -> Any:
        """A value that the document itself permits."""
        return self.of(self._document, random)

    def of(self, schema: Schema, random: Random, depth: int = 0) -> Any:
        """A value that a schema of the document permits."""
        if "$ref" in schema:
            return self.of(self._found(schema["$ref"]), random, depth + 1)
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return random.choice(schema["enum"])
        for union in ("anyOf", "oneOf"):
            if union in schema:
                return self.of(random.choice(schema[union]), random, depth + 1)
        kind = schema.get("type")
        if isinstance(kind, list):
            kind = random.choice(kind)
        match kind:
            case "object":
                return self._object(schema, random, depth)
            case "array":
                return self._array(schema, random, depth)
            case "string":
                return self._text(schema, random)
            case "integer" | "number":
                return _number(schema, random, whole=kind == "integer")
            case "boolean":
                return random.random() < 0.5
            case "null":
                return None
        return junk(random)

    def _found(self, reference: str) -> Schema:
        found: Any = self._document
        for name in reference.removeprefix("#/").split("/"):
            found = found[name.replace("~1", "/").replace("~0", "~")]
        schema: Schema = found
        return schema

    def _object(self, schema: Schema, random: Random, depth: int) -> dict[str, Any]:
        required = schema.get("required", ())
        optional = _OPTIONAL if depth < _DEEPEST else 0
        made = {
            name: self._member(name, member, random, depth)
            for name, member in schema.get("properties", {}).items()
            if name in required or name in self._hints or random.random() < optional
        }
        if isinstance(further := schema.get("additionalProperties"), dict):
            made |= {text(random): self.of(further, random, depth + 1) for _ in range(random.randrange(3))}
        return made

    def _member(self, name: str, schema: Schema, random: Random, depth: int) -> Any:
        hint = self._hints.get(name)
        if hint is not None and random.random() < 0.9:
            chosen = hint(random) if callable(hint) else random.choice(hint)
            if chosen is not None or _may_be_null(schema):
                return chosen
        return self.of(schema, random, depth + 1)

    def _array(self, schema: Schema, random: Random, depth: int) -> list[Any]:
        least = schema.get("minItems", 0)
        count = least + (random.randrange(3) if depth < _DEEPEST else 0)
        return [self.of(schema.get("items", {}), random, depth + 1) for _ in range(count)]

    def _text(self, schema: Schema, random: Random) -> str:
        least, most = schema.get("minLength", 0), schema.get("maxLength", 100)
        return text(random)[:most].ljust(least, "a")


def _may_be_null(schema: Schema) -> bool:
    kinds = schema.get("anyOf", [schema])
    return any(each.get("type", "null") == "null" for each in kinds)


def _number(schema: Schema, random: Random, *, whole: bool) -> float:
    low = schema.get("minimum", schema.get("exclusiveMinimum", -3))
    high = schema.get("maximum", schema.get("exclusiveMaximum", low + 100) - whole)
    if whole:
        return random.choice((low, high, random.randint(int(low), min(int(high), int(low) + 50))))
    return random.choice((low, high, random.uniform(low, high)))
