"""How a command is typed here, for lines that say what to type next."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from contextlib import suppress
from pathlib import Path


def typed(*arguments: str) -> str:
    """This program with these arguments, as a shell takes it: ``.venv/bin/suite run m 'Hello!'``."""
    return f"{_program()} {shlex.join(arguments)}"


def data_dir_arguments(data_dir: Path) -> tuple[str, ...]:
    """What a command needs to find the service of a data directory; nothing if it is found by itself."""
    from suite.config import chosen_data_dir
    from suite.errors import InvalidConfiguration

    with suppress(InvalidConfiguration):
        found = chosen_data_dir(None, os.environ)
        if "SUITE_NATS_URL" not in os.environ and found.absolute() == data_dir.absolute():
            return ()
    return ("--data-dir", str(data_dir))


def _program() -> str:
    called = Path(sys.argv[0])
    if called.stem != "suite":
        return f"{shlex.quote(sys.executable)} -m suite"
    found = shutil.which("suite")
    is_found = found is not None and Path(found).absolute() == called.absolute()
    return "suite" if is_found else shlex.quote(sys.argv[0])
