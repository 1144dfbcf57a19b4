"""The ``suite`` command: runs the subcommand, and turns every error into a message and an exit code."""

from __future__ import annotations

import importlib
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from difflib import get_close_matches
from typing import Final

import click
from click.shell_completion import CompletionItem, shell_complete

from suite.cli import signals, streams
from suite.cli.exit import INTERNAL, REFUSED, USAGE, exit_code
from suite.errors import SuiteError
from suite.version import __version__

COMMANDS: Final = {
    "serve": ("suite.cli.serve", "Serve the models of this machine."),
    "gateway": ("suite.cli.gateway", "Serve the models over HTTP, as OpenAI's API."),
    "run": ("suite.cli.run", "Answer a prompt, or chat with a model."),
    "config": ("suite.cli.config", "Show all settings, and where each value comes from."),
    "credentials": ("suite.cli.credentials", "Show, add, rotate and revoke who may connect."),
    "cluster": ("suite.cli.cluster", "Make the NATS servers of several nodes one cluster."),
    "keys": ("suite.cli.keys", "List, make and revoke the keys of the gateway."),
    "demo": ("suite.cli.demo", "Show everything once, with a temporary service."),
    "pull": ("suite.cli.pull", "Download a model from the Hugging Face Hub."),
    "push": ("suite.cli.push", "Copy a model to other nodes."),
    "models": ("suite.cli.models", "List the models and their states."),
    "versions": ("suite.cli.versions", "List the versions of models."),
    "alias": ("suite.cli.versions", "List aliases, or have one stand for another version."),
    "promote": ("suite.cli.versions", "Promote a version to an alias, or take it back."),
    "load": ("suite.cli.models", "Load a model."),
    "unload": ("suite.cli.models", "Unload a model."),
    "pin": ("suite.cli.models", "Keep a model loaded."),
    "unpin": ("suite.cli.models", "Stop keeping a model loaded."),
    "release": ("suite.cli.models", "End the quarantine of a model that failed again and again."),
    "top": ("suite.cli.top.command", "Watch what all nodes do, and load, unload, pin and drain."),
    "status": ("suite.cli.status", "Show a model, or the loaded models."),
    "generate": ("suite.cli.generate", "Generate text."),
    "chat": ("suite.cli.chat", "Chat with a model."),
    "cancel": ("suite.cli.generate", "End a running generation."),
    "clear": ("suite.cli.models", "Clear the tokens that models keep for reuse."),
    "predict": ("suite.cli.prediction", "Predict which models are needed next."),
    "predictions": ("suite.cli.prediction", "Show chances of use, and what became of bets on them."),
    "preload": ("suite.cli.prediction", "Load models before they are needed."),
    "select": ("suite.cli.prediction", "Choose a model by capability and trust."),
    "usage": ("suite.cli.usage", "Count how much the models were used."),
    "record-usage": ("suite.cli.usage", "Record that a model was used elsewhere."),
    "replay": ("suite.cli.replay", "Compare policies and budgets on a history of requests."),
    "metrics": ("suite.cli.metrics", "List the samples of metrics."),
    "log-metric": ("suite.cli.metrics", "Log a sample."),
    "summary": ("suite.cli.metrics", "Summarise a metric: count, mean, percentiles."),
    "evaluations": ("suite.cli.evaluations", "List the evaluations of models."),
    "log-evaluation": ("suite.cli.evaluations", "Log an evaluation of a model."),
    "retract": ("suite.cli.evaluations", "Retract an evaluation."),
    "compare": ("suite.cli.evaluations", "Compare models."),
    "bench": ("suite.cli.bench", "Measure how fast a model is, and how well it answers."),
    "benchmarks": ("suite.cli.bench", "List benchmarks of models."),
    "cancel-benchmark": ("suite.cli.bench", "End a benchmark."),
    "fleet": ("suite.cli.projections", "Show which models are on which nodes."),
    "drain": ("suite.cli.drain", "Take a node out of service, and back."),
    "errors": ("suite.cli.projections", "List what went wrong."),
    "explain": ("suite.cli.explain", "Say why a model is loaded, waits or left."),
    "events": ("suite.cli.events", "Show the events in the log."),
    "trace": ("suite.cli.trace", "Draw what a request has caused, as a tree."),
    "health": ("suite.cli.status", "Check the health of the service."),
    "stats": ("suite.cli.status", "Show counts and memory use of the nodes."),
    "rebuild": ("suite.cli.projections", "Rebuild read models from the log."),
    "backup": ("suite.cli.backup", "Copy the log into a file while the service runs."),
    "restore": ("suite.cli.backup", "Make the log from a backup where there is none."),
    "import-legacy": ("suite.cli.import_legacy", "Import an older service's database into the log."),
    "completion": ("suite.cli.completion", "Print a script that completes commands and model ids."),
}

