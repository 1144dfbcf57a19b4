"""Runs replays in processes: several at once, and those of somebody's own policy where they can be ended.

A policy of somebody's own may loop where nothing in its process can interrupt it: in C code, or while it
catches every exception. If it serves no request for a while, its process is killed, and the default policy
is replayed in its place.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, NamedTuple, TypeAlias

import msgspec

from suite.errors import InvalidRequest, SuiteError
from suite.machine import cpus
from suite.prediction.eviction.guarded import told
from suite.prediction.eviction.policies import DEFAULT
from suite.prediction.replay.history import History
from suite.prediction.replay.outcome import Outcome
from suite.prediction.replay.run import Run

PATIENCE_SECONDS: Final = 30.0
"""How long a policy of somebody's own may take to be imported, or for one request."""
LITTLE: Final = 100_000
"""So many requests, in all runs together, are not worth the start of other processes."""
_LOOK_SECONDS: Final = 0.25

Progress: TypeAlias = Callable[[float], None]


def outcomes_of(
    runs: Sequence[Run],
    history: History,
    *,
    progress: Progress = lambda _: None,
    patience_seconds: float = PATIENCE_SECONDS,
    apart: bool = True,
) -> list[Outcome]:
    """The outcomes of the runs, in their order. Raises InvalidRequest for a class that is no policy.

    `apart`: whether much work is done by other processes; policies of somebody's own always are.
    """
    is_done_here = not apart or len(runs) * len(history.requests) <= LITTLE
    here = [run for run in runs if is_done_here and not run.is_own]
    others = [run for run in runs if run not in here]
    share = len(here) / len(runs) if runs else 0.0
    outcomes = dict(_one_after_the_other(here, history, lambda done: progress(share * done)))
    if others:
        with TemporaryDirectory(prefix="suite-replay-") as directory:
            path = Path(directory) / "history"
            path.write_bytes(msgspec.msgpack.encode(history))
            pool = _Pool(others, path, len(history.requests), patience_seconds)
            outcomes |= pool.outcomes(lambda done: progress(share + (1 - share) * done))
    return [outcomes[run] for run in runs]


def _one_after_the_other(
    runs: Sequence[Run], history: History, progress: Progress
) -> Iterator[tuple[Run, Outcome]]:
    for done, run in enumerate(runs, 1):
        yield run, run.outcome(history)
        progress(done / len(runs))


class _Pool:
    """The processes of all runs, so many at once as there are CPUs."""

    def __init__(self, runs: Sequence[Run], history: Path, requests: int, patience_seconds: float) -> None:
        self._waiting = deque(_Process(run, history, patience_seconds) for run in runs)
        self._all = tuple(self._waiting)
        self._running: list[_Process] = []
        self._requests = len(runs) * requests

    def outcomes(self, progress: Progress) -> dict[Run, Outcome]:
        """Have all runs replayed."""
        try:
            while self._waiting or self._running:
                self._begin()
                wait([process.connection for process in self._running], _LOOK_SECONDS)
                self._running = [process for process in self._running if not process.has_ended()]
                progress(min(sum(process.served for process in self._all) / self._requests, 1.0))
        finally:
            for process in self._running:
                process.end()
        return {process.run: process.outcome for process in self._all if process.outcome is not None}

    def _begin(self) -> None:
        most = cpus().value
        while self._waiting and len(self._running) < most:
            process = self._waiting.popleft()
            process.begin()
            self._running.append(process)


class _Failed(NamedTuple):
    """What such a process sends where it should not have failed."""

    problem: str


class _Process:
    """A run that is replayed by a process, and by another with the default policy if that has to be ended."""

    connection: Connection
    """Where the outcome will come from."""

    def __init__(self, run: Run, history: Path, patience_seconds: float) -> None:
        self.outcome: Outcome | None = None
        self.run = run
        self._history = history
        self._patience_seconds = patience_seconds
        self._remark = ""
        self._context = multiprocessing.get_context("spawn")
        self._served = self._context.RawValue("Q", 0)
        self._seen, self._seen_at = 0, 0.0

    @property
    def served(self) -> int:
        """How many requests it has served."""
        return int(self._served.value)

    def begin(self) -> None:
        """Start the process."""
        run = self.run.by_default() if self._remark else self.run
        self._served.value, self._seen, self._seen_at = 0, 0, time.monotonic()
        self.connection, theirs = self._context.Pipe(duplex=False)
        arguments = (run, self._history, theirs, self._served)
        self._process = self._context.Process(target=_replay, args=arguments, daemon=True)
        with _interrupts_blocked():
            self._process.start()
        theirs.close()

    def has_ended(self) -> bool:
        """Whether there is an outcome. Raises InvalidRequest if it can't be: the class is no policy."""
        if self.connection.poll():
            self._receive()
        elif self.run.is_own and not self._remark and self._silent_seconds() > self._patience_seconds:
            self._go_on_by_default(
                f"did not answer for {self._patience_seconds:g} s and was ended with its process"
            )
        return self.outcome is not None

    def end(self) -> None:
        """Have it end, whatever it does."""
        self._process.kill()
        self._process.join()
        self.connection.close()

    def _receive(self) -> None:
        try:
            answer: Outcome | _Failed | str = self.connection.recv()
        except EOFError:
            answer = _Failed("")
        if isinstance(answer, _Failed):
            self._fail(answer.problem)
            return
        self.end()
        if isinstance(answer, str):
            raise InvalidRequest(answer)
        self.outcome = msgspec.structs.replace(
            answer, policy=self.run.policy, remark=self._remark or answer.remark
        )

    def _fail(self, problem: str) -> None:
        """Go on after a failure of somebody's own policy. Raises SuiteError where there is none."""
        if self.run.is_own and not self._remark:
            self._go_on_by_default(f"made the replay fail with {problem}" if problem else "ended the process")
        elif problem:
            raise SuiteError(f"a process that replays has failed: {problem}")
        else:
            raise SuiteError("a process that replays has ended: is there enough memory?")

    def _go_on_by_default(self, problem: str) -> None:
        self.end()
        self._remark = f"{problem}: {DEFAULT} was replayed in its place"
        self.begin()

    def _silent_seconds(self) -> float:
        """For how long it has served no request, since its work began."""
        now = time.monotonic()
        if not self.served or self.served != self._seen:
            self._seen, self._seen_at = self.served, now
        return now - self._seen_at


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """A process that is started meanwhile does not see Ctrl-C: whoever started it ends it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _replay(run: Run, path: Path, answers: Connection, served: Any) -> None:
    """What such a process does."""
    history = msgspec.msgpack.decode(path.read_bytes(), type=History)

    def beat() -> None:
        served.value += 1

    os.dup2(2, 1)  # what somebody's own policy prints is no part of the figures
    beat()
    try:
        answers.send(run.outcome(history, beat=beat))
    except InvalidRequest as error:
        answers.send(error.message)
    except Exception as error:
        answers.send(_Failed(told(error)))
