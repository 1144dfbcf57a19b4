"""Stages a server's atomic batches in memory: what is not acknowledged yet need not touch the disk.

nats-server puts an atomic batch into a directory of its own beside the stream, moves it into the stream when
it is committed, syncs the stream, answers, and throws the directory away; at its start it throws away
whatever is left of such. On a disk where removing a synced file is slow that costs more than all the rest
(docs/adr/0007). A link in the place of the directory that holds them takes them to memory. A server that
keeps its batches elsewhere is not harmed: the link is then never followed.
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
    """The place in memory for one stream of one server's store."""

    def __init__(self, store: Path, stream: str) -> None:
        self._batches = streams(store) / stream / "batches"
        name = hashlib.sha256(str(store.absolute()).encode()).hexdigest()[:16]
        self._memory = MEMORY / f"suite-{os.getuid()}-{name}"

    async def settle(self) -> None:
        """Wait until the stream is there, and have its batches staged in memory; needed at each server start.

        Where there is no such memory, or its place belongs to somebody else, nothing is done.
        """
        self.give_up()  # what a killed server has left
        if not self._claim():
            return
        while not self._link():  # noqa: ASYNC110 - another process makes the directory
            await anyio.sleep(LOOK_SECONDS)

    def give_up(self) -> None:
        """Remove what is in memory; the server must have ended, or not have begun to use it."""
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
        """Try to put the link in place; not while the stream is not there, nor while a batch is staged."""
        if self._batches.is_symlink():
            return True
        try:
            if self._batches.is_dir():
                self._batches.rmdir()
            self._batches.symlink_to(self._memory, target_is_directory=True)
        except OSError:
            return False
        return True
