"""``suite config``, and the flags for settings that it shares with ``suite serve``."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec

from suite.cli.options import data_dir_option, json_option

if TYPE_CHECKING:
    from suite.config import Configuration, Settings

_SECRETS: Final = {"nats.password"}
_OF_OWN_SERVER: Final = ("nats.port", "nats.listen", "nats.join", "nats.cluster_file")


def settings_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that set settings of the service."""
    options = (
        data_dir_option("Directory for the log, the credentials and connection.json."),
        click.option(
            "--models-dir",
            "models_directories",
            type=click.Path(file_okay=False, path_type=Path),
            multiple=True,
            help="A directory with *.gguf files; may be given more than once.  [default: models]",
        ),
        click.option(
            "--config",
            "file",
            type=click.Path(dir_okay=False, path_type=Path),
            help="Configuration file: TOML, or the old YAML (*.yaml, *.yml).  [default: none]",
        ),
        click.option("--node", help="Name of this node. Default: the host's name."),
        click.option("--nats-url", help="URL of an existing NATS server. Default: the node starts its own."),
        click.option(
            "--port",
            type=click.IntRange(0, 65535),
            help="Port of the node's own NATS server. Default: the one of its last start, or a free one.",
        ),
        click.option(
            "--join",
            multiple=True,
            metavar="HOST[:PORT]",
            help="A machine with another node, for one cluster of NATS; may be given more than once.  "
            "[default: a server alone]",
        ),
        click.option(
            "--cluster-file",
            type=click.Path(dir_okay=False, path_type=Path),
            help="Only with --join: the file of `suite cluster create`, the same on each machine.",
        ),
        click.option(
            "--http",
            help="Serve the models over HTTP on this address, such as 127.0.0.1:8080.  [default: no HTTP]",
        ),
        click.option(
            "--memory-limit-gb",
            type=float,
            help="Limit of RAM for all loaded models, in GiB (2**30 bytes).  "
            "[default: 0.8 of what this process may use]",
        ),
        click.option(
            "--vram-limit-gb",
            type=float,
            help="Limit of each GPU's memory for all loaded models, in GiB.  [default: 0.9 of what it has]",
        ),
        click.option(
            "--trace",
            type=click.Choice(["off", "local", "console", "otlp"]),
            help="Where to send traces.  [default: off]",
        ),
        click.option(
            "--log-format",
            type=click.Choice(["text", "json"]),
            help="How to log to stderr.  [default: text]",
        ),
        click.option(
            "--metrics",
            type=click.Choice(["off", "console", "otlp"]),
            help="Where to send metrics, every minute.  [default: off]",
        ),
        click.option(
            "--metrics-listen",
            help="Let Prometheus fetch metrics at this address, such as 127.0.0.1:9464.  [default: nowhere]",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def load_configured(file: Path | None, flags: Mapping[str, Any]) -> Configuration:
    """Load the configuration from a file, the environment and flags. Raises InvalidConfiguration."""
    from suite.config import load_configuration

    given = {name: value for name, value in flags.items() if value not in (None, ())}
    nats = {"url": given.pop("nats_url", None)}
    nats |= {name: given.pop(name, None) for name in ("port", "join", "cluster_file")}
    http = {"listen": given.pop("http", None)}
    configuration = load_configuration(file, flags={**given, "nats": nats, "http": http})
    warnings = (
        *configuration.warnings,
        *_too_many_threads(configuration.settings),
        *_of_no_own_server(configuration),
    )
    return msgspec.structs.replace(configuration, warnings=warnings)


def _too_many_threads(settings: Settings) -> Iterator[str]:
    """A warning for each model with more threads than there are CPUs to run them."""
    from suite import machine

    cpus = machine.cpus()
    for name, model in settings.models.items():
        if model.n_threads is not None and model.n_threads > cpus.value:
            yield (
                f'models."{name}".n_threads is {model.n_threads}, but there are CPUs for {cpus.value} '
                f"({cpus.origin}): the model will use {cpus.value}, as more would only make it slower"
            )


def _of_no_own_server(configuration: Configuration) -> Iterator[str]:
    """A warning for each given setting of the node's own server, where it has none."""
    if configuration.settings.nats.url is None:
        return
    for name in _OF_OWN_SERVER:
        if (origin := configuration.origins[name]) != "default":
            yield f"{name} has no effect ({origin}): with nats.url the node starts no NATS server of its own"


@click.command()
@settings_options
@json_option
def config(file: Path | None, as_json: bool, **flags: Any) -> None:
    """Show all settings, the values in force on this machine, and where each comes from.

    Takes the flags of `suite serve`, starts nothing and shows no password.

    \b
    Examples:
      suite config
      suite config --config startup_config.yaml
      SUITE_MEMORY_LIMIT_GB=12 suite config --json
    """
    configuration = load_configured(file, flags)
    warnings = (*configuration.warnings, *_about_machine(configuration.settings))
    for warning in warnings:
        click.echo(f"warning: {warning}", err=True)
    values = _values(configuration.settings)
    if as_json:
        from suite.cli.output import json_line

        origins = configuration.origins.items()
        rows = {name: {"value": values[name], "origin": origin} for name, origin in origins}
        in_force = {name: msgspec.to_builtins(its) for name, its in _in_force(configuration).items()}
        json_line({"settings": rows, "in_force": in_force, "warnings": warnings})
        return
    from suite.cli.output import table

    shown = [(name, _text(values[name]), origin) for name, origin in configuration.origins.items()]
    table(("setting", "value", "from"), shown)
    click.echo()
    shown = [(name, _in_words(name, its.value), its.origin) for name, its in _in_force(configuration).items()]
    table(("in force", "value", "from"), shown)


class _Found(msgspec.Struct, frozen=True):
    """A value that a service would use, and where it comes from."""

    value: int | str
    origin: str


def _about_machine(settings: Settings) -> list[str]:
    """Warnings about settings that this machine cannot fulfil."""
    from suite.gpus import Gpus
    from suite.memory_limits import warnings

    return list(warnings(settings, Gpus.open().read()))


def _in_force(configuration: Configuration) -> dict[str, _Found]:
    """What a service with these settings would use on this machine, by name."""
    from suite import machine

    settings, origins = configuration.settings, configuration.origins
    threads = machine.cores()
    data_dir = settings.data_dir.absolute()
    directories = os.pathsep.join(_printable(each.absolute()) for each in settings.models_directories)
    database = settings.sqlite_db_path or data_dir / "projections" / "model_evaluation.db"
    return {
        "threads": _Found(threads.value, threads.origin),
        **_limits(configuration),
        "data_dir": _Found(_printable(data_dir), origins["data_dir"]),
        "models_directories": _Found(directories, origins["models_directories"]),
        "sqlite_db_path": _Found(_printable(database.absolute()), origins["sqlite_db_path"]),
        "nats": _Found(settings.nats.url or "a server of its own", origins["nats.url"]),
    }


def _limits(configuration: Configuration) -> dict[str, _Found]:
    """The limit of each memory: of RAM, and of each GPU."""
    from suite.gpus import Gpus
    from suite.machine import MEMORY_SHARE
    from suite.memory_limits import GPU_SHARE, memory_limits
    from suite.messages.decisions import RAM

    found = {}
    for name, limit in memory_limits(configuration.settings, Gpus.open().read()).items():
        share = MEMORY_SHARE if name == RAM else GPU_SHARE
        default = f"{share} of {limit.whole.origin}"
        origin = configuration.origins[limit.setting] if limit.setting else default
        found["memory_limit_bytes" if name == RAM else f"{name}_limit_bytes"] = _Found(limit.bytes, origin)
    return found


def _values(settings: Settings) -> dict[str, Any]:
    """Each value by its dotted path, with secrets masked."""
    from suite.config.layers import dotted

    values: dict[str, Any] = {}

    def collect(table: Mapping[str, Any], above: tuple[str, ...]) -> None:
        for name, value in table.items():
            if isinstance(value, dict):
                collect(value, (*above, name))
            else:
                values[dotted((*above, name))] = value

    collect(msgspec.to_builtins(settings, enc_hook=_printable), ())
    return {name: "***" if value and name in _SECRETS else value for name, value in values.items()}


def _printable(value: object) -> str:
    """A path as text; bytes that are not UTF-8 are replaced."""
    return os.fsencode(str(value)).decode(errors="replace")


def _in_words(name: str, value: int | str) -> str:
    """Format a value that is in force for people."""
    from suite.units import size

    return size(value) if name.endswith("_limit_bytes") and isinstance(value, int) else str(value)


def _text(value: object) -> str:
    """Format a value for people."""
    match value:
        case None:
            return "-"
        case bool():
            return str(value).lower()
        case list() | tuple():
            return os.pathsep.join(map(str, value)) or "-"
        case _:
            return str(value)
