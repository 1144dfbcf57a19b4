"""Reads what a schema says of objects into their form."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from suite.engine.schema import pattern
from suite.engine.schema.conjunction import Conjunction, Part, SchemaReader, Unsatisfiable, is_names
from suite.engine.schema.document import Subschema
from suite.engine.schema.keywords import ANNOTATIONS, applies_to, is_number, satisfies, schema_error
from suite.engine.schema.scalar import counted
from suite.engine.schema.tree import ANYTHING, Schema, nothing

_ENFORCED = ("type", "properties", "required", "additionalProperties")
_STRING = {"type": "string"}


def read_object(joined: Conjunction, reader: SchemaReader) -> Schema:
    """An object by its members, in the order of the schema.

    Members that a schema permits and does not name are written only if it says something of them, or names no
    member at all.
    """
    return _ObjectReader(joined, reader).form()


class _ObjectReader:
    def __init__(self, joined: Conjunction, reader: SchemaReader) -> None:
        self._joined = joined
        self._reader = reader
        self._enforced = [*_ENFORCED]
        self._required = _required(joined)
        described = (name for part in joined.parts for name in _map(part, "properties"))
        self._named = list(dict.fromkeys((*described, *self._required)))
        self._patterns = [(part, regex) for part in joined.parts for regex in _map(part, "patternProperties")]
        self._unevaluated = joined.unevaluated("unevaluatedProperties")
        if self._unevaluated is not None and len(joined.settings("unevaluatedProperties")) == 1:
            self._enforced.append("unevaluatedProperties")

    def form(self) -> Schema:
        """The form of the object. Raises Unsatisfiable, or InvalidSchema."""
        members = {name: self._member(name) for name in self._named}
        others, keys = self._named_others() if self._named else self._only_others()
        counts = self._counts(has_others=others is not False)
        self._reader.warn_of(self._joined, self._enforced, "object")
        if not members and others == ANYTHING and keys is None and not counts:
            return {"type": "object"}
        form: Schema = {
            "type": "object",
            "properties": members,
            "required": self._required,
            "taken": self._named,
        }
        form |= {"additionalProperties": others, "closed": self._is_closed(), **counts}
        return form if keys is None else form | {"keys": keys}

    # --- members --------------------------------------------------------------------------------------------

    def _member(self, name: str) -> Schema:
        for part, names in self._joined.settings("propertyNames"):
            if _permits_name(names, name) is False:
                return nothing(f"{part.path}/propertyNames", f"it forbids {name!r}")
        return self._reader.read(list(self._about(name)))

    def _about(self, name: str) -> Iterator[Subschema]:
        """All that the value of a member has to satisfy."""
        is_described = False
        for part in self._joined.parts:
            own = list(_described(part, name))
            if not own and "additionalProperties" in part.rules:
                own = [part.schema.child("additionalProperties")]
            is_described |= bool(own)
            yield from own
        if not is_described and self._unevaluated is not None:
            yield self._unevaluated

    # --- other members --------------------------------------------------------------------------------------

    def _named_others(self) -> tuple[Schema | bool, None]:
        """The form of members beside those that are named; False: none is written."""
        names = [setting for _, setting in self._joined.settings("propertyNames")]
        if all(_permits_name(each, name) is not None for each in names for name in self._named):
            self._enforced.append("propertyNames")
        if all(_compiled(regex) is not None for _, regex in self._patterns):
            self._enforced.append("patternProperties")
        children = self._about_others()
        if names or self._patterns or not children:
            return False, None  # so that no name has to be judged when it is written
        return self._reader.read(children), None

    def _only_others(self) -> tuple[Schema, Schema | None]:
        """The form of members of an object that names none, and of their names; None: any name."""
        names = [part.schema.child("propertyNames") for part, _ in self._joined.settings("propertyNames")]
        if len(self._patterns) == 1 and not names and (by_pattern := self._by_pattern()) is not None:
            return by_pattern
        others = self._reader.read(self._about_others())
        if not names:
            return others, None
        self._enforced.append("propertyNames")
        return others, self._reader.read([*names, names[0]._replace(content=_STRING)])

    def _by_pattern(self) -> tuple[Schema, Schema] | None:
        """The members with names that match the only pattern."""
        ((part, regex),) = self._patterns
        try:
            keys = {"type": "string", "pattern": pattern.to_gbnf(regex)}
        except (pattern.UnsupportedPattern, pattern.InvalidPattern):
            return None
        self._enforced.append("patternProperties")
        about = [part.schema.child("patternProperties", regex), *self._about_others(but=part)]
        return self._reader.read(about), keys

    def _about_others(self, but: Part | None = None) -> list[Subschema]:
        """All that the value of a member that no part describes has to satisfy."""
        settings = self._joined.settings("additionalProperties")
        about = [part.schema.child("additionalProperties") for part, _ in settings if part is not but]
        is_left = not settings and not self._patterns and self._unevaluated is not None
        return [self._unevaluated] if is_left and self._unevaluated is not None else about

    def _is_closed(self) -> bool:
        """Whether the schema forbids all members that are not named."""
        settings = [setting for _, setting in self._joined.settings("additionalProperties")]
        unevaluated = not settings and self._unevaluated is not None and self._unevaluated.content is False
        return not self._patterns and (unevaluated or any(setting is False for setting in settings))

    def _counts(self, *, has_others: bool) -> Schema:
        """The limits of the number of members that have to be counted."""
        counts = counted(self._joined, "minProperties", "maxProperties", self._reader)
        least, most = counts.get("minProperties", 0), counts.get("maxProperties")
        needed, known = len(self._required), len(self._named)
        if most is not None and needed > most:
            raise Unsatisfiable(self._joined.parts[0].path, "more members are required than maxProperties")
        found: Schema = {}
        if most is not None and not known:
            found["maxProperties"] = most
        if needed < least == 1:
            found["minProperties"] = 1
        if needed >= least or least == 1:
            self._enforced.append("minProperties")
        if most is None or not known or (known <= most and not has_others):
            self._enforced.append("maxProperties")
        return found


def _required(joined: Conjunction) -> list[str]:
    names: list[str] = []
    for part, given in joined.settings("required"):
        if not is_names(given):
            raise schema_error(f"{part.path}/required", "it must be a list of names")
        names += given
    return list(dict.fromkeys(names))


def _map(part: Part, name: str) -> Mapping[str, Any]:
    found = part.rules.get(name, {})
    if not isinstance(found, dict):
        raise schema_error(f"{part.path}/{name}", "it must be an object")
    return found


def _described(part: Part, name: str) -> Iterator[Subschema]:
    """What a part says of the member with this name."""
    if name in _map(part, "properties"):
        yield part.schema.child("properties", name)
    for regex in _map(part, "patternProperties"):
        expression = _compiled(regex)
        if expression is not None and expression.search(name):
            yield part.schema.child("patternProperties", regex)


@lru_cache
def _compiled(regex: str) -> re.Pattern[str] | None:
    try:
        return re.compile(regex, re.ASCII)
    except (re.error, OverflowError):
        return None


def _permits_name(schema: object, name: str) -> bool | None:
    """Whether a schema of names permits one; None: that is not known."""
    if not isinstance(schema, dict):
        return schema is not False
    judged = [_judge(keyword, setting, name) for keyword, setting in schema.items()]
    return False if False in judged else None if None in judged else True


def _judge(keyword: str, setting: object, name: str) -> bool | None:
    if keyword in ANNOTATIONS or not applies_to(keyword, setting, ("string",)):
        return True
    if keyword == "pattern" and isinstance(setting, str):
        expression = _compiled(setting)
        return None if expression is None else bool(expression.search(name))
    if keyword in ("minLength", "maxLength"):
        return satisfies(name, keyword, setting) if is_number(setting) else None
    known = {"const": [setting], "enum": setting, "type": setting}.get(keyword)
    if known is None:
        return None
    values = known if isinstance(known, list) else [known]
    return ("string" if keyword == "type" else name) in values
