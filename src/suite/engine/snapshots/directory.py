"""The snapshot files of one key, within a disk budget, written by a background thread.

A file is written under a temporary name and renamed when it is complete. The budget applies to the key's own
folder; what other keys have left beside it is removed when the directory is opened, as nothing reads it. The
node may remove files of any key, because they expired or are to be forgotten; a missing file counts as
removed. The caller never waits for a disk to write: it still has the snapshot in memory, and when the queue
is full, the snapshot is not written.
"""

from __future__ import annotations

import contextlib
import logging
import math
import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from suite.engine.snapshots import file as snapshot_file
from suite.engine.snapshots.file import TOKEN_BYTES, Header, InvalidSnapshotFile, Payload
from suite.engine.snapshots.files import FileEntry, SnapshotFiles
from suite.engine.snapshots.folder import (
    PARTIAL,
    SUPERSEDED,
    WHOLE,
    folder_of,
    make_private,
    remove_invalid,
    remove_other_keys,
    unlink,
)

_log = logging.getLogger("suite.engine")

_QUEUE = 16
"""The most snapshots that wait to be written; their bytes count in the memory budget of the caller."""

_END_SECONDS = 1.0
"""How long to wait for the thread to end; it finishes the piece of a file that it is writing."""


@dataclass(kw_only=True, eq=False)
class WriteJob:
    """A snapshot that is to be written to its file."""

    name: str
    conversation_id: str
    tokens: bytes
    tail: tuple[int, ...] | None
    """Sampled after the tokens, not part of the state; None: the conversation cannot be continued from it."""
    min_prefix: int
    payload: Payload
    used: float
    adapters: str = ""
    """The key of those that it was decoded with; empty: without any."""
    cancelled: bool = False


class ExistingFile(NamedTuple):
    """A file that was there when the directory was opened."""

    name: str
    header: Header
    tokens: bytes
    tail: tuple[int, ...] | None
    """As in `WriteJob`; None also if the conversation has continued since."""
    size: int
    used: float
    adapters: str


