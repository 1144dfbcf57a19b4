"""Merges the schemas of an `allOf` into one."""

from __future__ import annotations

from collections.abc import Sequence

from suite.engine.schema.keywords import ANNOTATIONS, is_number, json_equal, schema_error
from suite.engine.schema.tree import Schema

_LEAST = ("minLength", "minItems", "minProperties", "minimum", "exclusiveMinimum")
_MOST = ("maxLength", "maxItems", "maxProperties", "maximum", "exclusiveMaximum")


def merge_all_of(parts: Sequence[tuple[str, object]]) -> tuple[Schema, list[str]]:
    """Merge schemas, each given with its path, into one.

    Returns the merged schema, and the paths of keywords that it could not keep. Raises InvalidSchema.
    """
    checked = [(path, _mergeable(path, part)) for path, part in parts]
    named = {name for _, part in checked for name in part.get("properties", {})}
    merged: Schema = {}
    lost: list[str] = []
    for path, part in checked:
        for name, value in part.items():
            if name == "additionalProperties" and not named <= part.get("properties", {}).keys():
                if value is not True:  # it forbids what other parts describe
                    lost.append(f"{path}/{name}")
            elif name not in merged or json_equal(merged[name], value):
                merged[name] = value
            elif name in _MERGERS:
                merged[name] = _MERGERS[name](merged[name], value, f"{path}/{name}")
            else:
                lost.append(f"{path}/{name}")
    return merged, lost


def _mergeable(path: str, part: object) -> Schema:
    if not isinstance(part, dict):
        raise schema_error(path, "only schemas that are objects can be merged")
    if "$ref" in part:
        raise schema_error(path, "a $ref cannot be merged with other schemas")
    if not isinstance(part.get("properties", {}), dict):
        raise schema_error(f"{path}/properties", "it must be an object")
    return {name: value for name, value in part.items() if name not in ANNOTATIONS}


def _properties(one: Schema, other: Schema, _path: str) -> Schema:
    return one | {
        name: {"allOf": [one[name], schema]} if name in one else schema for name, schema in other.items()
    }


def _both(one: object, other: object, path: str) -> list[object]:
    if not isinstance(one, list) or not isinstance(other, list):
        raise schema_error(path, "it must be a list")
    return [*one, *other]


def _types(one: object, other: object, path: str) -> list[object]:
    ones, others = (given if isinstance(given, list) else [given] for given in (one, other))
    common = [type for type in ones if type in others or (type == "integer" and "number" in others)]
    common += [type for type in others if type == "integer" and "number" in ones and type not in common]
    if not common:
        raise schema_error(path, "no value has both this type and that of another part")
    return common


def _values(one: object, other: object, path: str) -> list[object]:
    if not isinstance(one, list) or not isinstance(other, list):
        raise schema_error(path, "it must be a list")
    common = [value for value in one if any(json_equal(value, candidate) for candidate in other)]
    if not common:
        raise schema_error(path, "it has no value in common with the enum of another part")
    return common


def _const(_one: object, _other: object, path: str) -> object:
    raise schema_error(path, "it differs from the const of another part")


def _larger(one: object, other: object, path: str) -> object:
    return max(_number(one, path), _number(other, path))


def _smaller(one: object, other: object, path: str) -> object:
    return min(_number(one, path), _number(other, path))


def _number(value: object, path: str) -> float:
    if not is_number(value):
        raise schema_error(path, "it must be a number")
    return value


_MERGERS = {
    "properties": _properties,
    "required": _both,
    "allOf": _both,
    "type": _types,
    "enum": _values,
    "const": _const,
    **dict.fromkeys(_LEAST, _larger),
    **dict.fromkeys(_MOST, _smaller),
}
