"""The long form, by `make fuzz`: as many inputs as the release asks for, each made from the seed.

python -m support.fuzzing                              # all targets, in their long form
python -m support.fuzzing actions --seed 7 --count 5000
python -m support.fuzzing actions --seed 7 --first 4711 --count 1    # one input again
"""

from __future__ import annotations

import argparse
import logging
import math
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event
from typing import TypeAlias

import anyio

from support.fuzzing.run import Report, default_directory, fuzz
from support.fuzzing.targets import TARGETS, opened

IsOver: TypeAlias = Callable[[], bool]


def main() -> int:
    """Returns 1 if anything was found."""
    parser = argparse.ArgumentParser(prog="python -m support.fuzzing", description="Fuzzes the product.")
    parser.add_argument("target", nargs="*", help=f"one of {', '.join(TARGETS)} (default: all)")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 2**32, help="default: another each time")
    parser.add_argument("--count", type=int, help="how many inputs (default: the long form)")
    parser.add_argument("--first", type=int, default=0, help="the number of the first (default: 0)")
    parser.add_argument("--minutes", type=float, help="begin no input after this (default: no limit)")
    options = parser.parse_args()
    wanted = options.target or list(TARGETS)
    if unknown := set(wanted) - TARGETS.keys():
        parser.error(f"no target {', '.join(sorted(unknown))}")
    logging.disable(logging.WARNING)
    _say(f"seed {options.seed}")
    is_over = _end(options.minutes)
    reports = [anyio.run(_fuzz, each, options.seed, options.count, options.first, is_over) for each in wanted]
    return int(not all(report.is_well for report in reports))


def _end(minutes: float | None) -> IsOver:
    """Whether so much time has passed, or SIGTERM has come: what was found so far is told then."""
    told = Event()
    signal.signal(signal.SIGTERM, lambda *_: told.set())
    end = math.inf if minutes is None else time.monotonic() + 60 * minutes
    return lambda: told.is_set() or time.monotonic() > end


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


async def _fuzz(name: str, seed: int, count: int | None, first: int, is_over: IsOver) -> Report:
    with TemporaryDirectory(prefix="fuzz-") as directory:
        async with opened(name, Path(directory)) as target:
            report = await fuzz(
                target,
                default_directory(),
                seed=seed,
                count=TARGETS[name].long_form if count is None else count,
                first=first,
                is_over=is_over,
                tell=lambda report: _say(f"so far, {report}"),
            )
            _say(str(report))
    return report


if __name__ == "__main__":
    sys.exit(main())
