"""The pipes between a model's process and its node: what to do on standard input, reports on standard output.

The node keeps the input open for as long as it lives. Its end means that nobody is left to serve, and the
process ends at once, whatever it is doing.
"""

from __future__ import annotations

import os
import sys
import threading
from typing import NoReturn

import msgspec

from suite.messages.actor import ActorSpec, Report

_STDIN, _STDOUT, _STDERR = 0, 1, 2
_BLOCK = 65_536


class NodePipe:
    """This process's connection to its node."""

    def __init__(self, reports: int) -> None:
        self._reports = reports

    @classmethod
    def claim(cls) -> NodePipe:
        """Keep standard output for reports: what else is printed, by C code too, goes to standard error."""
        reports = os.dup(_STDOUT)
        os.dup2(_STDERR, _STDOUT)
        return cls(reports)

    def receive_spec(self) -> ActorSpec | None:
        """Wait for the first line of the input: what to load and how; None when the node has ended before.

        Raises msgspec.MsgspecError.
        """
        line = b""
        while not line.endswith(b"\n"):
            block = os.read(_STDIN, _BLOCK)
            if not block:
                return None
            line += block
        return msgspec.json.decode(line, type=ActorSpec)

    def end_with_node(self) -> None:
        """From now on, end this process when the node closes its end or dies."""
        threading.Thread(target=_watch, name="node-watch", daemon=True).start()

    def report(self, report: Report) -> None:
        """Tell the node; from any thread. A line is written at once and whole, or the node is gone."""
        line = memoryview(msgspec.json.encode(report) + b"\n")
        try:
            while line:
                line = line[os.write(self._reports, line) :]
        except OSError:
            leave(1)


def leave(exit_code: int) -> NoReturn:
    """End the process now, without waiting for llama.cpp's thread; the system takes the memory back."""
    sys.stderr.flush()
    os._exit(exit_code)


def resident_bytes() -> int:
    """The resident set of this process, mapped weights included."""
    try:
        with open("/proc/self/statm", "rb") as file:  # noqa: PTH123 - far quicker to have than psutil
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        import psutil

        return int(psutil.Process().memory_info().rss)


def _watch() -> None:
    try:
        while os.read(_STDIN, _BLOCK):
            pass
    finally:
        leave(1)
