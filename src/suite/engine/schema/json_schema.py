"""Converts a JSON schema into a grammar.

A schema is checked and reduced to a few simple forms (`suite.engine.schema.tree`), from which the grammar is
written (`suite.engine.schema.rules`). Warnings name the keywords that a grammar cannot enforce. A schema that
no value can satisfy is refused (ADR 17, ADR 50).

This must run in a process that may crash, because a schema can be as hostile as a grammar.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Hashable, Sequence
from itertools import combinations
from typing import Any, NamedTuple

from suite.engine.grammar.grammar import SchemaGrammar
from suite.engine.schema.array import read_array
from suite.engine.schema.conjunction import DEPENDENCIES, Conjunction, Gatherer, Part, Unsatisfiable, listed
from suite.engine.schema.document import Document, Subschema
from suite.engine.schema.keywords import (
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
from suite.engine.schema.object import read_object
from suite.engine.schema.rules import write_grammar
from suite.engine.schema.scalar import read_number, read_string
from suite.engine.schema.tree import (
    ANYTHING,
    Definitions,
    Schema,
    are_disjoint,
    is_satisfiable,
    nothing,
    prune,
    reason,
    satisfiable,
    union,
)
from suite.errors import InvalidSchema, SchemaNotSupported

_MOST_COMPARED = 64
"""Of a `oneOf` with more parts, it is not checked whether they exclude each other."""
_MOST_COMBINED = 256
"""Of several `anyOf` that count together, this many combinations are followed."""
_TOO_DEEP = "the schema is nested too deeply"
_ENDLESS = "it refers to itself without end"
_READERS = {"object": read_object, "array": read_array, "string": read_string}


class ReadSchema(NamedTuple):
    """A schema in the simple forms."""

    form: Schema
    definitions: Definitions
    """The forms that it refers to."""
    warnings: tuple[str, ...]
    """The keywords that a grammar cannot enforce."""


def read_schema(schema: object) -> ReadSchema:
    """Reduce a schema to the simple forms. Raises InvalidSchema, with the path of the error."""
    try:
        reader = _Reader(Document(schema))
        root = reader.root()
        possible = satisfiable(reader.definitions)
        if not is_satisfiable(root, possible):
            raise InvalidSchema(reason(root, reader.definitions, possible))
        definitions = {name: prune(reader.definitions[name], possible) for name in possible}
        return ReadSchema(prune(root, possible), definitions, tuple(reader.warnings))
    except RecursionError:
        raise InvalidSchema(_TOO_DEEP) from None


def to_grammar(schema: object) -> SchemaGrammar:
    """The grammar of the JSON that a schema permits. Raises InvalidSchema, with the path of the error."""
    read = read_schema(schema)
    return SchemaGrammar(grammar=write_grammar(read.form, read.definitions), warnings=read.warnings)


def not_supported(what: str, warnings: Sequence[str]) -> SchemaNotSupported:
    """The refusal of a strict schema; `what` names it."""
    named = "; ".join(warnings[:5])
    return SchemaNotSupported(f"{what}: {named}: change the schema, or send it without strict")


class _Reader:
    """Checks a schema and reduces it to the simple forms."""

    def __init__(self, document: Document) -> None:
        self.warnings: dict[str, None] = {}
        """The warnings in their order, without duplicates (an ordered set)."""
        self.definitions: dict[Hashable, Schema] = {}
        """The schemas that references lead to, in the simple forms."""
        self._document = document
        self._made: dict[Hashable, object] = {}
        """What was written instead of dependencies: kept, since schemas are known by their identity."""

    def root(self) -> Schema:
        """The form of the whole document."""
        return self.read([self._document.root])

    def read(self, schemas: Sequence[Subschema]) -> Schema:
        """The form of what satisfies all of these schemas. Raises InvalidSchema."""
        try:
            return self._joined(self._gather(schemas), frozenset())
        except Unsatisfiable as error:
            return nothing(*error.args)

    def _gather(self, schemas: Sequence[Subschema]) -> Conjunction:
        return Gatherer(self._document, self.warn).gather(schemas)

    def _joined(self, joined: Conjunction, within: frozenset[Hashable], combined: int = 1) -> Schema:
        """The form of what satisfies all parts.

        `within` has the conjunctions of which this is an alternative, for one and the same value; `combined`
        tells how many alternatives there are.
        """
        key = joined.key
        if key in within:
            raise Unsatisfiable(joined.parts[0].path, _ENDLESS)
        if not joined.refers:
            return self._form(joined, within | {key}, combined)
        if key not in self.definitions:
            self.definitions[key] = ANYTHING  # until it is read, for it may contain itself
            try:
                self.definitions[key] = self._form(joined, within | {key}, combined)
            except Unsatisfiable as error:
                self.definitions[key] = nothing(*error.args)
        return {"$ref": key}

    def _form(self, joined: Conjunction, within: frozenset[Hashable], combined: int) -> Schema:
        for part, given in joined.settings("format"):
            if not isinstance(given, str):
                raise schema_error(f"{part.path}/format", "it must be a text")
        types = _types(joined)
        for name in ("anyOf", "oneOf"):
            for part, _ in joined.settings(name):
                return self._alternatives(joined, part, name, within, combined)
        if joined.having("const", "enum"):
            return self._choice(joined)
        for name in DEPENDENCIES if types is not None and "object" in types else ():
            for part, _ in joined.settings(name):
                return self._alternatives(joined, part, name, within, combined)
        if types is None:
            self.warn_of(joined)
            return ANYTHING
        forms = [self._typed(type, joined) for type in types]
        return union(forms) if joined.having("type") else forms[0] | {"implied": True}

    def _typed(self, type: str, joined: Conjunction) -> Schema:
        if type in ("number", "integer"):
            return read_number(type, joined, self)
        if type in _READERS:
            return _READERS[type](joined, self)
        self.warn_of(joined, ("type",), type)
        return {"type": type}

    # --- alternatives ---------------------------------------------------------------------------------------

    def _alternatives(
        self, joined: Conjunction, part: Part, name: str, within: frozenset[Hashable], combined: int
    ) -> Schema:
        """A form for each alternative, with all that has to be satisfied beside it."""
        beside = joined.without(part, name)
        branches = self._branches(part, name)
        if combined > 1 and combined * len(branches) > _MOST_COMBINED:
            self.warn(f"{part.path}/{name}")
            return self._joined(beside, within, combined)
        forms = [self._alternative(beside, each, within, combined * len(branches)) for each in branches]
        if name == "oneOf" and not self._are_disjoint(forms):
            self.warn(f"{part.path}/{name}")
        return union(forms)

    def _alternative(
        self, beside: Conjunction, branch: Sequence[Subschema], within: frozenset[Hashable], combined: int
    ) -> Schema:
        try:
            return self._joined(beside.joined(self._gather(branch)), within, combined)
        except Unsatisfiable as error:
            return nothing(*error.args)

    def _branches(self, part: Part, name: str) -> list[list[Subschema]]:
        if name in DEPENDENCIES:
            return self._dependency(part, name)
        count = len(listed(part.rules, name, part.path))
        return [[part.schema.child(name, index)] for index in range(count)]

    def _dependency(self, part: Part, name: str) -> list[list[Subschema]]:
        """Either the member is missing, or what depends on it counts."""
        ((member, what),) = part.rules[name].items()
        if isinstance(what, list):
            counts = self._make(part, name, {"required": [member, *what]})
            return [[counts], [self._make(part, f"no {name}", {"properties": {member: False}})]]
        counts = self._make(part, name, {"required": [member]})
        missing = self._make(part, f"no {name}", {"properties": {member: False}})
        return [[counts, part.schema.child(name, member)], [missing]]

    def _make(self, part: Part, what: str, content: Schema) -> Subschema:
        made = self._made.setdefault((part.key, what), content)
        return Subschema(made, f"{part.path}/{what.split()[-1]}/{part.dependency}", part.schema.base)

    def _are_disjoint(self, forms: list[Schema]) -> bool:
        return len(forms) <= _MOST_COMPARED and all(
            are_disjoint(one, other, self.definitions) for one, other in combinations(forms, 2)
        )

    # --- values ---------------------------------------------------------------------------------------------

    def _choice(self, joined: Conjunction) -> Schema:
        """The values of each `enum` and `const` that satisfy the other keywords, too."""
        place, values = _common_values(joined)
        for part in joined.parts:
            values = [value for value in values if _satisfies_limits(value, part)]
        if not values:
            raise Unsatisfiable(*place)
        left = {type_of(value) for value in values}
        for part in joined.parts:
            self._warn_of_part(part, ("const", "enum", "type", *LIMITS), left)
        return {"enum": values}

    # --- warnings -------------------------------------------------------------------------------------------

    def warn(self, path: str) -> None:
        """Warn that a keyword cannot be enforced."""
        self.warnings[f"json schema: {path} cannot be enforced"] = None

    def warn_of(self, joined: Conjunction, enforced: Collection[str] = (), type: str | None = None) -> None:
        """Warn about all keywords except those that are enforced or do not apply to the type."""
        for part in joined.parts:
            self._warn_of_part(part, enforced, TYPES if type is None else (type,))

    def _warn_of_part(self, part: Part, enforced: Collection[str], types: Collection[str]) -> None:
        for name, setting in part.rules.items():
            if name not in enforced and applies_to(name, setting, types):
                self.warn(f"{part.path}/{name}")


def _types(joined: Conjunction) -> list[str] | None:
    """The types that all parts permit, or the one that their keywords imply; None: any type."""
    types: list[str] | None = None
    for part, named in joined.settings("type"):
        permitted = _named_types(named, part.path)
        if types is not None:
            permitted = _common_types(types, permitted)
            if not permitted:
                raise Unsatisfiable(
                    f"{part.path}/type", "no value has both this type and that of another part"
                )
        types = permitted
    if types is not None:
        return types
    implied = implied_type({name: value for part in joined.parts for name, value in part.rules.items()})
    return None if implied is None else [implied]


def _named_types(given: object, path: str) -> list[str]:
    named: list[Any] = given if isinstance(given, list) else [given]
    if not named:
        raise schema_error(f"{path}/type", "an empty list permits nothing")
    for type in named:
        if type not in TYPES:
            raise schema_error(f"{path}/type", f"{json.dumps(type)[:50]} is none of {', '.join(TYPES)}")
    return named


def _common_types(ones: Sequence[str], others: Sequence[str]) -> list[str]:
    common = [type for type in ones if type in others or (type == "integer" and "number" in others)]
    return common + [type for type in others if type == "integer" and "number" in ones and type not in common]


def _common_values(joined: Conjunction) -> tuple[tuple[str, str], list[Any]]:
    """The values that each `enum` and `const` permits, and what to say if none satisfies the rest."""
    given = [(part, "const", [value]) for part, value in joined.settings("const")]
    given += [(part, "enum", listed(part.rules, "enum", part.path)) for part, _ in joined.settings("enum")]
    first, name, values = given[0]
    for part, keyword, others in given[1:]:
        values = [value for value in values if any(json_equal(value, other) for other in others)]
        if not values and part is not first:
            raise Unsatisfiable(
                f"{part.path}/{keyword}", "it has no value in common with that of another part"
            )
    return (first.path, f"no value of its {name} satisfies the other keywords"), values


def _satisfies_limits(value: object, part: Part) -> bool:
    """Whether a value has one of a part's types, and keeps its limits."""
    if "type" in part.rules:
        types = _named_types(part.rules["type"], part.path)
        if not any(has_type(value, type) for type in types):
            return False
    for name, limit in part.rules.items():
        if name in LIMITS:
            if not is_number(limit):
                raise schema_error(f"{part.path}/{name}", "it must be a number")
            if not satisfies(value, name, limit):
                return False
    return True
