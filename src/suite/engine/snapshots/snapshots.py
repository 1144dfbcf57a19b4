"""States of single sequences that are kept when a conversation leaves its slot, in memory and on disk.

    snapshots = Snapshots(directory=path, key=key, memory_bytes=..., disk_bytes=..., now=now, new_id=new_id)
    snapshots.supersede("conversation")  # it goes on now: from here nothing older is its end
    snapshots.put("conversation", tokens, payload, tail=[last])
    found = snapshots.find(prompt[:-1], "conversation")
    if found and (payload := snapshots.load(found)) is not None:
        ...  # restore it, then cut it back to found.tokens

A state is bytes here, whatever made them. What is put is held in memory and written to disk soon after, so
that it outlives the process; when memory runs short, what is on disk as well goes first, and of that and of
files the least valuable (`Snapshot.worth`). `memory_bytes` binds what is held, tokens and what waits to
be written included; beside it the writing thread has at most one snapshot in hand, so that one larger than
the memory budget can still go to disk. The tokens of files are held too, four bytes each, to be found by.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from suite.engine.snapshots.directory import Kept, SnapshotDirectory
from suite.engine.snapshots.file import Payload, pack, unpack
from suite.engine.snapshots.index import SnapshotIndex
from suite.engine.snapshots.snapshot import Found, Snapshot
from suite.identity import NewId, Now

_log = logging.getLogger("suite.engine")


class Snapshots:
    """All snapshots of one key. One thread uses it; nothing but `load` and `forget` waits for a disk."""

    def __init__(
        self,
        *,
        directory: Path | None,
        key: str,
        memory_bytes: int,
        disk_bytes: int,
        max_conversations: int = 50,
        max_age_seconds: float = 3600.0,
        now: Now,
        new_id: NewId,
    ) -> None:
        """`directory` None, or 0 `disk_bytes`: in memory only, as where the directory cannot be used.

        `key` tells apart whatever one state cannot be restored into another: model, settings, versions.
        At most `max_conversations` are kept, those without a conversation counted, each for
        `max_age_seconds` after its last use.
        """
        self._memory_bytes = memory_bytes
        self._max_conversations = max_conversations
        self._max_age = max_age_seconds
        self._now = now
        self._new_id = new_id
        self._index = SnapshotIndex()
        self._memory = 0
        self._directory: SnapshotDirectory | None = None
        if directory is not None and disk_bytes > 0:
            self._open(directory, key, disk_bytes)

    def _open(self, path: Path, key: str, disk_bytes: int) -> None:
        try:
            directory = SnapshotDirectory(path, key=key, budget=disk_bytes)
            kept = directory.start()
        except OSError as error:
            _log.warning("snapshots stay in memory, for %s cannot be used: %s", path, error.strerror)
            return
        self._directory = directory
        self._take_over(kept, directory)

    def _take_over(self, kept: Iterable[Kept], directory: SnapshotDirectory) -> None:
        """Know the files that were there.

        Whatever ended us then, of a conversation's two the newer one is taken, or what was not superseded.
        """
        now = self._time()
        latest: dict[str, Kept] = {}
        for file in sorted(kept, key=lambda file: (file.tail is not None, file.used, len(file.tokens))):
            if (older := latest.pop(file.header.conversation_id, None)) is not None:
                directory.discard(older.name)
            latest[file.header.conversation_id] = file
        for file in sorted(latest.values(), key=lambda file: (file.used, len(file.tokens))):
            snapshot = Snapshot(
                file.name,
                file.header.conversation_id,
                file.tokens,
                tail=file.tail,
                shortest=file.header.shortest,
                payload=None,
                size=file.size,
                used=min(file.used, now),  # a clock may have been put back since
            )
            self._index.add(snapshot)
        self.expire()
        self._keep_to_count()

    def __len__(self) -> int:
        return len(self._index)

    @property
    def memory_used(self) -> int:
        """Bytes held in memory."""
        return self._memory

    @property
    def disk_used(self) -> int:
        """Bytes of files, of that which is being written all of it."""
        return 0 if self._directory is None else self._directory.total

    def put(
        self,
        conversation_id: str | None,
        tokens: Sequence[int],
        payload: Payload,
        *,
        shortest: int = 0,
        tail: Sequence[int] | None = (),
    ) -> None:
        """Keep the state of these tokens as that of the conversation, instead of an older one.

        `shortest`: to how few tokens the state can be cut back; it is not found for a prompt that shares
        fewer. `tail`: what was said after these tokens and is not in the state; None: the conversation cannot
        go on from here, as in the middle of a prompt. Without a conversation it is kept in memory only, and
        the first to go, also when its continuation comes, if that can be cut back to it. An empty payload is
        not kept.
        """
        if conversation_id is not None:
            self.supersede(conversation_id)
        if not tokens or not payload:
            return
        self.expire()
        packed = pack(tokens)
        for old in self._replaced(conversation_id, packed, shortest):
            self._drop(old)
        size = len(payload) + len(packed)
        new = Snapshot(
            self._new_id(),
            conversation_id,
            packed,
            tail=None if tail is None else tuple(tail),
            shortest=shortest,
            payload=None,
            size=size,
            used=self._time(),
        )
        self._index.add(new)
        job = None if conversation_id is None else new.job(conversation_id, payload)
        if self._make_room(new):
            new.payload = payload
            self._memory += size
            if job is not None and self._directory is not None:
                self._directory.offer(job)
        elif job is None or self._directory is None or not self._directory.hand(job):
            self._drop(new)
        self._keep_to_count()

    def _replaced(self, conversation_id: str | None, tokens: bytes, shortest: int) -> list[Snapshot]:
        def goes(entry: Snapshot) -> bool:
            if entry.conversation_id is not None:
                return entry.conversation_id == conversation_id
            return tokens.startswith(entry.tokens) and (entry.count >= shortest or entry.tokens == tokens)

        return [entry for entry in self._index if goes(entry)]

    def find(
        self, prompt: Sequence[int], conversation_id: str | None, *, at_least: int = 0, whole: bool = False
    ) -> Found | None:
        """The snapshot that has most tokens in common with the prompt, `at_least` so many and one anyway.

        Of equals the conversation's own, then the one used last. `whole`: only one of which all tokens are
        the prompt's. The prompt's last token is to be decoded in any case, so leave it out.
        """
        self.expire()
        return self._index.find(pack(prompt), conversation_id, at_least=at_least, whole=whole)

    def tokens_of(self, conversation_id: str) -> list[int] | None:
        """All tokens that the conversation goes on after; None: what is there is not its latest state."""
        self.expire()
        entry = self._index.of(conversation_id)
        if entry is None or entry.tail is None or not self._is_there(entry):
            return None
        return [*unpack(entry.tokens), *entry.tail]

    def supersede(self, conversation_id: str) -> None:
        """Have the conversation never go on from what is kept of it, for it is going on now.

        It stays good for what begins like it. Holds after a crash too.
        """
        entry = self._index.of(conversation_id)
        if entry is None or entry.tail is None:
            return
        entry.tail = None
        if self._directory is not None:
            self._directory.supersede(entry.name)

    def _is_there(self, entry: Snapshot) -> bool:
        """Whether nobody has removed its file."""
        if entry.payload is not None:
            return True
        return self._directory is not None and self._directory.is_there(entry.name)

    def load(self, found: Found) -> Payload | None:
        """The state of what was found, from memory or read from disk. None: it has gone, or was damaged."""
        entry = found.snapshot
        if entry not in self._index:
            return None
        payload = entry.payload
        if payload is None and self._directory is not None:
            payload = self._directory.read(entry.name, entry.tokens)
        if payload is None:
            self._drop(entry)
            return None
        self._index.use(entry, self._time())
        if self._directory is not None:
            self._directory.touch(entry.name, entry.used)
        return payload

    def forget(self, conversation_id: str | None) -> list[Snapshot]:
        """Forget a conversation, for None all there is; what that was.

        Their files are removed when this returns, so that no crash brings them back.
        """
        self.expire()
        forgotten = [entry for entry in self._index if conversation_id in (None, entry.conversation_id)]
        for entry in forgotten:
            self._drop(entry)
        if self._directory is not None:
            self._directory.remove([entry.name for entry in forgotten])
        return forgotten

    def expire(self) -> None:
        """Drop what has not been used for too long, and what is not there any more. Cheap."""
        if self._directory is not None:
            for name in self._directory.lost():
                if (entry := self._index.named(name)) is not None and entry.payload is None:
                    self._drop(entry)
        oldest = self._time() - self._max_age
        for entry in self._index:
            if entry.used >= oldest:
                break
            self._drop(entry)

    def flush(self, seconds: float) -> bool:
        """Write to disk what is only in memory, the most valuable first; False: there was not time for all.

        What the disk's budget has no room for is not written.
        """
        self.expire()
        if self._directory is None:
            return True
        deadline = time.monotonic() + seconds
        for entry in sorted(self._index, key=lambda entry: entry.worth, reverse=True):
            if entry.conversation_id is None or entry.payload is None or self._directory.knows(entry.name):
                continue
            self._directory.wait_for_room(deadline - time.monotonic())
            if not self._directory.offer(entry.job(entry.conversation_id, entry.payload)):
                return False
        return self._directory.drain(deadline - time.monotonic())

    def close(self, seconds: float = 0.0) -> None:
        """Flush for this long at most, then end the writing thread within about a second and hold nothing."""
        if self._directory is not None:
            self.flush(seconds)
            self._directory.close()
            self._directory = None
        for entry in self._index:
            self._drop(entry)

    def _time(self) -> float:
        return self._now().timestamp()

    def _drop(self, entry: Snapshot) -> None:
        """Know nothing of it any more; its file goes when the writer has time."""
        self._index.remove(entry)
        if entry.payload is not None:
            entry.payload = None
            self._memory -= entry.size
        if self._directory is not None:
            self._directory.discard(entry.name)

    def _make_room(self, new: Snapshot) -> bool:
        """Room in memory for this one. False, and nothing changed: all that could go is worth more."""
        missing = self._memory + new.size - self._memory_bytes
        victims = []
        held = [entry for entry in self._index if entry.payload is not None]
        for entry in sorted(held, key=self._claim):
            if missing <= 0 or self._claim(entry) > self._claim(new):
                break
            victims.append(entry)
            missing -= entry.size
        if missing > 0:
            return False
        for entry in victims:
            self._release(entry)
        return True

    def _claim(self, entry: Snapshot) -> tuple[bool, bool, float]:
        """By what a snapshot keeps its memory: a conversation, being nowhere else, then its worth."""
        on_disk = self._directory is not None and self._directory.has_file(entry.name)
        return (entry.conversation_id is not None, not on_disk, entry.worth)

    def _release(self, entry: Snapshot) -> None:
        """Take it out of memory, and so altogether where it is not on disk, nor just being written."""
        entry.payload = None
        self._memory -= entry.size
        if self._directory is not None:
            self._directory.withdraw(entry.name)
            if self._directory.knows(entry.name):
                return
        self._drop(entry)

    def _keep_to_count(self) -> None:
        surplus = len(self._index) - self._max_conversations
        if surplus > 0:
            by_value = sorted(self._index, key=lambda entry: (entry.conversation_id is not None, entry.worth))
            for entry in by_value[:surplus]:
                self._drop(entry)