class SnapshotDirectory:
    """The snapshot files of one key. One thread may use it, beside its own writing thread."""

    def __init__(self, directory: Path, *, key: str, budget: int) -> None:
        """Raises OSError when the directory cannot be made or used."""
        self._folder = folder_of(directory, key)
        self._key = key
        self._touched: dict[str, float] = {}
        """The times of last use that are still to be written to the files."""
        self._unwritten: list[str] = []
        self._queue: deque[WriteJob] = deque()
        self._writing: WriteJob | None = None
        self._closing = False
        self._changed = threading.Condition()
        self._files = SnapshotFiles(self._folder, budget=budget, lock=self._changed)
        make_private(self._folder)
        remove_other_keys(directory, key)
        self._thread = threading.Thread(target=self._work, name="snapshots", daemon=True)

    def start(self) -> list[ExistingFile]:
        """Start the writing thread and return the files that exist. Removes damaged ones. Raises OSError."""
        kept = []
        for path in sorted(self._folder.iterdir()):
            if path.suffix == PARTIAL:
                unlink(path)
            elif path.suffix in (WHOLE, SUPERSEDED) and (found := self._read_preamble(path)) is not None:
                kept.append(found)
                superseded = path.suffix == SUPERSEDED
                file = FileEntry(found.header.tokens, found.size, found.used, superseded)
                self._files.add_existing(found.name, file)
        self._files.reserve(0, math.inf)
        self._thread.start()
        return kept

    def _read_preamble(self, path: Path) -> ExistingFile | None:
        try:
            header, tokens, adapters = snapshot_file.read_preamble(path, self._key)
            state = path.stat()
        except FileNotFoundError:
            return None
        except (InvalidSnapshotFile, OSError) as error:
            remove_invalid(path, error)
            return None
        tail = header.tail if path.suffix == WHOLE else None
        return ExistingFile(path.stem, header, tokens, tail, state.st_size, state.st_mtime, adapters)

    @property
    def total(self) -> int:
        """Bytes of all files, with the final size of the one that is being written."""
        return self._files.total

    def enqueue(self, job: WriteJob) -> bool:
        """Queue a snapshot to be written. False: the queue is full."""
        with self._changed:
            if len(self._queue) >= _QUEUE or self._closing:
                return False
            self._queue.append(job)
            self._changed.notify_all()
            return True

    def write_now(self, job: WriteJob) -> bool:
        """Have a snapshot written at once, without queueing. False: another is being written, or queued."""
        with self._changed:
            if self._queue or self._writing or self._closing:
                return False
            self._writing = job
            self._changed.notify_all()
            return True

    def cancel(self, name: str) -> None:
        """Take a snapshot out of the queue, if it is not being written yet."""
        with self._changed:
            if (job := self._job(name)) is not None and job is not self._writing:
                self._queue.remove(job)

    def is_tracked(self, name: str) -> bool:
        """Whether a snapshot is queued, is being written, or has a file."""
        with self._changed:
            return name in self._files or self._job(name) is not None

    def has_file(self, name: str) -> bool:
        """Whether a snapshot's file was written and not removed here."""
        return name in self._files

    def pop_lost(self) -> list[str]:
        """The snapshots lost since the last call: evicted to make room, or not written."""
        with self._changed:
            lost, self._unwritten = self._unwritten + self._files.pop_evicted(), []
            return lost

    def touch(self, name: str, used: float) -> None:
        """Record when a snapshot was last used (epoch seconds)."""
        with self._changed:
            if self._files.touch(name, used):
                self._touched[name] = used
                self._changed.notify_all()
            elif (job := self._job(name)) is not None:
                job.used = used

    def supersede(self, name: str) -> None:
        """Record durably, before returning, that a snapshot is no longer its conversation's latest state."""
        with self._changed:
            if (job := self._job(name)) is not None:
                job.tail = None
            self._files.supersede(name)

    def still_exists(self, name: str) -> bool:
        """Whether a snapshot is queued or being written, or its file really exists on disk."""
        with self._changed:
            if self._job(name) is not None:
                return True
            return name in self._files and self._files.path(name).exists()

    def read(self, name: str, tokens: bytes) -> Payload | None:
        """Read and verify the state of these tokens. None: it is gone, or was damaged and is now removed."""
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
        except (InvalidSnapshotFile, OSError) as error:
            remove_invalid(path, error)
        self.remove_later(name)
        return None

    def remove_later(self, name: str) -> None:
        """Remove a snapshot in the background, after the queue is written, which may have its successor."""
        with self._changed:
            self._schedule_removal(name)
            self._changed.notify_all()

    def remove(self, names: Iterable[str]) -> None:
        """Remove snapshots before returning, with all others whose removal is pending."""
        with self._changed:
            for name in names:
                self._schedule_removal(name)
        self._files.sweep()

    def drain(self, seconds: float) -> bool:
        """Wait until everything is written and removed. False: it takes longer than this."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._has_work(), seconds)

    def wait_for_room(self, seconds: float) -> bool:
        """Wait until the queue has room for one more. False: it takes longer than this."""
        with self._changed:
            return self._changed.wait_for(lambda: len(self._queue) < _QUEUE, seconds)

    def close(self) -> None:
        """End the thread, even in the middle of a file. Queued snapshots are not written."""
        with self._changed:
            self._closing = True
            self._queue.clear()
            self._changed.notify_all()
        self._thread.join(_END_SECONDS)

    def _job(self, name: str) -> WriteJob | None:
        if self._writing is not None and self._writing.name == name:
            return self._writing
        return next((job for job in self._queue if job.name == name), None)

    def _has_work(self) -> bool:
        return bool(self._writing or self._queue or self._files.garbage or self._touched)

    def _schedule_removal(self, name: str) -> None:
        """Cancel a snapshot's job and schedule the removal of its file. The lock must be held."""
        if (job := self._job(name)) is not None:
            job.cancelled = True
            if job is not self._writing:
                self._queue.remove(job)
        self._files.schedule_removal(name)
        self._touched.pop(name, None)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._has_work() or self._closing)
                if self._closing:
                    return
                if self._writing is None and self._queue:
                    self._writing = self._queue.popleft()
                    self._changed.notify_all()
            if self._writing is not None:
                self._write(self._writing)
            else:
                self._files.sweep()
                self._note_times()

    def _note_times(self) -> None:
        with self._changed:
            touched, self._touched = self._touched, {}
            for name, used in touched.items():
                if name not in self._files:
                    continue
                with contextlib.suppress(InvalidSnapshotFile, OSError):  # it is gone, as the next read tells
                    snapshot_file.mark_used(self._files.path(name), used)
            self._changed.notify_all()

    def _write(self, job: WriteJob) -> None:
        partial = self._folder / (job.name + PARTIAL)
        size = 0
        written = False
        try:
            beginning = snapshot_file.encode(
                self._key,
                job.conversation_id,
                job.tokens,
                job.payload,
                min_prefix=job.min_prefix,
                tail=job.tail,
                adapters=job.adapters,
            )
            needed = len(beginning) + len(job.payload)
            file = FileEntry(len(job.tokens) // TOKEN_BYTES, needed, job.used, job.tail is None)
            if self._files.reserve(needed, file.retention_score):
                size = needed
                make_private(self._folder)  # another process may have removed the empty folder
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
            self._writing = None
            if not written:
                self._files.release(size)
                self._unwritten.append(job.name)
            self._changed.notify_all()

    def _settle(self, job: WriteJob, partial: Path, file: FileEntry) -> bool:
        """Rename a complete file to its final name, unless its job was cancelled."""
        with self._changed:
            if job.cancelled:
                return False
            superseded = job.tail is None  # perhaps only since the write began
            partial.replace(self._files.path_for(job.name, superseded=superseded))
            self._files.add_written(job.name, file._replace(used=job.used, superseded=superseded))
            return True
