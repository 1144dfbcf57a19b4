"""The files of the snapshots of one key, under a budget, written by a thread of their own.

A file is written under another name and renamed when it is whole. The budget is that of the key's own folder.
The node removes files of any key, those that have expired and those that are to be forgotten: what is missing
is gone. Whoever uses the directory offers what it holds in memory anyway and never waits for a disk to write:
what the queue does not take is not written.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from suite.engine.snapshots import file as snapshot_file
from suite.engine.snapshots.file import TOKEN_BYTES, Header, Payload, Unusable
from suite.engine.snapshots.files import File, SnapshotFiles
from suite.engine.snapshots.folder import (
    PARTIAL,
    SUPERSEDED,
    WHOLE,
    folder_of,
    make_private,
    remove_unusable,
    unlink,
)

_log = logging.getLogger("suite.engine")

_QUEUE = 16
"""Snapshots that wait to be written; their bytes are in the memory budget of whoever offered them."""

_END_SECONDS = 1.0
"""What a thread told to end may take for the piece of a file that it is at."""


@dataclass(kw_only=True, eq=False)
class Job:
    """A snapshot on its way to its file."""

    name: str
    conversation_id: str
    tokens: bytes
    tail: tuple[int, ...] | None
    """What was said after the tokens; None: the conversation cannot go on from here."""
    shortest: int
    payload: Payload
    used: float
    cancelled: bool = False


class Kept(NamedTuple):
    """A file that was there already."""

    name: str
    header: Header
    tokens: bytes
    tail: tuple[int, ...] | None
    """None also where the conversation has gone on since."""
    size: int
    used: float


class SnapshotDirectory:
    """Used by one thread beside its own."""

    def __init__(self, directory: Path, *, key: str, budget: int) -> None:
        """Raises OSError where the directory cannot be made or is not ours to use."""
        self._folder = folder_of(directory, key)
        self._key = key
        self._touched: dict[str, float] = {}
        """Files whose time of use is to be noted."""
        self._unwritten: list[str] = []
        self._queue: deque[Job] = deque()
        self._in_hand: Job | None = None
        self._closing = False
        self._changed = threading.Condition()
        self._files = SnapshotFiles(self._folder, budget=budget, lock=self._changed)
        make_private(self._folder)
        self._thread = threading.Thread(target=self._work, name="snapshots", daemon=True)

    def start(self) -> list[Kept]:
        """What is there already, and begin to write. What is damaged is removed. Raises OSError."""
        kept = []
        for path in sorted(self._folder.iterdir()):
            if path.suffix == PARTIAL:
                unlink(path)
            elif path.suffix in (WHOLE, SUPERSEDED) and (found := self._read_beginning(path)) is not None:
                kept.append(found)
                superseded = path.suffix == SUPERSEDED
                file = File(found.header.tokens, found.size, found.used, superseded)
                self._files.found(found.name, file)
        self._files.reserve(0, math.inf)
        self._thread.start()
        return kept

    def _read_beginning(self, path: Path) -> Kept | None:
        try:
            header, tokens = snapshot_file.read_beginning(path, self._key)
            state = path.stat()
        except FileNotFoundError:
            return None
        except (Unusable, OSError) as error:
            remove_unusable(path, error)
            return None
        tail = header.tail if path.suffix == WHOLE else None
        return Kept(path.stem, header, tokens, tail, state.st_size, state.st_mtime)

    @property
    def total(self) -> int:
        """Bytes of the files there are; of one that is being written, those it is going to have."""
        return self._files.total

    def offer(self, job: Job) -> bool:
        """Have this written when its turn comes. False: too many wait."""
        with self._changed:
            if len(self._queue) >= _QUEUE or self._closing:
                return False
            self._queue.append(job)
            self._changed.notify_all()
            return True

    def hand(self, job: Job) -> bool:
        """Have this written at once. False: another is being written, or waits."""
        with self._changed:
            if self._queue or self._in_hand or self._closing:
                return False
            self._in_hand = job
            self._changed.notify_all()
            return True

    def withdraw(self, name: str) -> None:
        """Have this one not written, if it still waits."""
        with self._changed:
            if (job := self._job(name)) is not None and job is not self._in_hand:
                self._queue.remove(job)

    def knows(self, name: str) -> bool:
        """Whether it is on its way, or there."""
        with self._changed:
            return name in self._files or self._job(name) is not None

    def has_file(self, name: str) -> bool:
        """Whether its file is there."""
        return name in self._files

    def lost(self) -> list[str]:
        """What has gone since this was asked last: to make room, or because it was not written."""
        with self._changed:
            lost, self._unwritten = self._unwritten + self._files.take_evicted(), []
            return lost

    def touch(self, name: str, used: float) -> None:
        """Note when it was used."""
        with self._changed:
            if self._files.touch(name, used):
                self._touched[name] = used
                self._changed.notify_all()
            elif (job := self._job(name)) is not None:
                job.used = used

    def supersede(self, name: str) -> None:
        """Have its conversation never go on from it, once this returns."""
        with self._changed:
            if (job := self._job(name)) is not None:
                job.tail = None
            self._files.supersede(name)

    def is_there(self, name: str) -> bool:
        """Whether it waits to be written, or its file is still where it was put."""
        with self._changed:
            if self._job(name) is not None:
                return True
            return name in self._files and self._files.path(name).exists()

    def read(self, name: str, tokens: bytes) -> Payload | None:
        """The payload of these tokens, verified. None: it has gone, or was damaged and is removed."""
        with self._changed:
            if (job := self._job(name)) is not None:
                return job.payload
            if name not in self._files:
                return None
            path = self._files.path(name)
        try:
            return snapshot_file.read_payload(path, self._key, tokens)
        except FileNotFoundError:
            _log.warning("the snapshot %s has gone: its tokens are computed again", path.name)
        except (Unusable, OSError) as error:
            remove_unusable(path, error)
        self.discard(name)
        return None

    def discard(self, name: str) -> None:
        """Remove it some time; not before what waits is written, which may be its successor."""
        with self._changed:
            self._give_up(name)
            self._changed.notify_all()

    def remove(self, names: Iterable[str]) -> None:
        """Remove these before this returns, and what else is to be removed."""
        with self._changed:
            for name in names:
                self._give_up(name)
        self._files.sweep()

    def drain(self, seconds: float) -> bool:
        """Wait until everything is written and removed; False: it takes longer."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._has_work(), seconds)

    def wait_for_room(self, seconds: float) -> bool:
        """Wait until the queue takes one more; False: it takes longer."""
        with self._changed:
            return self._changed.wait_for(lambda: len(self._queue) < _QUEUE, seconds)

    def close(self) -> None:
        """End the thread, in the middle of a file if need be; what waits is not written."""
        with self._changed:
            self._closing = True
            self._queue.clear()
            self._changed.notify_all()
        self._thread.join(_END_SECONDS)

    def _job(self, name: str) -> Job | None:
        if self._in_hand is not None and self._in_hand.name == name:
            return self._in_hand
        return next((job for job in self._queue if job.name == name), None)

    def _has_work(self) -> bool:
        return bool(self._in_hand or self._queue or self._files.garbage or self._touched)

    def _give_up(self, name: str) -> None:
        """Forget of it whatever there is. With the lock held."""
        if (job := self._job(name)) is not None:
            job.cancelled = True
            if job is not self._in_hand:
                self._queue.remove(job)
        self._files.give_up(name)
        self._touched.pop(name, None)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._has_work() or self._closing)
                if self._closing:
                    return
                if self._in_hand is None and self._queue:
                    self._in_hand = self._queue.popleft()
                    self._changed.notify_all()
            if self._in_hand is not None:
                self._write(self._in_hand)
            else:
                self._files.sweep()
                self._note_times()

    def _note_times(self) -> None:
        with self._changed:
            touched, self._touched = self._touched, {}
            for name, used in touched.items():
                if name not in self._files:
                    continue
                with contextlib.suppress(OSError):  # it has gone: whoever reads it hears of it
                    os.utime(self._files.path(name), (used, used))
            self._changed.notify_all()

    def _write(self, job: Job) -> None:
        partial = self._folder / (job.name + PARTIAL)
        size = 0
        written = False
        try:
            beginning = snapshot_file.encode(
                self._key,
                job.conversation_id,
                job.tokens,
                job.payload,
                shortest=job.shortest,
                tail=job.tail,
            )
            needed = len(beginning) + len(job.payload)
            file = File(len(job.tokens) // TOKEN_BYTES, needed, job.used, job.tail is None)
            if self._files.reserve(needed, file.worth):
                size = needed
                make_private(self._folder)  # another process may have removed it as empty
                written = snapshot_file.write(
                    partial,
                    (beginning, job.payload),
                    used=job.used,
                    go_on=lambda: not (job.cancelled or self._closing),
                ) and self._settle(job, partial, file)
        except OSError as error:
            _log.warning("a snapshot of %d bytes could not be written: %s", len(job.payload), error.strerror)
        except Exception:
            _log.exception("a snapshot could not be written")
        if size and not written:
            unlink(partial)
        with self._changed:
            self._in_hand = None
            if not written:
                self._files.release(size)
                self._unwritten.append(job.name)
            self._changed.notify_all()

    def _settle(self, job: Job, partial: Path, file: File) -> bool:
        """Give a whole file its name, unless it is not wanted any more."""
        with self._changed:
            if job.cancelled:
                return False
            superseded = job.tail is None  # it may be so only since it was begun
            partial.replace(self._files.place(job.name, superseded=superseded))
            self._files.written(job.name, file._replace(used=job.used, superseded=superseded))
            return True
