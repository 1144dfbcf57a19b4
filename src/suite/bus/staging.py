"""Stages the server's atomic batches in memory: they need no disk before they are acknowledged.

nats-server writes an atomic batch to a directory of its own beside the stream. On commit it moves the batch
into the stream, syncs the stream, answers, and deletes the directory. When it starts, it deletes directories
that were left over. On a disk where deleting a synced file is slow, this costs more than everything else
together (docs/adr/0007). So the directory that holds the batches is replaced by a symbolic link into memory.
A server that keeps its batches elsewhere never follows the link, which then does no harm.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import anyio

from suite.bus.store import streams

MEMORY = Path("/dev/shm")
LOOK_SECONDS = 0.2


class Staging:
    """The directory in memory for the batches of one stream in one server's store."""

    def __init__(self, store: Path, stream: str) -> None:
        self._batches = streams(store) / stream / "batches"
        name = hashlib.sha256(str(store.absolute()).encode()).hexdigest()[:16]
        self._memory = MEMORY / f"suite-{os.getuid()}-{name}"

    async def settle(self) -> None:
        """Wait until the stream exists, then stage its batches in memory. Call it after each server start.

        Does nothing where ``/dev/shm`` does not exist, or where another user owns the directory in it.
        """
        self.give_up()  # a killed server may have left batches there
        if not self._claim():
            return
        while not self._link():  # noqa: ASYNC110 - another process makes the directory
            await anyio.sleep(LOOK_SECONDS)

    def give_up(self) -> None:
        """Delete the directory in memory. The server must not be using it: either ended or not started."""
        if self._is_ours():
            shutil.rmtree(self._memory, ignore_errors=True)

    def _claim(self) -> bool:
        try:
            self._memory.mkdir(mode=0o700, exist_ok=True)
        except OSError:
            return False
        return self._is_ours()

    def _is_ours(self) -> bool:
        try:
            status = self._memory.lstat()
        except OSError:
            return False
        return self._memory.is_dir() and not self._memory.is_symlink() and status.st_uid == os.getuid()

    def _link(self) -> bool:
        """Try to create the link. This fails while the stream does not exist or a batch is staged."""
        if self._batches.is_symlink():
            return True
        try:
            if self._batches.is_dir():
                self._batches.rmdir()
            self._batches.symlink_to(self._memory, target_is_directory=True)
        except OSError:
            return False
        return True
