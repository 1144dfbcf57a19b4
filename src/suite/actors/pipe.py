"""The pipes between a model's process and its node: the spec on standard input, reports on standard output.

The node keeps the input open as long as it lives. When it closes, the process has nobody left to serve and
exits at once, whatever it is doing. A second line of the input says why the process is to end.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import threading
from pathlib import Path
from select import select
from typing import Final, NoReturn

import msgspec

from suite.errors import ModelUnloading, SuiteError, error_from_reply
from suite.messages.actor import ActorSpec, End, Report

_STDIN, _STDOUT, _STDERR = 0, 1, 2
_BLOCK = 65_536

STATM: Final = Path("/proc/self/statm")
"""Where Linux says how much memory this process has."""


class NodePipe:
    """This process's connection to its node."""

    def __init__(self, reports: int) -> None:
        self._reports = reports
        self.end_reason: SuiteError = ModelUnloading()
        """What clients get that are not done when the process is told to end."""

    @classmethod
    def claim(cls) -> NodePipe:
        """Reserve standard output for reports: all other output, also of C code, goes to standard error."""
        reports = os.dup(_STDOUT)
        os.dup2(_STDERR, _STDOUT)
        return cls(reports)

    def has_spec(self) -> bool:
        """Whether the node has sent something already."""
        return bool(select([_STDIN], [], [], 0)[0])

    def receive_spec(self) -> ActorSpec | None:
        """Wait for the first line of the input, which says what to load and how; None: the node has ended.

        Raises msgspec.MsgspecError for a line that is no spec.
        """
        line = _read_line()
        return msgspec.json.decode(line, type=ActorSpec) if line else None

    def end_with_node(self) -> None:
        """From now on, exit when the node closes the pipe or dies, and take its `End` for a SIGTERM."""
        threading.Thread(target=self._watch, name="node-watch", daemon=True).start()

    def report(self, report: Report) -> None:
        """Send a report to the node; any thread may call it. Exits the process if the node is gone."""
        line = memoryview(msgspec.json.encode(report) + b"\n")
        try:
            while line:
                line = line[os.write(self._reports, line) :]
        except OSError:
            exit_process(1)

    def _watch(self) -> None:
        try:
            while line := _read_line():
                end = msgspec.json.decode(line, type=End)
                self.end_reason = error_from_reply(end.code, end.message)
                os.kill(os.getpid(), signal.SIGTERM)
        finally:
            exit_process(1)


def exit_process(exit_code: int) -> NoReturn:
    """Exit now, without waiting for llama.cpp's thread; the system takes the memory back."""
    sys.stderr.flush()
    os._exit(exit_code)


def resident_bytes() -> int:
    """The resident set size of this process, in bytes, mapped weights included.

    Where the system does not say it, it is the largest that there was.
    """
    try:
        pages = int(STATM.read_bytes().split()[1])  # importing psutil takes far longer
        return pages * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak << 10  # only Linux counts in KiB


def _read_line() -> bytes:
    """Wait for a line from the node, which sends no second one before it had an answer to the first.

    Empty when the node has closed the pipe.
    """
    line = b""
    while not line.endswith(b"\n"):
        block = os.read(_STDIN, _BLOCK)
        if not block:
            return b""
        line += block
    return line
