"""The wire types as JSON Schema 2020-12, with the docstrings of types and fields as descriptions."""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Iterable, Mapping
from functools import cache
from types import ModuleType
from typing import Any, NamedTuple, TypeAlias

import msgspec

from suite.messages import benchmarks, events, promotion, signals
from suite.messages.actions import (
    base,
    benchmark,
    chat,
    drain,
    embedding,
    evaluation,
    explanation,
    generation,
    keys,
    prediction,
    projections,
    ranking,
    replay,
    residency,
    statistics,
    status,
    tokens,
    traces,
    transfers,
    usage,
    versions,
)

DIALECT = "https://json-schema.org/draft/2020-12/schema"
Document: TypeAlias = dict[str, Any]
ACTIONS = (
    residency,
    generation,
    embedding,
    ranking,
    tokens,
    usage,
    evaluation,
    benchmark,
    prediction,
    projections,
    statistics,
    replay,
    explanation,
    traces,
    keys,
    drain,
    transfers,
    versions,
    status,
)
"""The modules with the types of the actions."""
_FACTS = dict.fromkeys(sys.modules[kind.__module__] for kind in events.REGISTRY.values())
_DESCRIBED = (base, chat, benchmarks, *ACTIONS, *_FACTS, promotion, signals)
"""The modules whose docstrings of fields are in the schemas."""


class ActionTypes(NamedTuple):
    """The request and reply types of one action."""

    name: str
    request: type[base.Request]
    reply: type[base.Reply]


def action_types(modules: Iterable[ModuleType] = ACTIONS) -> list[ActionTypes]:
    """All actions by name: ``LoadModelRequest`` and ``LoadModelReply`` are the action ``load_model``.

    Raises ValueError for a request type without its reply type.
    """
    types = {name: kind for module in modules for name, kind in vars(module).items()}
    found = []
    for name, kind in sorted(types.items()):
        stem = name.removesuffix("Request")
        if not (isinstance(kind, type) and issubclass(kind, base.Request)) or not stem or stem == name:
            continue
        reply = types.get(f"{stem}Reply")
        if reply is None:
            raise ValueError(f"{name} has no {stem}Reply")
        snake = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in stem)
        found.append(ActionTypes(snake.lstrip("_"), kind, reply))
    return found


def schema_id(path: str) -> str:
    """The ``$id`` of a file of ``schemas/``, which the wheel has as ``suite/schemas/``."""
    return f"urn:model-manager-suite:schemas/{path}"


@cache
def schema_references(request: type) -> Mapping[str, str]:
    """The ``$id`` of the schemas of an action, by its request type; empty for any other type."""
    for action in action_types():
        if action.request is request:
            return {
                "request_schema": schema_id(request_path(action.name)),
                "response_schema": schema_id(reply_path(action.name)),
            }
    return {}


def request_path(action: str) -> str:
    """The file of ``schemas/`` with the request of an action."""
    return f"actions/{action}.request.json"


def reply_path(action: str) -> str:
    """The file of ``schemas/`` with the reply of an action."""
    return f"actions/{action}.reply.json"


def event_types() -> list[type[events.Event]]:
    """All versions of all facts, sorted by type name."""
    return [kind for _, kind in sorted(events.REGISTRY.items())]


def components(kinds: Iterable[Any], ref_template: str) -> tuple[list[Document], dict[str, Document]]:
    """The schemas of these types and of the types in them, with the docstrings of fields as descriptions."""
    roots, components = msgspec.json.schema_components(kinds, ref_template=ref_template)
    notes = _field_notes()
    for name, schema in components.items():
        # Python 3.13 strips the indentation of docstrings itself: cleaned here, all versions agree.
        if "description" in schema:
            schema["description"] = inspect.cleandoc(schema["description"])
        for field, note in notes.get(name, {}).items():
            if field in schema.get("properties", {}):
                schema["properties"][field].setdefault("description", note)
    return list(roots), components


def schema_of(kind: Any, path: str | None = None) -> Document:
    """The schema of one type as a separate document; `path` is its file in ``schemas/``, if it has one."""
    (root,), parts = components([kind], "#/$defs/{name}")
    if "$ref" in root:
        root = parts.pop(root["$ref"].rpartition("/")[2])
    identity = {} if path is None else {"$id": schema_id(path)}
    return {"$schema": DIALECT, **identity, **root, **({"$defs": parts} if parts else {})}


@cache  # the modules' sources, which do not change while they are in use, take long to read
def _field_notes() -> Mapping[str, Mapping[str, str]]:
    """The docstring under each field, by class and field; a base class's if the class has none."""
    own: dict[str, dict[str, str]] = {}
    for module in _DESCRIBED:
        for node in ast.walk(ast.parse(inspect.getsource(module))):
            if isinstance(node, ast.ClassDef):
                own[node.name] = dict(_notes_in(node))
    kinds = [kind for module in _DESCRIBED for kind in vars(module).values()]
    return {
        kind.__name__: {
            field: note
            for base in reversed(kind.__mro__)
            for field, note in own.get(base.__name__, {}).items()
        }
        for kind in kinds
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct)
    }


def _notes_in(node: ast.ClassDef) -> Iterable[tuple[str, str]]:
    for field, below in zip(node.body, node.body[1:], strict=False):
        match field, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(note))):
                yield name, inspect.cleandoc(note)
