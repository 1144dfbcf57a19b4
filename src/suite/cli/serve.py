"""``suite serve``."""

from __future__ import annotations

import functools
import logging
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import click
import msgspec

from suite import data_directory
from suite.cli.config import load_configured, settings_options
from suite.cli.options import json_option
from suite.extras import require
from suite.service_manager import ServiceManager


@click.command()
@settings_options
@click.option("--take-over", is_flag=True, help="Replace a running process of the same node name.")
@json_option
def serve(file: Path | None, take_over: bool, as_json: bool, **flags: Any) -> None:
    """Serve the models of this machine until SIGTERM or Ctrl-C.

    When it is ready, it writes its address to connection.json in the data directory, where the other commands
    and `suite.connect()` find it. Flags override SUITE_... variables, which override the configuration file.
    It prints what it serves, and what to type next. The process logs to stderr; with --json it logs JSON
    lines and prints nothing else. The first Ctrl-C waits for running generations, the second ends them.

    \b
    Examples:
      suite serve --models-dir ~/models
      suite serve --config suite.toml --memory-limit-gb 12
      suite serve --config startup_config.yaml
      suite serve --nats-url nats://nats.example:4222 --node box1
    """
    require("serve", "suite serve")
    configuration = load_configured(file, flags)
    # slow to import, so that invalid settings are reported first
    from suite.cli.ready import show_ready
    from suite.node import serving

    os.umask(data_directory.UMASK)
    _log_to_stderr(as_json)
    for warning in configuration.warnings:
        logging.getLogger("suite.node").warning("%s", warning)
    run = functools.partial(
        serving.serve,
        configuration.settings,
        take_over=take_over,
        on_ready=_unseen if as_json else show_ready,
        manager=ServiceManager.take(os.environ),
    )
    anyio.run(run, backend_options={"use_uvloop": True})


def _unseen(_: object) -> None:
    """Programs have the log."""


def _log_to_stderr(as_json: bool) -> None:
    handler = logging.StreamHandler(sys.stderr)
    text = logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s")
    handler.setFormatter(_JsonLines() if as_json else text)
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.getLogger("watchfiles").setLevel(logging.WARNING)  # it counts changes; the catalogue names them


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
