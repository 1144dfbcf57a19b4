"""Decodes the body of a request into its type, with errors and warnings for the sender.

Older clients put ``action`` into the body, and their arguments into ``data`` or another nested object.
Both forms are accepted as if the arguments were at the top level (``Shape.flattened``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from typing import Any, Generic, TypeVar

import msgspec
from msgspec import inspect

from suite.errors import InvalidRequest
from suite.messages.broken_json import refusal
from suite.messages.nesting import check_nesting

WARNING_LIMIT = 16
"""A reply names at most this many unknown fields."""
NAME_LIMIT = 64
WRAPPER = "data"
"""The field in which older clients put the arguments of any action."""
DROPPED = "action"
"""The field in which older clients repeat the action's name."""

R = TypeVar("R", bound=msgspec.Struct)

_parse = msgspec.json.Decoder().decode
_located = re.compile(r"(?P<what>.*?)(?: - at `\$\.?(?P<path>.*)`)?", re.DOTALL).fullmatch
_missing = re.compile(r"Object missing required field `(?P<name>.*)`").fullmatch


def parse(body: bytes) -> dict[str, Any]:
    """Parse the JSON object in a body; an empty body means an empty object.

    Raises InvalidJson, also for one that is nested too deeply, or InvalidRequest if it is not an object.
    """
    if not body:
        return {}
    try:
        fields = _parse(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise refusal(body, error) from None
    check_nesting(body)
    if not isinstance(fields, dict):
        raise InvalidRequest("the body is JSON but not an object: send one like {}")
    return fields


class Shape(Generic[R]):
    """The fields of a request type, and how to decode a request into it."""

    def __init__(self, kind: type[R], wrappers: tuple[str, ...] = ()) -> None:
        self.fields = frozenset(field.encode_name for field in msgspec.structs.fields(kind))
        """The field names that a request may have at its top level."""
        self._kind = kind
        self._known = _known(inspect.type_info(kind))
        self._wrappers = tuple(name for name in (WRAPPER, *wrappers) if name not in self.fields)
        self._dropped = frozenset({DROPPED}) - self.fields
        self._old = self._dropped.union(self._wrappers)
        self._not_null = frozenset(_not_null(kind))

    def flattened(self, fields: dict[str, Any]) -> tuple[dict[str, Any], InvalidRequest | None]:
        """Move the fields of wrapper objects to the top level, and leave out what is null without a meaning.

        Returns the fields, and an error if a field is given twice with different values; the caller raises
        it. A null field counts as not given.
        """
        flat, clash = self._unwrapped(fields)
        nulls = {name for name, value in flat.items() if value is None and name in self._not_null}
        if nulls:
            flat = {name: value for name, value in flat.items() if name not in nulls}
        return flat, clash

    def _unwrapped(self, fields: dict[str, Any]) -> tuple[dict[str, Any], InvalidRequest | None]:
        if self._old.isdisjoint(fields):
            return fields, None
        flat = {name: value for name, value in fields.items() if name not in self._dropped}
        clash: InvalidRequest | None = None
        for wrapper in self._wrappers:
            if not isinstance(inner := flat.get(wrapper), dict):
                continue
            del flat[wrapper]
            for name, value in inner.items():
                if name in self._dropped:
                    continue
                if (given := flat.get(name)) is None:
                    flat[name] = value
                elif value is not None and value != given:
                    clash = InvalidRequest(
                        f"field {name[:NAME_LIMIT]!r} stands in {wrapper!r} and beside it, "
                        "with different values: send it once"
                    )
        return flat, clash

    def read(self, fields: dict[str, Any]) -> R:
        """Decode the request. Raises InvalidRequest with the path of the field and what is expected there."""
        try:
            return msgspec.convert(fields, self._kind)
        except msgspec.ValidationError as error:
            raise InvalidRequest(explained(error)) from None

    def warnings(self, fields: dict[str, Any]) -> tuple[str, ...]:
        """One warning for each field that the type does not have, nested fields included."""
        if self._known is None or not fields:
            return ()
        unknown = islice(self._known.unknown(fields, ""), WARNING_LIMIT)
        return tuple(f"unknown field {path[-NAME_LIMIT:]!r} ignored" for path in unknown)


def explained(error: msgspec.ValidationError) -> str:
    """What is wrong with a body, beginning with the path of the field: ``field 'messages[0].role': ...``."""
    located = _located(str(error))
    assert located is not None
    what, path = located["what"], located["path"]
    if missing := _missing(what):
        name = missing["name"]
        return f"field '{f'{path}.' if path else ''}{name}' is missing: send it"
    what = what[:1].lower() + what[1:]
    return f"field '{path}': {what}" if path else what


class _Known:
    """The known field names at one level of a request, and at the levels below it."""

    def __init__(self) -> None:
        self.fields: dict[str, _Known | None] | None = None
        self.items: _Known | None = None

    def unknown(self, value: object, path: str) -> Iterator[str]:
        if isinstance(value, dict) and self.fields is not None:
            dot = "." if path else ""
            for name, below in value.items():
                if name not in self.fields:
                    if below is not None:  # a null says nothing that could be lost
                        yield f"{path}{dot}{name}"
                elif (known := self.fields[name]) is not None:
                    yield from known.unknown(below, f"{path}{dot}{name}")
        elif isinstance(value, list) and self.items is not None:
            for index, below in enumerate(value):
                yield from self.items.unknown(below, f"{path}[{index}]")


def _known(kind: inspect.Type) -> _Known | None:
    """The known fields of this type; None if it has no named fields."""
    known = _Known()
    for each in _alternatives(kind):
        if isinstance(each, inspect.StructType):
            known.fields = (known.fields or {}) | {
                field.encode_name: _known(field.type) for field in each.fields
            }
        elif isinstance(each, inspect.ListType | inspect.VarTupleType):
            known.items = _known(each.item_type) or known.items
    return known if known.fields is not None or known.items is not None else None


def _not_null(kind: type[msgspec.Struct]) -> Iterator[str]:
    """The optional fields that null is no value of: many clients send null for what they leave out."""
    described = inspect.type_info(kind)
    assert isinstance(described, inspect.StructType)
    for field in described.fields:
        if not field.required and not any(
            isinstance(each, inspect.NoneType | inspect.AnyType) for each in _alternatives(field.type)
        ):
            yield field.encode_name


def _alternatives(kind: inspect.Type) -> Iterator[inspect.Type]:
    if isinstance(kind, inspect.Metadata):
        yield from _alternatives(kind.type)
    elif isinstance(kind, inspect.UnionType):
        for each in kind.types:
            yield from _alternatives(each)
    else:
        yield kind
