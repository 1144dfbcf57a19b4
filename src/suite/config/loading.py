"""Merges the layers of settings, and remembers where each value comes from."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

import msgspec

from suite.config import variables
from suite.config.layers import (
    Given,
    Key,
    Layer,
    Table,
    convert,
    dotted,
    from_environment,
    from_flags,
    from_table,
    is_table,
)
from suite.config.settings import NatsSettings, Settings
from suite.config.url import split_url
from suite.errors import InvalidConfiguration, InvalidRequest
from suite.extras import require
from suite.messages.subjects import escape

MAX_FILE_BYTES = 1 << 20
DEFAULT = "default"

_Struct = TypeVar("_Struct", bound=msgspec.Struct)


class Configuration(msgspec.Struct, frozen=True, kw_only=True):
    """The merged settings, and where they come from."""

    settings: Settings
    origins: Mapping[str, str]
    """By dotted path, such as ``models."some-model".context_length``: `default`, a file, variable or flag."""
    warnings: tuple[str, ...]
    """A sentence for each given value that has no effect."""


def load_settings(
    file: Path | None = None,
    *,
    environ: Mapping[str, str] = os.environ,
    flags: Table | None = None,
) -> Settings:
    """The settings from `load_configuration`."""
    return load_configuration(file, environ=environ, flags=flags).settings


def load_configuration(
    file: Path | None = None,
    *,
    environ: Mapping[str, str] = os.environ,
    flags: Table | None = None,
) -> Configuration:
    """Load the settings from the file, overridden by the environment, overridden by the flags.

    Flags that are None count as not given. Raises InvalidConfiguration with the path to the value that is
    wrong, and where it came from.
    """
    layer, warnings = _from_file(file) if file is not None else ({}, ())
    given = layer | _from_environment(environ) | from_flags(flags or {})
    origins: dict[str, str] = {}
    settings = _built(Settings, (), given, origins)
    _check_ids(settings, given)
    nats = _without_secrets_in_url(settings.nats, given, origins)
    return Configuration(
        settings=msgspec.structs.replace(settings, nats=nats), origins=origins, warnings=warnings
    )


def _from_file(file: Path) -> tuple[Layer, tuple[str, ...]]:
    """Read the layer of a file, and warnings about values without effect."""
    old = file.suffix.lower() in (".yaml", ".yml")
    try:
        with file.open("rb") as opened:
            content = opened.read(MAX_FILE_BYTES + 1)
        if len(content) > MAX_FILE_BYTES:
            raise ValueError(f"it has more than {MAX_FILE_BYTES} bytes")
        text = content.decode()
        if not old:
            return from_table(tomllib.loads(text), str(file)), ()
    except FileNotFoundError:
        raise InvalidConfiguration(f"there is no file {file}") from None
    except (OSError, ValueError, RecursionError) as error:
        kind = "YAML" if old else "TOML"
        raise InvalidConfiguration(f"{file} cannot be read as {kind}: {error}") from None
    require("serve", "a configuration in YAML")
    from suite.config import old_yaml  # clients load settings too, and need no YAML

    return old_yaml.read(text, str(file))


def _from_environment(environ: Mapping[str, str]) -> Layer:
    """Read the layer of the environment. Raises InvalidConfiguration for a variable that nothing reads."""
    for name, hint in variables.unknown(environ):
        raise InvalidConfiguration(f"{name} is not known (environment): unset it{hint}")
    return from_environment(variables.given(environ))


def _built(shape: type[_Struct], above: Key, given: Layer, origins: dict[str, str]) -> _Struct:
    """Build a struct from the values below a key, and record their origins in `origins`."""
    values: dict[str, Any] = {}
    for field in msgspec.structs.fields(shape):
        key = (*above, field.name)
        if is_table(field.type):
            values[field.name] = _built(field.type, key, given, origins)
        elif get_origin(field.type) is dict:
            entry = get_args(field.type)[1]
            names = [each[-1] for each in given if each[:-1] == key]
            values[field.name] = {name: _built(entry, (*key, name), given, origins) for name in names}
        elif key in given:
            values[field.name] = convert(given[key], field.type)
            origins[dotted(key)] = given[key].origin
        else:
            origins[dotted(key)] = DEFAULT
    return shape(**values)


def _check_ids(settings: Settings, given: Layer) -> None:
    """Check that the node's name and the ids of models can be subject tokens. Raises InvalidConfiguration."""
    ids: dict[Key, str] = {("node",): settings.node} | {("models", each): each for each in settings.models}
    for key, each in ids.items():
        try:
            escape(each)
        except InvalidRequest as error:
            raise given.get(key, Given(each, DEFAULT, dotted(key))).refusal(error.message) from None


def _without_secrets_in_url(nats: NatsSettings, given: Layer, origins: dict[str, str]) -> NatsSettings:
    """Move credentials in the URL to the fields that are never printed."""
    if nats.url is None:
        return nats
    try:
        url, user, password = split_url(nats.url)
    except InvalidConfiguration as error:
        raise given["nats", "url"].refusal(error.message) from None
    if "@" not in nats.url:
        return nats
    for name, own, other in (("user", nats.user, user), ("password", nats.password, password)):
        if not own and other:
            origins[f"nats.{name}"] = origins["nats.url"]
    return msgspec.structs.replace(nats, url=url, user=nats.user or user, password=nats.password or password)
