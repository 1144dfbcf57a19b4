"""Layers of settings: file, environment and flags. Each value remembers where it comes from.

A layer has a `Given` for each key, which is the path to a field of `Settings`: ``("nats", "url")``,
``("models", "some-model", "context_length")``. A model also has one of its own, ``("models", "some-model")``,
so that a model of which nothing is said is there too.
"""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, TypeAlias, get_args, get_origin

import msgspec

from suite.config.settings import ModelSettings, Settings
from suite.errors import InvalidConfiguration

Key: TypeAlias = tuple[str, ...]
Table: TypeAlias = Mapping[str, Any]

OLD_NAMES: Final = {"models_directory": "models_directories"}
"""Names of old installations, and the current names of these settings."""

_FLAGS: Final = {
    "models_directories": "--models-dir",
    "nats.port": "--port",
    "nats.join": "--join",
    "nats.cluster_file": "--cluster-file",
    "http.listen": "--http",
}
"""Flags whose name differs from their setting's."""

_TRUTHS: Final = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False} | {
    "no": False,
    "off": False,
}


PREFIX: Final = "SUITE_"
"""What the names of all environment variables begin with."""

_BARE: Final = re.compile(r"[A-Za-z0-9_-]+")
"""What TOML takes as a key without quotes."""


class Given(NamedTuple):
    """A value as given in a layer."""

    value: object
    origin: str
    """Where it was given, for people: a file, a variable, a flag."""
    written: str
    """Its path as written there."""

    def refusal(self, reason: str) -> InvalidConfiguration:
        """The error to raise when it cannot be used."""
        return InvalidConfiguration(f"{self.written} is wrong ({self.origin}): {reason}")


Layer: TypeAlias = dict[Key, Given]


_WITH_COLONS: Final[frozenset[Key]] = frozenset(
    {("http", "cors_origins"), ("nats", "join"), ("pictures", "fetch_from")}
)


def dotted(key: Key) -> str:
    """Format a key for people: ``nats.url``, ``models."some-model".context_length``."""
    return ".".join(
        name if _BARE.fullmatch(name) and key[:depth] != ("models",) else json.dumps(name, ensure_ascii=False)
        for depth, name in enumerate(key)
    )


def variable(key: Key) -> str:
    """The environment variable for a setting."""
    return PREFIX + "_".join(key).upper()


def from_table(table: Table, origin: str) -> Layer:
    """Read the layer of a TOML document. Raises InvalidConfiguration for unknown keys."""
    layer: Layer = {}
    for key, value in _values(table, Settings, (), origin):
        _put(layer, key, Given(value, origin, dotted(key)))
    return layer


def from_environment(environ: Mapping[str, str]) -> Layer:
    """Read the layer of environment variables; empty ones are ignored."""
    layer: Layer = {}
    for key, kind in fields(Settings):
        name = variable(key)
        if text := environ.get(name):
            value = _several(key, text) if get_origin(kind) is tuple else text
            _put(layer, key, Given(value, f"environment {name}", dotted(key)))
    return layer


def _several(key: Key, text: str) -> list[str]:
    """The values in a variable, separated as in PATH, or by commas where colons are part of them."""
    return [each for each in text.split("," if key in _WITH_COLONS else os.pathsep) if each]


def from_flags(flags: Table) -> Layer:
    """Read the layer of command-line flags; None means not given."""
    layer: Layer = {}
    for key, value in _values(flags, Settings, (), "a flag"):
        name = dotted(key)
        flag = _FLAGS.get(name) or "--" + "-".join(key).replace("_", "-")
        layer[key] = Given(value, f"flag {flag}", name)
    return layer


def convert(given: Given, kind: Any) -> object:
    """Convert a value to the type of its field. Raises InvalidConfiguration, with its path."""
    value = given.value
    if get_origin(kind) is Literal and isinstance(value, str) and value not in get_args(kind):
        choices = get_args(kind)
        raise given.refusal(f"{value!r} is none of {', '.join(choices)}{suggestion(value, choices)}")
    if kind is bool and isinstance(value, str):
        value = _TRUTHS.get(value.strip().lower(), value)
    try:
        converted = msgspec.convert(value, kind, strict=False, dec_hook=_decode)
    except msgspec.ValidationError as error:
        raise _placed(given, str(error)) from None
    for text in converted if isinstance(converted, tuple) else (converted,):
        # A path may hold bytes that are no UTF-8; nothing else may, as it will be sent in JSON.
        if isinstance(text, str) and any("\ud800" <= letter <= "\udfff" for letter in text):
            raise given.refusal("it is no valid Unicode")
    return converted


