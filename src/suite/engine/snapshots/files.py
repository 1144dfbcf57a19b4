"""Keeps account of the snapshot files in a folder, and evicts the least valuable ones to keep to the budget.

A file counts in the budget from before its first byte is written until after it is removed.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from pathlib import Path
from typing import NamedTuple

from suite.engine.snapshots.folder import SUPERSEDED, WHOLE, unlink

_HALF_LIFE_SECONDS = 600.0


def retention_score(tokens: int, size: int, used: float) -> float:
    """How much a snapshot is worth keeping: the higher, the more.

    Its value is the tokens that it saves decoding for each byte, halved every ten minutes without use. The
    score is the logarithm of this, without the part that is the same for all snapshots at any one time, so
    that it does not change as time passes. `used` is the time of the last use in epoch seconds.
    """
    return math.log2(tokens / size) + used / _HALF_LIFE_SECONDS


class FileEntry(NamedTuple):
    """A complete snapshot file."""

    tokens: int
    size: int
    used: float
    """When it was last used, in epoch seconds."""
    superseded: bool
    """Whether the conversation has continued since, so that it must not be continued from this state."""

    @property
    def retention_score(self) -> float:
        """The file with the lowest score is evicted first."""
        return retention_score(self.tokens, self.size, self.used)


class SnapshotFiles:
    """The snapshot files of one folder and their budget. Two threads may use it."""

    def __init__(self, folder: Path, *, budget: int, lock: threading.Condition) -> None:
        """The caller must hold `lock`, except for `sweep` and `reserve`: these acquire it, and may block."""
        self.total = 0
        """Bytes in use or reserved."""
        self.garbage: deque[tuple[Path, int]] = deque()
        """Files to remove, with their sizes."""
        self._folder = folder
        self._budget = budget
        self._lock = lock
        self._files: dict[str, FileEntry] = {}
        self._evicted: list[str] = []

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def path(self, name: str) -> Path:
        """The path of the file of this name."""
        return self.path_for(name, superseded=self._files[name].superseded)

    def path_for(self, name: str, *, superseded: bool) -> Path:
        """The path that a file of this name must have."""
        return self._folder / (name + (SUPERSEDED if superseded else WHOLE))

    def add_existing(self, name: str, file: FileEntry) -> None:
        """Count a file that existed already."""
        self._files[name] = file
        self.total += file.size

    def add_written(self, name: str, file: FileEntry) -> None:
        """Add a file for which room was reserved."""
        self._files[name] = file

    def release(self, size: int) -> None:
        """Give reserved bytes back to the budget."""
        self.total -= size

    def touch(self, name: str, used: float) -> bool:
        """Record when a file was last used (epoch seconds). False: there is no such file."""
        if (file := self._files.get(name)) is None:
            return False
        self._files[name] = file._replace(used=used)
        return True

    def supersede(self, name: str) -> None:
        """Rename a file to show that its conversation must not be continued from it."""
        if (file := self._files.get(name)) is None or file.superseded:
            return
        try:
            self.path(name).rename(self.path_for(name, superseded=True))
        except OSError:  # it has gone, or could be taken for the latest state after a crash
            self.schedule_removal(name)
            self._evicted.append(name)
        else:
            self._files[name] = file._replace(superseded=True)

    def schedule_removal(self, name: str) -> None:
        """Have a file removed by the next `sweep`."""
        if (file := self._files.get(name)) is not None:
            self.garbage.append((self.path(name), file.size))
            del self._files[name]

    def pop_evicted(self) -> list[str]:
        """The names of the files evicted since the last call."""
        evicted, self._evicted = self._evicted, []
        return evicted

    def sweep(self) -> None:
        """Remove the files that are scheduled for removal; the lock is not held during disk operations."""
        while True:
            with self._lock:
                if not self.garbage:
                    self._lock.notify_all()
                    return
                path, size = self.garbage.popleft()
            if unlink(path):  # else it still counts in the budget
                with self._lock:
                    self.total -= size

    def reserve(self, size: int, value: float) -> bool:
        """Reserve bytes of the budget, evicting files of lower score if needed. False: that is not enough."""
        self.sweep()
        with self._lock:
            missing = self.total + size - self._budget
            victims = []
            for name, file in sorted(self._files.items(), key=lambda item: item[1].retention_score):
                if missing <= 0 or file.retention_score >= value:
                    break
                victims.append(name)
                missing -= file.size
            if missing > 0:
                return False
            for name in victims:
                self.schedule_removal(name)
            self._evicted += victims
        self.sweep()
        with self._lock:
            if self.total + size > self._budget:  # something could not be removed
                return False
            self.total += size
            return True
