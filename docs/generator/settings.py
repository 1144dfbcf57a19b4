"""The reference of the settings: variable, default and meaning of every field of `suite.config.settings`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, get_args, get_origin

import msgspec

from generator.markdown import code, field_notes, table
from generator.schemas import type_in_words
from suite.config.layers import OLD_NAMES
from suite.config.settings import Settings

_MACHINES = {"node": "the name of this machine", "data_dir": "the user's data directory"}
"""What stands for a default that differs between machines."""

_INTRODUCTION = """\
# Settings

Settings come from a TOML file (`suite serve --config suite.toml`). Environment variables override the file,
and flags override both. `suite config` prints the value of every setting and where it comes from.

A setting in a table of the file, such as `url` in `[nats]`, is written `nats.url` here. In an environment
variable, the parts of a list are separated by `:`. `suite serve --help` lists the settings that have a
flag. The configuration of the older services, a YAML file, is read too: [migration](../migration.md).
"""

_MODELS = """\
## Settings of one model

These stand in the table `[models."ID"]` of the file, where the id is the name of the model's file without
`.gguf`. They have no environment variables.
"""


class Row(NamedTuple):
    """A setting in words."""

    name: str
    variable: str
    type: str
    default: str
    meaning: str


class UndocumentedSetting(Exception):
    """A setting has no docstring: add one below its field."""


def page() -> str:
    """The page as Markdown. Raises UndocumentedSetting."""
    parts = [_INTRODUCTION]
    titles = ("Setting", "Type", "Default", "Meaning")
    for name, rows in groups().items():
        parts.append(_MODELS if name == "models" else f"## {name}\n")
        parts.append(table(titles, [_cells(row) for row in rows]))
    return "\n".join(parts)


def groups() -> dict[str, tuple[Row, ...]]:
    """All settings by the table of the file that they stand in."""
    tables = {"General": Settings} | {field.name: field.type for field in _tables(Settings)}
    found = {name: tuple(_rows(kind, name)) for name, kind in tables.items()}
    (models,) = (each for each in msgspec.structs.fields(Settings) if get_origin(each.type) is dict)
    return found | {models.name: tuple(_rows(get_args(models.type)[1], models.name))}


def _cells(row: Row) -> tuple[str, ...]:
    name = code(row.name) + (f"\n\n{code(row.variable)}" if row.variable else "")
    return name, row.type, row.default, row.meaning


def _tables(kind: type[msgspec.Struct]) -> Iterator[msgspec.structs.FieldInfo]:
    for field in msgspec.structs.fields(kind):
        if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct):
            yield field


def _rows(kind: type[msgspec.Struct], group: str) -> Iterator[Row]:
    notes = field_notes(kind)
    tables = {field.name for field in _tables(kind)}
    for field in msgspec.structs.fields(kind):
        if field.name in tables or get_origin(field.type) is dict:
            continue
        if field.name not in notes:
            raise UndocumentedSetting(f"{kind.__name__}.{field.name}")
        key = (field.name,) if group == "General" else (group, field.name)
        yield Row(
            name=field.name if group == "models" else ".".join(key),
            variable="" if group == "models" else "SUITE_" + "_".join(key).upper(),
            type=_type(field.type),
            default=_default(field),
            meaning=_meaning(field.name, notes[field.name]),
        )


def _meaning(name: str, note: str) -> str:
    old = [each for each, now in OLD_NAMES.items() if now == name]
    return "\n\n".join([note, *(f"Older name: `{each}`." for each in old if each not in note)])


def _type(kind: Any) -> str:
    """The type in words; a setting that may be None is one that may be left out."""
    words = type_in_words(msgspec.json.schema(kind, schema_hook=_path_schema)).removesuffix(" or null")
    return words.replace("](#", "](actions.md#")  # where the objects of requests are explained


def _path_schema(kind: type) -> dict[str, Any]:
    if kind is not Path:
        raise NotImplementedError
    return {"type": "path"}


def _default(field: msgspec.structs.FieldInfo) -> str:
    if field.name in _MACHINES:
        return _MACHINES[field.name]
    if field.default is None:
        return ""
    return code(json.dumps(field.default, default=str))
