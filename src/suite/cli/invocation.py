"""How a command is typed here, for lines that say what to type next."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path


def typed(command: str, *values: str, options: Sequence[str] = ()) -> str:
    """A command of this program, as a shell takes it: ``.venv/bin/suite run m 'Hello!'``."""
    return f"{_program()} {arguments(command, *values, options=options)}"


def arguments(command: str, *values: str, options: Sequence[str] = ()) -> str:
    """A command with its values and options, as a shell takes it; a value may begin with a dash."""
    if any(value.startswith("-") for value in values):
        return shlex.join((command, *options, "--", *values))
    return shlex.join((command, *values, *options))


def data_dir_arguments(data_dir: Path) -> tuple[str, ...]:
    """What a command needs to find the service of a data directory, from another terminal and folder too.

    Nothing if it is the default one; another terminal may not have the variables of this one.
    """
    from suite.config import default_data_dir

    told = {"SUITE_NATS_URL", "SUITE_DATA_DIR"} & os.environ.keys()
    if not told and default_data_dir().absolute() == data_dir.absolute():
        return ()
    return ("--data-dir", str(data_dir.absolute()))


def _program() -> str:
    called = Path(sys.argv[0])
    if called.stem != "suite":
        return f"{shlex.quote(sys.executable)} -m suite"
    found = shutil.which("suite")
    is_found = found is not None and Path(found).absolute() == called.absolute()
    return "suite" if is_found else shlex.quote(sys.argv[0])
