"""Runs one target: makes its inputs, checks them, and tells which failed so that they can be made again."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any, Generic, NoReturn, TypeVar

import anyio
import anyio.lowlevel
import psutil

T = TypeVar("T")

MOST_FINDINGS = 20
"""After so many a run ends."""
FLAT_BYTES = 96 << 20
"""How much more memory all processes together may have at the end than after a quarter of the inputs."""


@dataclass(frozen=True, kw_only=True)
class Target(Generic[T]):
    """What is fuzzed."""

    name: str
    make: Callable[[Random], T]
    """Makes an input."""
    check: Callable[[T], Awaitable[str]]
    """Has the product take an input. Returns what came of it in a word or two, to be counted; raises where
    something came of it that must not."""
    written: Callable[[T], bytes]
    """The input, for a file."""
    seconds: float = 60.0
    """What takes longer hangs."""
    at_once: int = 1
    afterwards: Callable[[], Awaitable[None]] = anyio.lowlevel.checkpoint
    """Raises where something is wrong once all inputs are checked."""
    processes: Callable[[], Iterable[psutil.Process]] = lambda: [psutil.Process()]
    """Those whose memory is to stay flat."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """An input of which something came that must not."""

    number: int
    what: str
    path: Path


@dataclass(kw_only=True)
class Report:
    """What a run found."""

    target: str
    seed: int
    first: int
    outcomes: Counter[str] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)
    seconds: float = 0.0
    early_bytes: int = 0
    """The memory after a quarter of the inputs."""
    late_bytes: int = 0
    aftermath: str | None = None
    """What was wrong once all inputs were checked."""

    @property
    def is_well(self) -> bool:
        """Whether nothing was found."""
        return not self.findings and self.aftermath is None and self.is_flat

    @property
    def is_flat(self) -> bool:
        """Whether memory did not grow meanwhile."""
        return self.late_bytes - self.early_bytes < FLAT_BYTES

    def __str__(self) -> str:
        checked = self.outcomes.total() + len(self.findings)
        lines = [
            f"{self.target}: seed {self.seed}, inputs {self.first} to {self.first + checked - 1}, "
            f"{self.seconds:.0f} s, memory {self.early_bytes >> 20} MiB after a quarter, "
            f"{self.late_bytes >> 20} MiB at the end{'' if self.is_flat else ': IT GROWS'}"
        ]
        lines += [f"  {count:7} {outcome}" for outcome, count in self.outcomes.most_common()]
        for each in self.findings:
            again = f"make fuzz TARGET={self.target} SEED={self.seed} FIRST={each.number} COUNT=1"
            lines += [f"  FOUND {each.what}", f"    again: {again}", f"    input: {each.path}"]
        if self.aftermath is not None:
            lines.append(f"  FOUND afterwards: {self.aftermath}")
        return "\n".join(lines)


def random_of(target: str, seed: int, number: int) -> Random:
    """The randomness of one input."""
    return Random(f"{seed}/{target}/{number}")


async def fuzz(
    target: Target[Any], directory: Path, *, seed: int, count: int, first: int = 0, until: float | None = None
) -> Report:
    """Check so many inputs, but begin none after `until` (of `time.monotonic`). Failed ones go into files."""
    report = Report(target=target.name, seed=seed, first=first)
    began = time.monotonic()
    numbers = iter(range(first, first + count))
    taken = 0

    async def work() -> None:
        nonlocal taken
        for number in numbers:
            if (until is not None and time.monotonic() > until) or len(report.findings) >= MOST_FINDINGS:
                return
            taken += 1
            if taken == count // 4 + 1:
                report.early_bytes = _resident(target)
            await _check(target, report, directory, number)

    async with anyio.create_task_group() as tasks:
        for _ in range(target.at_once):
            tasks.start_soon(work)
    report.seconds = time.monotonic() - began
    try:
        await target.afterwards()
    except Exception as error:
        report.aftermath = _told(error)
    report.late_bytes = _resident(target)
    report.early_bytes = report.early_bytes or report.late_bytes
    return report


async def _check(target: Target[Any], report: Report, directory: Path, number: int) -> None:
    value = target.make(random_of(target.name, report.seed, number))
    path = directory / f"{target.name}-{report.seed}-{number}"
    _write(path, target.written(value))  # before it is checked: it may end this process
    try:
        with anyio.fail_after(target.seconds):
            report.outcomes[await target.check(value)] += 1
        path.unlink()
    except Exception as error:
        report.findings.append(Finding(number=number, what=_told(error), path=path))


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _told(error: Exception) -> str:
    trace, place = error.__traceback__, ""
    while trace is not None:
        code = trace.tb_frame.f_code
        place, trace = f"{Path(code.co_filename).name}:{trace.tb_lineno}", trace.tb_next
    return f"{type(error).__name__} at {place}: {str(error)[:300]}"


def _resident(target: Target[Any]) -> int:
    return sum(each.memory_info().rss for each in target.processes() if each.is_running())


class Hung(Exception):
    """It takes too long."""


@contextmanager
def bounded(seconds: float) -> Iterator[None]:
    """Raise Hung in the Python code inside when it takes longer. For the main thread."""

    def give_up(_number: int, _frame: FrameType | None) -> NoReturn:
        raise Hung(f"more than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def default_directory() -> Path:
    """Where inputs that failed go."""
    return Path(os.environ.get("FUZZ_DIR", "build/fuzz"))
