"""The `suite` command on a pseudo-terminal, whose screen an emulator shows as a person would see it."""

from __future__ import annotations

import fcntl
import os
import select
import struct
import sys
import termios
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from subprocess import Popen

import pyte

SUITE = (sys.executable, "-m", "suite")
CTRL_C, CTRL_D = b"\x03", b"\x04"

_SECONDS = 20.0
"""For what must happen; it bounds a hang."""
_LINES = 500


class Terminal:
    """A terminal in which one command runs."""

    def __init__(
        self, process: Popen[bytes], descriptor: int, columns: int, lines: int, seconds: float
    ) -> None:
        self.process = process
        self._seconds = seconds
        self._descriptor = descriptor
        self._screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self._screen)
        self._open = True
        self.received = bytearray()
        """All that was written to the terminal."""

    @property
    def rows(self) -> list[str]:
        """The lines of the screen, without the empty ones at its end."""
        shown = [row.rstrip() for row in self._screen.display]
        while shown and not shown[-1]:
            shown.pop()
        return shown

    @property
    def text(self) -> str:
        """The lines of the screen, as one text."""
        return "\n".join(self.rows)

    @property
    def at_line_start(self) -> bool:
        """Whether the next prompt of a shell would begin a line."""
        return bool(self._screen.cursor.x == 0)

    @property
    def cursor_is_hidden(self) -> bool:
        """Whether the cursor would be missing after this."""
        return bool(self._screen.cursor.hidden)

    def type(self, keys: bytes) -> None:
        """Press these keys."""
        os.write(self._descriptor, keys)

    def until(self, wanted: str, *, times: int = 1) -> None:
        """Wait until the screen shows this so many times."""
        self._read_until(lambda: self.text.count(wanted) >= times)
        assert self.text.count(wanted) >= times, f"no {wanted!r} on the screen:\n{self.text}"

    def until_gone(self, unwanted: str) -> None:
        """Wait until the screen shows this no more."""
        self._read_until(lambda: unwanted not in self.text)
        assert unwanted not in self.text, f"{unwanted!r} is still on the screen:\n{self.text}"

    def settle(self, quiet_seconds: float) -> None:
        """Show what comes, until nothing has come for so long."""
        while self._open and select.select([self._descriptor], [], [], quiet_seconds)[0]:
            self._receive()

    def ended(self) -> int:
        """Wait for the end of the command; its exit code."""
        self._read_until(lambda: not self._open)
        return self.process.wait(self._seconds)

    def _read_until(self, done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + self._seconds
        while not done() and self._open:
            left = deadline - time.monotonic()
            assert left > 0, f"nothing more came; the screen:\n{self.text}"
            if select.select([self._descriptor], [], [], left)[0]:
                self._receive()

    def _receive(self) -> None:
        try:
            data = os.read(self._descriptor, 65_536)
        except OSError:  # EIO: the last process of the terminal has gone
            data = b""
        self._open = bool(data)
        self.received += data
        self._stream.feed(data)


@contextmanager
def terminal(
    arguments: Sequence[str],
    *,
    columns: int = 80,
    lines: int = _LINES,
    environ: Mapping[str, str] | None = None,
    program: Sequence[str] = SUITE,
    seconds: float = _SECONDS,
) -> Iterator[Terminal]:
    """Run a command on a new terminal; it is killed if it has not ended when this is left.

    What must happen may take ``seconds``.
    """
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    clean = {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "LINES"}}
    process = Popen(
        [*program, *arguments],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**clean, "TERM": "xterm", "TZ": "UTC", **(environ or {})},
        preexec_fn=lambda: os.login_tty(theirs),  # noqa: PLW1509 - which makes Ctrl-C a signal
    )
    os.close(theirs)
    try:
        yield Terminal(process, ours, columns, lines, seconds)
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        process.wait()
        os.close(ours)
