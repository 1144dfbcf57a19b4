"""``suite serve``."""

from __future__ import annotations

import functools
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import click

from suite import data_directory
from suite.cli.config import load_configured, settings_options
from suite.cli.options import json_option
from suite.extras import require
from suite.process_log import log_to_stderr
from suite.service_manager import ServiceManager

if TYPE_CHECKING:
    from suite.node.node import Node


@click.command()
@settings_options
@click.option("--take-over", is_flag=True, help="Replace a running process of the same node name.")
@json_option
def serve(file: Path | None, take_over: bool, as_json: bool, **flags: Any) -> None:
    """Serve the models of this machine until SIGTERM or Ctrl-C.

    When it is ready, it writes its address to connection.json in the data directory, where the other commands
    and `suite.connect()` find it. Flags override SUITE_... variables, which override the configuration file.
    It prints what it serves, and what to type next. The process logs to stderr, as --log-format says; with
    --json it logs JSON lines and prints nothing else. The first Ctrl-C waits for running generations, the
    second ends them.

    \b
    Examples:
      suite serve --models-dir ~/models
      suite serve --config suite.toml --memory-limit-gb 12
      suite serve --config startup_config.yaml
      suite serve --nats-url nats://nats.example:4222 --node box1
    """
    require("serve", "suite serve")
    if as_json:
        flags["log_format"] = "json"
    configuration = load_configured(file, flags)
    from suite.node import startup  # slow to import, so that invalid settings are reported first

    os.umask(data_directory.UMASK)
    log_to_stderr(configuration.settings.log_format)
    for warning in configuration.warnings:
        logging.getLogger("suite.node").warning("%s", warning)
    run = functools.partial(
        startup.serve,
        configuration.settings,
        take_over=take_over,
        on_ready=_unseen if as_json else _show,
        manager=ServiceManager.take(os.environ),
    )
    anyio.run(run, backend_options={"use_uvloop": True})


def _unseen(_: object) -> None:
    """Programs have the log."""


def _show(node: Node) -> None:
    from suite.cli.ready import show_ready  # needs what a start imports while its NATS server starts

    show_ready(node)
