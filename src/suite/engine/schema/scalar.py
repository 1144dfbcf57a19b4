"""Reads what a schema says of strings and numbers into their form."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import Any, NamedTuple

from suite.engine.grammar.grammar import MAX_BYTES
from suite.engine.schema import pattern
from suite.engine.schema.conjunction import Conjunction, Part, SchemaReader, Unsatisfiable
from suite.engine.schema.keywords import FORMATS, has_type, is_number, schema_error
from suite.engine.schema.numbers import LARGEST, can_be_followed, step
from suite.engine.schema.tree import Schema

_BOUNDS = ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum")
_MOST_COUNTED = 16 * MAX_BYTES
"""The largest number of characters or items that a grammar counts."""


def counted(joined: Conjunction, least: str, most: str, reader: SchemaReader) -> Schema:
    """The limits of a length, of those that a grammar can count. Raises Unsatisfiable, or InvalidSchema."""
    found: Schema = {}
    for name, choose in ((least, max), (most, min)):
        for part, value in joined.settings(name):
            if not has_type(value, "integer") or value < 0:
                raise schema_error(f"{part.path}/{name}", "it must be a whole number, 0 or more")
            if value > _MOST_COUNTED:
                reader.warn(f"{part.path}/{name}")
            else:
                found[name] = choose(found.get(name, int(value)), int(value))
    if found.get(least, 0) > found.get(most, _MOST_COUNTED):
        raise Unsatisfiable(joined.parts[0].path, f"{least} is larger than {most}")
    return found


# --- strings ------------------------------------------------------------------------------------------------


def read_string(joined: Conjunction, reader: SchemaReader) -> Schema:
    """A string by its format, its pattern or its length: a grammar can enforce only one of them."""
    form = counted(joined, "minLength", "maxLength", reader)
    followed = _followed(joined, "format", _format) or _followed(joined, "pattern", _pattern)
    if followed is not None:
        name, given, rule = followed
        form = {name: rule}
        for part, other in joined.settings(name):
            if other != given:
                reader.warn(f"{part.path}/{name}")
    else:
        name = "type"
    reader.warn_of(joined, ("type", name, *form), "string")
    return {"type": "string", **form}


def _followed(
    joined: Conjunction, name: str, rule_of: Callable[[Any, str], str | None]
) -> tuple[str, str, str] | None:
    """The first setting of a keyword that a grammar can follow, with the keyword and its rule."""
    rules = [(given, rule_of(given, f"{part.path}/{name}")) for part, given in joined.settings(name)]
    return next(((name, given, rule) for given, rule in rules if rule is not None), None)


def _format(given: str, _path: str) -> str | None:
    return given if given in FORMATS else None


def _pattern(given: object, path: str) -> str | None:
    if not isinstance(given, str):
        raise schema_error(path, "it must be a text")
    try:
        return pattern.to_gbnf(given)
    except pattern.UnsupportedPattern:
        return None
    except pattern.InvalidPattern as error:
        raise schema_error(path, str(error)) from None


# --- numbers ------------------------------------------------------------------------------------------------


class _Bound(NamedTuple):
    number: Decimal
    is_exclusive: bool


def read_number(type: str, joined: Conjunction, reader: SchemaReader) -> Schema:
    """A number by its type and its bounds."""
    low = _tightest(_bounds(joined, "minimum", "exclusiveMinimum", reader), max)
    high = _tightest(_bounds(joined, "maximum", "exclusiveMaximum", reader), min)
    reader.warn_of(joined, ("type", *_BOUNDS), type)
    if low is None and high is None:
        return {"type": type}
    bounds = [
        Decimal(-LARGEST) if low is None else low.number,
        Decimal(LARGEST) if high is None else high.number,
    ]
    least = Decimal(1) if type == "integer" else step(*bounds)
    if type == "integer":
        bounds = [bounds[0].to_integral_value(ROUND_CEILING), bounds[1].to_integral_value(ROUND_FLOOR)]
    if low is not None and low.is_exclusive and bounds[0] == low.number:
        bounds[0] += least
    if high is not None and high.is_exclusive and bounds[1] == high.number:
        bounds[1] -= least
    if bounds[0] > bounds[1]:
        raise Unsatisfiable(joined.parts[0].path, "no number is within its bounds")
    return {"type": type, "minimum": bounds[0], "maximum": bounds[1]}


def _bounds(joined: Conjunction, inclusive: str, exclusive: str, reader: SchemaReader) -> list[_Bound]:
    """All bounds on one side that a grammar can follow."""
    found = []
    for part in joined.parts:
        for name in (inclusive, exclusive):
            bound = _bound(part, name, is_exclusive=part.rules.get(exclusive) is True or name == exclusive)
            if bound is not None and not can_be_followed(bound.number):
                reader.warn(f"{part.path}/{name}")
            elif bound is not None:
                found.append(bound)
    return found


def _bound(part: Part, name: str, *, is_exclusive: bool) -> _Bound | None:
    value = part.rules.get(name)
    if value is None and name not in part.rules:
        return None
    if isinstance(value, bool) and name.startswith("exclusive"):
        return None  # as in OpenAPI 3.0: it says what kind of bound the other keyword is
    if not is_number(value):
        raise schema_error(f"{part.path}/{name}", "it must be a number")
    return _Bound(Decimal(repr(value)), is_exclusive)


def _tightest(bounds: Sequence[_Bound], choose: Callable[..., Decimal]) -> _Bound | None:
    if not bounds:
        return None
    number = choose(bound.number for bound in bounds)
    return _Bound(number, any(bound.is_exclusive for bound in bounds if bound.number == number))