def is_table(kind: Any) -> bool:
    """Whether a field has fields of its own."""
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def fields(shape: type[msgspec.Struct], above: Key = ()) -> Iterator[tuple[Key, Any]]:
    """All keys below a struct that are fixed, and their types."""
    for name, kind in _kinds(shape).items():
        if is_table(kind):
            yield from fields(kind, (*above, name))
        elif get_origin(kind) is not dict:
            yield (*above, name), kind


def suggestion(name: str, known: Iterable[str], prefix: str = "") -> str:
    """A suggestion of what may have been meant, as the end of a sentence; all names begin with `prefix`."""
    rests = [each.removeprefix(prefix) for each in known]
    near = difflib.get_close_matches(name.removeprefix(prefix), rests, n=1)
    return f"; did you mean {prefix}{near[0]}?" if near else ""


def _put(layer: Layer, key: Key, given: Given) -> None:
    """Add a value under its current name."""
    now = (OLD_NAMES.get(key[0], key[0]), *key[1:])
    if now in layer:
        raise given.refusal(f"{layer[now].written} says the same in another word: keep one of the two")
    if key == ("models_directory",) and isinstance(given.value, str):
        given = given._replace(value=[given.value])
    layer[now] = given


def _values(table: Table, shape: type[msgspec.Struct], above: Key, origin: str) -> Iterator[tuple[Key, Any]]:
    """All values below a table, by their keys."""
    kinds = _kinds(shape)
    for name, value in table.items():
        key = (*above, name)
        if name not in kinds:
            if above[:1] == ("models",) and isinstance(value, Mapping):
                hint = '; an id with dots stands in quotes, as in [models."phi-3.5"]'
            else:
                hint = _place(name) or suggestion(name, kinds)
            raise InvalidConfiguration(f"{dotted(key)} is not known ({origin}): take it out{hint}")
        kind = kinds[name]
        if is_table(kind):
            yield from _values(_table(value, key, origin), kind, key, origin)
        elif get_origin(kind) is dict:
            for entry, its in _table(value, key, origin).items():
                yield (*key, entry), None
                each = (*key, entry)
                yield from _values(_table(its, each, origin), get_args(kind)[1], each, origin)
        elif value is not None:
            yield key, value


def _place(name: str) -> str:
    """Where a key belongs that stands in another table, as the end of a sentence."""
    places = [dotted(key) for key, _ in fields(Settings) if key[-1] == name]
    if name in _kinds(ModelSettings):
        places.append(f'models."<id>".{name}')
    if places == [name]:
        return f"; did you mean {name} above all tables?"
    return f"; did you mean {' or '.join(places)}?" if places else ""


def _kinds(shape: type[msgspec.Struct]) -> dict[str, Any]:
    """The type of each field, by its current and its old name."""
    kinds = {field.name: field.type for field in msgspec.structs.fields(shape)}
    if shape is Settings:
        kinds |= {old: kinds[now] for old, now in OLD_NAMES.items()}
    return kinds


def _table(value: object, key: Key, origin: str) -> Table:
    if not isinstance(value, Mapping):
        hint = '; settings of a model stand under [models."<id>"]' if key[0] == "models" else ""
        raise Given(value, origin, dotted(key)).refusal(f"expected a table, got {type(value).__name__}{hint}")
    return value


def _placed(given: Given, complaint: str) -> InvalidConfiguration:
    """Turn msgspec's error message into a refusal, and add a position in a list to the value's path."""
    reason, _, place = complaint.partition(" - at `$")
    reason = re.sub("`([^`]*)`", _in_words, reason[:1].lower() + reason[1:])
    return given._replace(written=given.written + place.rstrip("`")).refusal(reason)


def _in_words(types: re.Match[str]) -> str:
    """The types of a complaint as a person calls them: ``float | null`` is a number."""
    return (
        " or ".join(_WORDS.get(each, each) for each in types[1].split(" | ") if each != "null") or "nothing"
    )


_WORDS: Final = {
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "bool": "true or false",
    "array": "a list",
    "object": "a table",
}


def _decode(kind: type, value: object) -> object:
    if kind is not Path:
        raise NotImplementedError
    if not isinstance(value, str | Path):
        raise ValueError(f"expected a path, got {type(value).__name__}")
    if str(value) == "" or "\0" in str(value):
        raise ValueError("expected a path, and this can be none")
    try:
        return Path(value).expanduser()
    except RuntimeError as error:
        raise ValueError(f"expected a path: {error}") from None
