"""Runs one target: makes its inputs, checks them, and tells which failed so that they can be made again."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any, Generic, NamedTuple, NoReturn, TypeVar

import anyio
import anyio.lowlevel
import psutil

T = TypeVar("T")

MOST_FINDINGS = 20
"""After so many a run ends."""
FLAT_BYTES = 96 << 20
FLAT_DESCRIPTORS = 48
"""How much more all processes together may have at the end than early on."""
TOLD = 1000
"""After so many inputs each it is told what came of them so far."""
WARM = 2000
"""Early on is after a quarter of the inputs, but at most so many: then all has been used once."""


class Usage(NamedTuple):
    """What processes use."""

    bytes: int
    """Of memory."""
    descriptors: int

    def __str__(self) -> str:
        return f"{self.bytes >> 20} MiB and {self.descriptors} descriptors"


_NOTHING = Usage(0, 0)
_SLOWEST = 6
"""So many kinds of inputs are told by the time that they took."""


def usage(processes: Iterable[psutil.Process]) -> Usage:
    """What they use together."""
    alive = [each for each in processes if each.is_running()]
    return Usage(sum(each.memory_info().rss for each in alive), sum(each.num_fds() for each in alive))


def cpu_seconds() -> Counter[str]:
    """How long this process, those below it and those that have ended have computed by now, by program."""
    found = Counter[str]()
    for each in (psutil.Process(), *psutil.Process().children(recursive=True)):
        with suppress(psutil.NoSuchProcess):  # it has ended meanwhile
            times = each.cpu_times()
            found[_program(each)] += round(times.user + times.system)
            found["what has ended"] += round(times.children_user + times.children_system)
    return found


def _program(process: psutil.Process) -> str:
    """What runs there: of Python the module, and of `suite` its command."""
    words = process.cmdline()
    if "-m" not in words[:-1]:
        return process.name()
    module, *rest = words[words.index("-m") + 1 :]
    return f"suite {rest[0]}" if module == "suite" and rest else module


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
    kind: Callable[[T], str] = lambda _: ""
    """What an input is about, to tell which ones take the time."""


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
    early: Usage | None = None
    """What was used early on."""
    late: Usage = _NOTHING
    took: dict[str, float] = field(default_factory=dict)
    """How many seconds the inputs of each kind took together, waits included."""
    computed: Counter[str] = field(default_factory=Counter)
    """Seconds of CPU by program."""
    aftermath: str | None = None
    """What was wrong once all inputs were checked."""

    @property
    def checked(self) -> int:
        """How many inputs."""
        return self.outcomes.total() + len(self.findings)

    @property
    def is_well(self) -> bool:
        """Whether nothing was found."""
        return not self.findings and self.aftermath is None and self.is_flat

    @property
    def is_flat(self) -> bool:
        """Whether memory and descriptors did not grow meanwhile."""
        early = self.early or self.late
        grown = self.late.bytes - early.bytes, self.late.descriptors - early.descriptors
        return grown[0] < FLAT_BYTES and grown[1] < FLAT_DESCRIPTORS

    def __str__(self) -> str:
        lines = [
            f"{self.target}: seed {self.seed}, inputs {self.first} to {self.first + self.checked - 1}, "
            f"{self.seconds:.0f} s; {self.early or self.late} early on, {self.late} at the end"
            f"{'' if self.is_flat else ': IT GROWS'}"
        ]
        lines += [f"  {count:7} {outcome}" for outcome, count in self.outcomes.most_common()]
        slowest = sorted(self.took.items(), key=lambda item: -item[1])[:_SLOWEST]
        if any(name for name, _ in slowest):
            lines.append("  waited: " + ", ".join(f"{name} {seconds:.0f} s" for name, seconds in slowest))
        programs = (f"{name} {seconds} s" for name, seconds in self.computed.most_common() if seconds)
        lines.append("  computed: " + ", ".join(programs))
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
    target: Target[Any],
    directory: Path,
    *,
    seed: int,
    count: int,
    first: int = 0,
    is_over: Callable[[], bool] = lambda: False,
    tell: Callable[[Report], None] = lambda _: None,
) -> Report:
    """Check so many inputs, but begin none once it is over. Failed ones go into files.

    `tell` gets what is known after each thousand of them: a run that is killed then has not been for nothing.
    """
    report = Report(target=target.name, seed=seed, first=first)
    began, computed = time.monotonic(), cpu_seconds()

    def note() -> None:
        report.seconds = time.monotonic() - began
        report.computed = cpu_seconds() - computed
        report.late = usage(target.processes())

    numbers = iter(range(first, first + count))
    taken = 0

    async def work() -> None:
        nonlocal taken
        for number in numbers:
            if is_over() or len(report.findings) >= MOST_FINDINGS:
                return
            taken += 1
            if taken == min(count // 4, WARM) + 1:
                report.early = usage(target.processes())
            await _check(target, report, directory, number)
            if report.checked % TOLD == 0:
                note()
                tell(report)

    async with anyio.create_task_group() as tasks:
        for _ in range(target.at_once):
            tasks.start_soon(work)
    note()
    try:
        await target.afterwards()
    except Exception as error:
        report.aftermath = _told(error)
    report.late = usage(target.processes())
    return report


async def _check(target: Target[Any], report: Report, directory: Path, number: int) -> None:
    value = target.make(random_of(target.name, report.seed, number))
    path = directory / f"{target.name}-{report.seed}-{number}"
    _write(path, target.written(value))  # before it is checked: it may end this process
    began = time.monotonic()
    try:
        with anyio.fail_after(target.seconds):
            report.outcomes[await target.check(value)] += 1
        path.unlink()
    except Exception as error:
        report.findings.append(Finding(number=number, what=_told(error), path=path))
    kind = target.kind(value)
    report.took[kind] = report.took.get(kind, 0.0) + time.monotonic() - began


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _told(error: Exception) -> str:
    trace, place = error.__traceback__, ""
    while trace is not None:
        code = trace.tb_frame.f_code
        place, trace = f"{Path(code.co_filename).name}:{trace.tb_lineno}", trace.tb_next
    return f"{type(error).__name__} at {place}: {str(error)[:300]}"


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
