"""Start a program that dies with its parent: ``python parent.py PARENT_PID SIGNAL PROGRAM ARGUMENT...``.

On Linux, the kernel sends this process a signal when the thread that started it ends (prctl(2),
PR_SET_PDEATHSIG). This survives the exec and works however the parent dies. A parent that died before the
call is detected by its pid. On other systems the program is started without this protection.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def command(*arguments: str, death: signal.Signals = signal.SIGKILL) -> list[str]:
    """The command line that starts a program as a child which does not outlive this process.

    ``death`` is the signal that it gets; with another than SIGKILL it must end by itself. Spawn it from the
    main thread: the kernel watches the thread that spawns, not the process.
    """
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), str(int(death)), *arguments]


def main() -> None:
    """Tie this process to its parent, then become the program."""
    parent, death, program = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, death, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit("the parent is gone")
    os.execvp(program[0], program)


if __name__ == "__main__":
    main()
