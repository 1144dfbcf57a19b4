"""``suite serve``."""

from __future__ import annotations

import functools
import logging
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import click
import msgspec

from suite.cli.options import data_dir_option, json_option


@click.command()
@data_dir_option("Where the log, the credentials and connection.json are kept.")
@click.option(
    "--models-dir",
    "models_directories",
    type=click.Path(file_okay=False, path_type=Path),
    multiple=True,
    help="A directory with *.gguf files; may be given more than once.",
)
@click.option("--config", type=click.Path(dir_okay=False, path_type=Path), help="A TOML file of settings.")
@click.option("--node", help="This node's name; the host's name unless given.")
@click.option("--nats-url", help="An existing NATS; without it the node starts a server of its own.")
@click.option(
    "--port", type=click.IntRange(0, 65535), help="Port of the node's own server; a free one unless given."
)
@click.option(
    "--memory-limit-gb", type=float, help="Memory that loaded models may have, in units of 2**30 bytes."
)
@click.option("--trace", type=click.Choice(["off", "console", "otlp"]), help="Where traces go.")
@click.option("--take-over", is_flag=True, help="Replace a process of the same node name that still answers.")
@json_option
def serve(config: Path | None, take_over: bool, as_json: bool, **flags: Any) -> None:
    """Serve the models of this machine until SIGTERM or Ctrl-C.

    When it is ready it writes how to reach it to connection.json in the data directory, where the other
    commands and `suite.connect()` find it. Flags go before SUITE_... variables, those before the
    configuration file. The log of the process goes to stderr; with --json a JSON document a line.

    \b
    Examples:
      suite serve --models-dir ~/models
      suite serve --config suite.toml --memory-limit-gb 12
      suite serve --nats-url nats://nats.example:4222 --node box1
    """
    from suite.config import load_settings

    settings = load_settings(config, flags=_layer(flags))
    from suite import serving  # after the settings: being told what is wrong with them need not wait for it

    _log_to_stderr(as_json)
    run = functools.partial(serving.serve, settings, take_over=take_over)
    anyio.run(run, backend_options={"use_uvloop": True})


def _layer(flags: Mapping[str, Any]) -> dict[str, Any]:
    """The flags that were given, as settings."""
    given = {name: value for name, value in flags.items() if value not in (None, ())}
    nats = {"url": given.pop("nats_url", None), "port": given.pop("port", None)}
    nats = {name: value for name, value in nats.items() if value is not None}
    return given | ({"nats": nats} if nats else {})


def _log_to_stderr(as_json: bool) -> None:
    handler = logging.StreamHandler(sys.stderr)
    text = logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s")
    handler.setFormatter(_JsonLines() if as_json else text)
    logging.basicConfig(level=logging.INFO, handlers=[handler])


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line).decode()