PROGRAM: Final = "suite"
COMPLETION_VARIABLE: Final = "_SUITE_COMPLETE"
"""Set by the completion script of a shell; see `suite completion --help`."""
DEBUG_VARIABLE: Final = "SUITE_DEBUG"
"""When set, an error that is no wrong usage is printed with its traceback."""

_ELSEWHERE: Final = {
    "list": "models",
    "ls": "models",
    "ps": "status",
    "show": "status",
    "start": "serve",
    "stop": "unload",
    "logs": "events",
}
"""Commands by the names that they have in other model runners."""


class Suite(click.Group):
    """The group of all commands; its help does not import their modules."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments. `help [COMMAND]` and `version` are options, as other programs have them."""
        match args:
            case ["help", *command]:
                args = [*command, "--help"]
            case ["version"]:
                args = ["--version"]
        return super().parse_args(ctx, args)

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

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that was typed. Raises UsageError with those that may have been meant."""
        name = args[0]
        if name in COMMANDS or name.startswith("-") or ctx.resilient_parsing:
            return super().resolve_command(ctx, args)
        meant = [_ELSEWHERE[name]] if name in _ELSEWHERE else get_close_matches(name, COMMANDS)
        choice = f"did you mean {' or '.join(meant)}?" if meant else "`suite --help` lists the commands"
        raise click.UsageError(f"there is no command {name!r}: {choice}", ctx)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """The names of the commands that begin like this, without importing their modules."""
        names = [
            CompletionItem(name, help=summary)
            for name, (_, summary) in COMMANDS.items()
            if name.startswith(incomplete)
        ]
        return names or click.Command.shell_complete(self, ctx, incomplete)


@click.group(
    cls=Suite,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, "-V", "--version", prog_name=PROGRAM)
@click.pass_context
def commands(ctx: click.Context) -> None:
    """Manage a fleet of local GGUF models: load, run and unload them, with every event in one log.

    Commands find the service by --nats-url, by --data-dir, by SUITE_NATS_URL (with SUITE_NATS_USER,
    SUITE_NATS_PASSWORD or SUITE_NATS_CREDENTIALS), or in the default data directory, in this order. With a
    URL, they read the log as SUITE_NATS_READER_USER with SUITE_NATS_READER_PASSWORD, if that is set.

    \b
    Examples:
      suite serve --models-dir ~/models
      suite models
      suite run smollm2 "What is a llama?"
      suite events --follow --since 10m

    \b
    Exit codes:
      0    done, or the reader of a pipe has gone (`suite events | head`)
      1    refused by the service or by NATS (stderr has `error <code>: message`),
           not healthy, or the output cannot be written
      2    wrong usage or configuration
      3    the service cannot be reached
      4    no answer in time, or the outcome is unknown
      70   an error in suite itself: a bug (SUITE_DEBUG=1 shows the traceback)
      130  interrupted with Ctrl-C (143: ended by SIGTERM, 129: by SIGHUP)
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    streams.prepare()
    with signals.as_interrupts() as received:
        try:
            code = _run(list(sys.argv[1:] if arguments is None else arguments), received)
            streams.flush()
        except BaseException as error:  # what a group raises may be anything
            return _ended_by(_cause(error), received)
    return code


