"""What the exit code of a process says about its end."""

from __future__ import annotations

import signal
from typing import Final

FILE_CUT: Final = "the model's file was overwritten or cut short while it was loaded"


def described(exit_code: int) -> str:
    """The exit code, with the name of the signal that ended the process and what it means, if one did."""
    try:
        number = signal.Signals(-exit_code)
    except ValueError:
        return f"exit code {exit_code}"
    meaning = f": {FILE_CUT}" if was_file_cut(exit_code) else ""
    return f"exit code {exit_code} ({number.name}{meaning})"


def was_file_cut(exit_code: int) -> bool:
    """Whether the process read a part of its mapped file that is no longer there."""
    return exit_code == -signal.SIGBUS
