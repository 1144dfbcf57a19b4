"""Which files of snapshots there are, and which of them make room for another.

The budget counts a file from before its first byte is written until after it is removed.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from pathlib import Path
from typing import NamedTuple

from suite.engine.snapshots.folder import SUPERSEDED, WHOLE, unlink

_HALF_LIFE_SECONDS = 600.0


def worth(tokens: int, size: int, used: float) -> float:
    """What a snapshot is worth: tokens a byte that need not be computed again, halved each ten minutes idle.

    It is the logarithm, up to what is the same for all at any one time, so it need not be computed anew as
    time goes by. `used` is the time of the last use in epoch seconds.
    """
    return math.log2(tokens / size) + used / _HALF_LIFE_SECONDS


class File(NamedTuple):
    """A whole file."""

    tokens: int
    size: int
    used: float
    """When it was used last, in epoch seconds."""
    superseded: bool
    """The conversation has gone on since, so it must not be continued from here."""

    @property
    def worth(self) -> float:
        """What counts when there is no room for all."""
        return worth(self.tokens, self.size, self.used)


class SnapshotFiles:
    """The files of one folder; those that take them away and those that ask may be two threads."""

    def __init__(self, folder: Path, *, budget: int, lock: threading.Condition) -> None:
        """`lock` is held by whoever calls, but for `sweep` and `reserve`, which take it; both may block."""
        self.total = 0
        """Bytes that are in use or reserved."""
        self.garbage: deque[tuple[Path, int]] = deque()
        """Files to remove, with their sizes."""
        self._folder = folder
        self._budget = budget
        self._lock = lock
        self._files: dict[str, File] = {}
        self._evicted: list[str] = []

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def path(self, name: str) -> Path:
        """Where the file of this name lies."""
        return self.place(name, superseded=self._files[name].superseded)

    def place(self, name: str, *, superseded: bool) -> Path:
        """Where a file of this name has to lie."""
        return self._folder / (name + (SUPERSEDED if superseded else WHOLE))

    def found(self, name: str, file: File) -> None:
        """Count a file that is there already."""
        self._files[name] = file
        self.total += file.size

    def written(self, name: str, file: File) -> None:
        """Note a file for which room was reserved."""
        self._files[name] = file

    def release(self, size: int) -> None:
        """Give reserved room back."""
        self.total -= size

    def touch(self, name: str, used: float) -> bool:
        """Note when it was used; False: there is no such file."""
        if (file := self._files.get(name)) is None:
            return False
        self._files[name] = file._replace(used=used)
        return True

    def supersede(self, name: str) -> None:
        """Have its name tell that it must not be continued, before this returns."""
        if (file := self._files.get(name)) is None or file.superseded:
            return
        try:
            self.path(name).rename(self.place(name, superseded=True))
        except OSError:  # it has gone, or could be taken for the latest state after a crash
            self.give_up(name)
            self._evicted.append(name)
        else:
            self._files[name] = file._replace(superseded=True)

    def give_up(self, name: str) -> None:
        """Have a file removed with the next sweep."""
        if (file := self._files.get(name)) is not None:
            self.garbage.append((self.path(name), file.size))
            del self._files[name]

    def take_evicted(self) -> list[str]:
        """What has made room since this was asked last."""
        evicted, self._evicted = self._evicted, []
        return evicted

    def sweep(self) -> None:
        """Remove what is to be removed, without the lock while the disk works."""
        while True:
            with self._lock:
                if not self.garbage:
                    self._lock.notify_all()
                    return
                path, size = self.garbage.popleft()
            if unlink(path):  # else it goes on counting
                with self._lock:
                    self.total -= size

    def reserve(self, size: int, value: float) -> bool:
        """Take this much of the budget, from files worth less if need be. False: they are not enough."""
        self.sweep()
        with self._lock:
            missing = self.total + size - self._budget
            victims = []
            for name, file in sorted(self._files.items(), key=lambda item: item[1].worth):
                if missing <= 0 or file.worth >= value:
                    break
                victims.append(name)
                missing -= file.size
            if missing > 0:
                return False
            for name in victims:
                self.give_up(name)
            self._evicted += victims
        self.sweep()
        with self._lock:
            if self.total + size > self._budget:  # something could not be removed
                return False
            self.total += size
            return True
