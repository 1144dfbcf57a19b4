"""The examples in the help of the commands."""

from __future__ import annotations

import re

import click

from suite.cli.main import commands


def help_examples(name: str | None) -> list[str]:
    """The examples in the help of a command, or with None of the program, in their order."""
    command = commands if name is None else commands.get_command(click.Context(commands), name)
    assert command is not None
    assert command.help is not None
    (found,) = re.findall(r"Examples:\n((?:  .*\n?)+)", command.help)
    return [line.strip() for line in found.splitlines() if line.strip()]
