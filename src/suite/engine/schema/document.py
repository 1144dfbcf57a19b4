"""A JSON schema as a document: where each of its schemas stands, and what its references refer to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import unquote, urldefrag, urljoin

from suite.engine.schema.keywords import schema_error

_MAPS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems", "items")
_SINGLE = (
    *("items", "additionalItems", "additionalProperties", "propertyNames", "contains", "not", "if", "then"),
    *("else", "unevaluatedItems", "unevaluatedProperties", "contentSchema"),
)


class Subschema(NamedTuple):
    """A schema within a document."""

    content: Any
    """Its JSON."""
    path: str
    """Where it stands in the document, as a JSON pointer."""
    base: str
    """The URI that references in it are relative to (`$id`)."""

    def child(self, *names: str | int) -> Subschema:
        """The schema at these names and indices below this one."""
        content, path = self.content, self.path
        for name in names:
            content, path = content[name], f"{path}/{name}"
        return Subschema(content, path, _base_of(content, self.base))


class Document:
    """A schema with all that its references can refer to."""

    def __init__(self, content: object) -> None:
        self.root = Subschema(content, "", _base_of(content, ""))
        self._resources: dict[str, Subschema] = {"": self.root, self.root.base: self.root}
        """The schemas with an `$id`, by their URI."""
        self._anchors: dict[str, Subschema] = {}
        for each in _all_below(self.root):
            if isinstance(each.content.get("$id"), str):
                self._resources.setdefault(each.base, each)
            for keyword in ("$anchor", "$dynamicAnchor"):
                if isinstance(anchor := each.content.get(keyword), str):
                    self._anchors.setdefault(f"{each.base}#{anchor}", each)

    def resolve(self, reference: str, base: str, path: str) -> Subschema | None:
        """What a reference in a schema with this base refers to; None if it is in another document.

        Raises InvalidSchema if it should be in this one, and is not.
        """
        uri, fragment = urldefrag(f"{base}{reference}" if reference[:1] == "#" else urljoin(base, reference))
        resource = self._resources.get(uri)
        if resource is None:
            return None
        found = self._below(resource, fragment)
        if found is None:
            raise schema_error(f"{path}/$ref", f"there is no {reference[:100]}")
        return found

    def _below(self, resource: Subschema, fragment: str) -> Subschema | None:
        if fragment and not fragment.startswith("/"):
            return self._anchors.get(f"{resource.base}#{unquote(fragment)}")
        found = resource
        for part in fragment.split("/")[1:]:
            key = unquote(part).replace("~1", "/").replace("~0", "~")
            if isinstance(found.content, list) and key.isdecimal() and int(key) < len(found.content):
                found = found.child(int(key))
            elif isinstance(found.content, dict) and key in found.content:
                found = found.child(key)
            else:
                return None
        return found


def _all_below(schema: Subschema) -> Iterator[Subschema]:
    """A schema and all schemas in it, where keywords have schemas: an `$id` elsewhere is none."""
    if not isinstance(schema.content, dict):
        return
    yield schema
    for name, value in schema.content.items():
        if name in _MAPS and isinstance(value, dict):
            for key in value:
                yield from _all_below(schema.child(name, key))
        elif name in _LISTS and isinstance(value, list):
            for index in range(len(value)):
                yield from _all_below(schema.child(name, index))
        elif name in _SINGLE:
            yield from _all_below(schema.child(name))


def _base_of(content: object, outer: str) -> str:
    own = content.get("$id") if isinstance(content, Mapping) else None
    return urldefrag(urljoin(outer, own)).url if isinstance(own, str) else outer
