"""The ``suite`` command: finds the subcommand, and turns whatever goes wrong into a line and an exit code."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Final

import click

from suite.cli.exit import INTERRUPTED, REFUSED, USAGE, exit_code
from suite.errors import SuiteError
from suite.version import __version__

COMMANDS: Final = {
    "serve": ("suite.cli.serve", "Serve the models of this machine."),
    "config": ("suite.cli.config", "Show the settings in force, and where each came from."),
    "demo": ("suite.cli.demo", "Show all of it once, on a service of its own."),
    "models": ("suite.cli.models", "List the models and their state."),
    "load": ("suite.cli.models", "Load a model."),
    "unload": ("suite.cli.models", "Unload a model."),
    "status": ("suite.cli.status", "Show a model, or what is loaded."),
    "generate": ("suite.cli.generate", "Generate text."),
    "chat": ("suite.cli.chat", "Talk with a model."),
    "cancel": ("suite.cli.generate", "End a running generation."),
    "clear": ("suite.cli.models", "Forget what models keep for reuse."),
    "predict": ("suite.cli.prediction", "Say which models are needed next."),
    "preload": ("suite.cli.prediction", "Load models before they are needed."),
    "select": ("suite.cli.prediction", "Choose a model that can do something."),
    "usage": ("suite.cli.usage", "Count how much was used."),
    "record-usage": ("suite.cli.usage", "Record a use that was elsewhere."),
    "metrics": ("suite.cli.metrics", "List the samples of metrics."),
    "log-metric": ("suite.cli.metrics", "Log a sample."),
    "summary": ("suite.cli.metrics", "Show what a metric's samples come to."),
    "evaluations": ("suite.cli.evaluations", "List the evaluations of models."),
    "log-evaluation": ("suite.cli.evaluations", "Log how a model did."),
    "retract": ("suite.cli.evaluations", "Take an evaluation back."),
    "compare": ("suite.cli.evaluations", "Show models side by side."),
    "fleet": ("suite.cli.projections", "Show which models are on which nodes."),
    "errors": ("suite.cli.projections", "List what went wrong."),
    "events": ("suite.cli.events", "Show what happened, from the log."),
    "health": ("suite.cli.status", "Ask whether the service is well."),
    "stats": ("suite.cli.status", "Show counts and memory of a node."),
    "rebuild": ("suite.cli.projections", "Fold read models anew from the log."),
    "import-legacy": ("suite.cli.import_legacy", "Bring an older service's database into the log."),
}


class Suite(click.Group):
    """The commands by name; help needs none of their modules."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order in which they are met."""
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of this name, from its module."""
        del ctx
        if cmd_name not in COMMANDS:
            return None
        command = getattr(importlib.import_module(COMMANDS[cmd_name][0]), cmd_name.replace("-", "_"))
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list in the help."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])


@click.group(cls=Suite, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="suite")
def commands() -> None:
    """Keep a fleet of local GGUF models: load, run and unload them, with every fact in one log.

    The service is found by --nats-url, by --data-dir, by SUITE_NATS_URL (with SUITE_NATS_USER,
    SUITE_NATS_PASSWORD or SUITE_NATS_CREDENTIALS), or in the usual data directory, in this order. With a URL,
    the log is read as SUITE_NATS_READER_USER with SUITE_NATS_READER_PASSWORD, where that is another user.

    \b
    Examples:
      suite serve --models-dir ~/models
      suite models
      suite generate smollm2 "Once upon a time"
      suite events --follow

    \b
    Exit codes:
      0    done
      1    refused by the service (the code stands on stderr: `error <code>: message`), or not well
      2    wrong usage or configuration
      3    the service cannot be reached
      4    no answer in time, or the outcome is unknown
      130  interrupted
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    try:
        code = commands.main(args=arguments, prog_name="suite", standalone_mode=False)
        sys.stdout.flush()
    except click.UsageError as error:
        usage = f"{error.ctx.get_usage()}\n" if error.ctx else ""
        return _fail(f"{usage}error usage: {error.format_message()}", USAGE)
    except click.ClickException as error:
        return _fail(f"error usage: {error.format_message()}", USAGE)
    except SuiteError as error:
        details = "".join(f" ({name}={value})" for name, value in error.details.items())
        return _fail(f"error {error.code}: {error.message}{details}", exit_code(error))
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except BrokenPipeError:
        # Who read has gone, as in `suite events | head`: what is still buffered must not fail again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return REFUSED
    return code if isinstance(code, int) else 0


def _fail(complaint: str, code: int) -> int:
    click.echo(complaint, err=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
