"""Signals that end a command: all end it as Ctrl-C does, in order, with the exit code that shells expect."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

import click

_AS_INTERRUPT: Final = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))


class Received:
    """The signal that ended the command."""

    def __init__(self) -> None:
        self._signal: int = signal.SIGINT

    @property
    def exit_code(self) -> int:
        """128 and the number of the signal: 130 for Ctrl-C, 143 for SIGTERM."""
        return 128 + self._signal

    def interrupt(self, number: int, _: FrameType | None) -> None:
        """Remember the signal, and go on as if it had been Ctrl-C."""
        self._signal = number
        signal.raise_signal(signal.SIGINT)


def asked_to_end() -> bool:
    """Whether the interrupt that was raised is one of the whole command, and not just Ctrl-C."""
    context = click.get_current_context(silent=True)
    received = context.find_object(Received) if context is not None else None
    return received is not None and received.exit_code != 128 + signal.SIGINT


@contextmanager
def as_interrupts() -> Iterator[Received]:
    """While entered, SIGTERM and SIGHUP raise KeyboardInterrupt, so that a command cleans up.

    A command that installs handlers of its own, as `suite serve` does, replaces these.
    """
    received = Received()
    # A shell without job control starts background commands with Ctrl-C ignored: SIGTERM just ends them.
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    ):
        yield received
        return
    before = {number: signal.getsignal(number) for number in _AS_INTERRUPT}
    for number, handler in before.items():
        if handler is signal.SIG_DFL:  # ignored is what `nohup` asks for
            signal.signal(number, received.interrupt)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def newline_after_echo() -> None:
    """End the line on which the terminal has shown `^C`."""
    if sys.stderr.isatty():
        sys.stderr.write("\n")
        sys.stderr.flush()
