"""Keeps a second nats-server from a store that a first one still uses.

A server whose node was killed ends in order, for then the next one reads its store several times as fast as
after a kill (docs/adr/0069). That takes a moment, in which the node may be back. So the server inherits a
locked file: the kernel unlocks it when both the node and the server have ended, however that happens.
"""

from __future__ import annotations

import fcntl
import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Final, Self

from suite.errors import DataDirInUse

PATIENCE_SECONDS: Final = 5.0
"""How long the server of a killed node may take to end in order; then it is killed."""
KILLED_SECONDS: Final = 5.0
_LOOK_SECONDS: Final = 0.02


class StoreLock:
    """The lock of one server's directory, held from `take` to `release`, and by processes that inherit it."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        """For the server to inherit."""

    @classmethod
    def take(cls, directory: Path) -> Self:
        """Take the lock when the server of before has ended; one that does not end is killed. Blocks.

        Raises DataDirInUse if somebody else keeps it, and OSError.
        """
        lock = cls(os.open(directory / "nats-server.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        if lock._comes_within(PATIENCE_SECONDS):
            return lock
        lock._kill_holder(directory)
        if lock._comes_within(KILLED_SECONDS):
            return lock
        lock.release()
        raise DataDirInUse(
            f"another nats-server uses {directory}: stop it, or choose another with --data-dir"
        )

    def note(self, pid: int) -> None:
        """Note which process has inherited the lock, for `take`, if the disk has room for that."""
        with suppress(OSError):
            os.ftruncate(self.descriptor, 0)
            os.pwrite(self.descriptor, b"%d\n" % pid, 0)

    def release(self) -> None:
        """Give it up; a server that still runs keeps it."""
        os.close(self.descriptor)

    def _comes_within(self, seconds: float) -> bool:
        until = time.monotonic() + seconds
        while True:
            try:
                fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > until:
                    return False
                time.sleep(_LOOK_SECONDS)
            except OSError:  # no locks on this disk
                return True
            else:
                return True

    def _kill_holder(self, directory: Path) -> None:
        """Kill the process that was noted, if it is a server of this directory: its id may be another's."""
        with suppress(OSError, ValueError, IndexError):
            pid = int(os.pread(self.descriptor, 32, 0))
            arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            configuration = os.fsdecode(arguments[arguments.index(b"-c") + 1])
            if Path(f"/proc/{pid}/cwd", configuration).samefile(directory / "nats-server.conf"):
                os.kill(pid, signal.SIGKILL)