def _run(arguments: list[str], received: signals.Received) -> int:
    """Run a command, or answer a shell that asks for completions. Returns the exit code."""
    if instruction := os.environ.get(COMPLETION_VARIABLE):
        return shell_complete(commands, {}, PROGRAM, COMPLETION_VARIABLE, instruction)
    try:
        with commands.make_context(PROGRAM, arguments, obj=received) as context:
            code = commands.invoke(context)
    except click.exceptions.Exit as done:
        return done.exit_code
    return code if isinstance(code, int) else 0


def _cause(error: BaseException) -> BaseException:
    """The error to tell. Of a group: an interrupt, else a SuiteError, else an OSError, else the first one."""
    if isinstance(error.__cause__, KeyboardInterrupt):  # Python wraps what is raised while a class is made
        return error.__cause__
    if not isinstance(error, BaseExceptionGroup):
        return error
    causes = [_cause(each) for each in error.exceptions]
    for kind in (KeyboardInterrupt, SuiteError, OSError):
        for each in causes:
            if isinstance(each, kind):
                return each
    return causes[0]


def _ended_by(error: BaseException, received: signals.Received) -> int:
    """Tell what ended the command. Returns the exit code."""
    match error:
        case SystemExit():
            raise error
        case KeyboardInterrupt() | click.Abort():
            signals.newline_after_echo()
            for note in getattr(error, "__notes__", ()):  # what a command says of what goes on
                click.echo(streams.harmless(note), err=True)
            streams.discard_output()
            return received.exit_code
        case BrokenPipeError():  # the reader has what it wants, as in `suite events | head`
            streams.discard_output()
            return 0
    from suite.process_log import logs_json  # which most commands do without

    if logs_json():
        _log(error)
    else:
        _print(error)
    streams.discard_output()
    return _complaint(error)[1]


def _log(error: BaseException) -> None:
    """Log what ended a service. What nobody has foreseen may quote a client: its type and places are told."""
    is_foreseen = isinstance(error, (SuiteError, OSError, click.ClickException))
    complaint = _complaint(error)[0] if is_foreseen else "error internal: a bug of suite"
    shows_places = os.environ.get(DEBUG_VARIABLE) or not is_foreseen
    logging.getLogger("suite").error("%s", complaint, exc_info=error if shows_places else None)


def _print(error: BaseException) -> None:
    from suite.redaction import redacted

    if os.environ.get(DEBUG_VARIABLE) and not isinstance(error, click.ClickException):
        traceback.print_exception(error)
    with suppress(OSError):
        click.echo(streams.harmless(redacted(_complaint(error)[0])), err=True)


def _complaint(error: BaseException) -> tuple[str, int]:
    """The message for an error, and the exit code."""
    match error:
        case click.UsageError():
            usage = f"{error.ctx.get_usage()}\n" if error.ctx else ""
            message = " ".join(error.format_message().split())
            return f"{usage}error usage: {message}{_hint(error)}", USAGE
        case click.ClickException():
            return f"error usage: {error.format_message()}", USAGE
        case SuiteError():
            details = "".join(f" ({name}={value})" for name, value in error.details.items())
            return f"error {error.code}: {error.message}{details}", exit_code(error)
        case OSError():
            where = f": {os.fsdecode(error.filename)}" if error.filename is not None else ""
            what = "the output cannot be written: " if streams.cannot_be_written(error) else ""
            return f"error system: {what}{error.strerror or error}{where}", REFUSED
        case _:
            text = " ".join(str(error).split())
            return (
                f"error internal: {type(error).__name__}: {text} "
                f"(a bug of suite; set {DEBUG_VARIABLE}=1 for the traceback)",
                INTERNAL,
            )


def _hint(error: click.UsageError) -> str:
    """What to do about a mistake that looks like another one."""
    takes_values = error.ctx is not None and any(
        isinstance(parameter, click.Argument) for parameter in error.ctx.command.params
    )
    if isinstance(error, click.NoSuchOption) and takes_values and not error.possibilities:
        return " (a value that begins with '-' needs '--' before it)"
    return ""
