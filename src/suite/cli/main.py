"""The ``suite`` command: runs the subcommand, and turns every error into a message and an exit code."""

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
    "config": ("suite.cli.config", "Show all settings, and where each value comes from."),
    "credentials": ("suite.cli.credentials", "Show, add, rotate and revoke who may connect."),
    "demo": ("suite.cli.demo", "Show everything once, with a temporary service."),
    "models": ("suite.cli.models", "List the models and their states."),
    "load": ("suite.cli.models", "Load a model."),
    "unload": ("suite.cli.models", "Unload a model."),
    "status": ("suite.cli.status", "Show a model, or the loaded models."),
    "generate": ("suite.cli.generate", "Generate text."),
    "chat": ("suite.cli.chat", "Chat with a model."),
    "cancel": ("suite.cli.generate", "End a running generation."),
    "clear": ("suite.cli.models", "Clear the tokens that models keep for reuse."),
    "predict": ("suite.cli.prediction", "Predict which models are needed next."),
    "preload": ("suite.cli.prediction", "Load models before they are needed."),
    "select": ("suite.cli.prediction", "Choose a model by capability and trust."),
    "usage": ("suite.cli.usage", "Count how much the models were used."),
    "record-usage": ("suite.cli.usage", "Record that a model was used elsewhere."),
    "metrics": ("suite.cli.metrics", "List the samples of metrics."),
    "log-metric": ("suite.cli.metrics", "Log a sample."),
    "summary": ("suite.cli.metrics", "Summarise a metric: count, mean, percentiles."),
    "evaluations": ("suite.cli.evaluations", "List the evaluations of models."),
    "log-evaluation": ("suite.cli.evaluations", "Log an evaluation of a model."),
    "retract": ("suite.cli.evaluations", "Retract an evaluation."),
    "compare": ("suite.cli.evaluations", "Compare models."),
    "fleet": ("suite.cli.projections", "Show which models are on which nodes."),
    "errors": ("suite.cli.projections", "List what went wrong."),
    "events": ("suite.cli.events", "Show the events in the log."),
    "health": ("suite.cli.status", "Check the health of the service."),
    "stats": ("suite.cli.status", "Show counts and memory use of a node."),
    "rebuild": ("suite.cli.projections", "Rebuild read models from the log."),
    "import-legacy": ("suite.cli.import_legacy", "Import an older service's database into the log."),
}


class Suite(click.Group):
    """The group of all commands; its help does not import their modules."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of the commands, in the order of the help."""
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return the command of this name."""
        del ctx
        if cmd_name not in COMMANDS:
            return None
        command = getattr(importlib.import_module(COMMANDS[cmd_name][0]), cmd_name.replace("-", "_"))
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands for the help."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])


@click.group(cls=Suite, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="suite")
def commands() -> None:
    """Manage a fleet of local GGUF models: load, run and unload them, with every event in one log.

    Commands find the service by --nats-url, by --data-dir, by SUITE_NATS_URL (with SUITE_NATS_USER,
    SUITE_NATS_PASSWORD or SUITE_NATS_CREDENTIALS), or in the default data directory, in this order. With a
    URL, they read the log as SUITE_NATS_READER_USER with SUITE_NATS_READER_PASSWORD, if that is set.

    \b
    Examples:
      suite serve --models-dir ~/models
      suite models
      suite generate smollm2 "Once upon a time"
      suite events --follow

    \b
    Exit codes:
      0    done
      1    refused, by the service or by NATS (stderr has the code: `error <code>: message`), or not healthy
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
        # The reader has gone, as in `suite events | head`; buffered output must not fail again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return REFUSED
    return code if isinstance(code, int) else 0


def _fail(complaint: str, code: int) -> int:
    click.echo(complaint, err=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
