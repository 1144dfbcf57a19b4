"""The command line of the modules that generate files: write them, or check that they are up to date."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path


def write_or_check(
    arguments: Sequence[str] | None,
    *,
    module: str,
    description: str,
    source: str,
    write: Callable[[Path], None],
    drift: Callable[[Path], list[str]],
) -> int:
    """Run ``python -m module --write DIR`` or ``--check DIR``. Returns the exit code.

    ``write`` generates the files in a directory; ``drift`` names those that differ from ``source``. The exit
    code is 1 if a check finds differences.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=description)
    choice = parser.add_mutually_exclusive_group(required=True)
    choice.add_argument("--write", type=Path, metavar="DIR", help="generate the files")
    choice.add_argument("--check", type=Path, metavar="DIR", help="exit 1 naming the files that differ")
    options = parser.parse_args(arguments)
    if options.write is not None:
        write(options.write)
        return 0
    drifted = drift(options.check)
    for path in drifted:
        sys.stderr.write(f"{options.check / path}: differs from {source}\n")
    if drifted:
        sys.stderr.write(f"run: python -m {module} --write {options.check}\n")
    return 1 if drifted else 0
