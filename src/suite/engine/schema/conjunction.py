"""The schemas that a value has to satisfy all at once: what `allOf` and `$ref` bring together."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from suite.engine.schema.document import Document, Subschema
from suite.engine.schema.keywords import ANNOTATIONS, schema_error
from suite.engine.schema.tree import Schema

DEPENDENCIES = ("dependentRequired", "dependentSchemas", "dependencies")
_NOT_RULES = ANNOTATIONS | {"$ref", "allOf", *DEPENDENCIES}


class Unsatisfiable(Exception):
    """No value satisfies a schema; the arguments are where that shows, and why."""


class Part(NamedTuple):
    """One of the schemas: the keywords that count, and where they stand."""

    schema: Subschema
    rules: Mapping[str, Any]
    """Its keywords, without annotations, and without those that have been followed already."""
    dependency: str | None = None
    """The member on which others depend, if this part is about that."""

    @property
    def path(self) -> str:
        """Where it stands in the document."""
        return self.schema.path

    @property
    def key(self) -> Hashable:
        """The same for the same keywords of the same schema."""
        return id(self.schema.content), frozenset(self.rules), self.dependency

    def without(self, name: str) -> Part:
        """The part without one of its keywords."""
        return self._replace(rules={other: value for other, value in self.rules.items() if other != name})


class Conjunction(NamedTuple):
    """All parts that a value has to satisfy."""

    parts: tuple[Part, ...]
    whole: int | None = None
    """The id of the schema that all of them belong to, if it is one."""
    refers: bool = False
    """Whether a reference led to any of them, so that they may contain themselves."""

    @property
    def key(self) -> Hashable:
        """The same for the same parts."""
        return frozenset(part.key for part in self.parts)

    def settings(self, name: str) -> list[tuple[Part, Any]]:
        """Each part with this keyword, and its value."""
        return [(part, part.rules[name]) for part in self.parts if name in part.rules]

    def having(self, *names: str) -> bool:
        """Whether any part has one of these keywords."""
        return any(name in part.rules for part in self.parts for name in names)

    def without(self, part: Part, name: str) -> Conjunction:
        """All of it without a keyword of one part."""
        left = (each.without(name) if each is part else each for each in self.parts)
        return self._replace(parts=tuple(each for each in left if each.rules))

    def joined(self, other: Conjunction) -> Conjunction:
        """What satisfies this one and another."""
        parts = {part.key: part for part in (*self.parts, *other.parts)}
        return Conjunction(tuple(parts.values()), self.whole, self.refers or other.refers)

    def unevaluated(self, name: str) -> Subschema | None:
        """What `unevaluatedProperties` or `unevaluatedItems` says of what no part describes.

        None if no schema that all parts belong to has it: it does not see what others describe.
        """
        own = [part for part, _ in self.settings(name) if id(part.schema.content) == self.whole]
        return own[0].schema.child(name) if own else None


class SchemaReader(Protocol):
    """What reads the schemas within objects and arrays."""

    def read(self, schemas: Sequence[Subschema]) -> Schema:
        """The form of what satisfies all of these schemas. Raises InvalidSchema."""
        ...

    def warn(self, path: str) -> None:
        """Warn that a keyword cannot be enforced."""
        ...

    def warn_of(self, joined: Conjunction, enforced: Collection[str] = (), type: str | None = None) -> None:
        """Warn about all keywords except those that are enforced or do not apply to the type."""
        ...


class Gatherer:
    """Gathers the parts of schemas, and of all that these bring in by `$ref` and `allOf`."""

    def __init__(self, document: Document, warn: Callable[[str], None]) -> None:
        """`warn` is told the path of what cannot be followed."""
        self._document = document
        self._warn = warn
        self._parts: dict[Hashable, Part] = {}
        self._refers = False
        self._whole: int | None = None

    def gather(self, schemas: Sequence[Subschema]) -> Conjunction:
        """Raises Unsatisfiable, or InvalidSchema for what is no schema."""
        if len(schemas) == 1:
            self._whole = id(schemas[0].content)
        for schema in schemas:
            self._add(schema, frozenset())
        return Conjunction(tuple(self._parts.values()), self._whole, self._refers)

    def _add(self, schema: Subschema, above: frozenset[int]) -> None:
        """`above` has the ids of the schemas that bring this one in."""
        content = schema.content
        if content is True:
            return
        if content is False:
            raise Unsatisfiable(schema.path, "false permits nothing")
        if not isinstance(content, dict):
            raise schema_error(schema.path, f"a schema is an object, not {json.dumps(content)[:50]}")
        if id(content) in above:
            raise Unsatisfiable(schema.path, "it refers to itself without end")
        above |= {id(content)}
        own = Part(schema, {name: value for name, value in content.items() if name not in _NOT_RULES})
        for name in content:  # in the order of the schema, which that of members follows
            if name == "$ref":
                self._add_target(schema, above, alone=not own.rules and "allOf" not in content)
            elif name == "allOf":
                for index in range(len(listed(content, name, schema.path))):
                    self._add(schema.child(name, index), above)
            elif name in own.rules:
                self._parts.setdefault(own.key, own)
        self._parts |= {part.key: part for part in _dependencies(schema)}

    def _add_target(self, schema: Subschema, above: frozenset[int], *, alone: bool) -> None:
        self._refers = True
        reference = schema.content["$ref"]
        if not isinstance(reference, str):
            raise schema_error(f"{schema.path}/$ref", "it must be a text")
        target = self._document.resolve(reference, schema.base, schema.path)
        if target is None:
            self._warn(f"{schema.path}/$ref")
            return
        if alone and self._whole == id(schema.content):
            self._whole = id(target.content)
        self._add(target, above)


def _dependencies(schema: Subschema) -> Iterator[Part]:
    """What depends on members, each member a part."""
    for name in DEPENDENCIES:
        members = schema.content.get(name, {})
        if not isinstance(members, dict):
            raise schema_error(f"{schema.path}/{name}", "it must be an object")
        for member, what in members.items():
            if name == "dependentRequired" and not is_names(what):
                raise schema_error(f"{schema.path}/{name}/{member}", "it must be a list of names")
            yield Part(schema, {name: {member: what}}, member)


def is_names(value: object) -> bool:
    """Whether a JSON value is a list of texts."""
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def listed(rules: Mapping[str, Any], name: str, path: str) -> list[Any]:
    """The value of a keyword, which must be a list that is not empty. Raises InvalidSchema."""
    found = rules[name]
    if not isinstance(found, list) or not found:
        raise schema_error(f"{path}/{name}", "it must be a list that is not empty")
    return found
