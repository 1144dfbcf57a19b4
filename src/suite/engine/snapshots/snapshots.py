"""Keeps the states of sequences when conversations leave their slots, in memory and on disk (ADR 15).

    snapshots = Snapshots(directory=path, key=key, memory_bytes=..., disk_bytes=..., now=now, new_id=new_id)
    snapshots.supersede("conversation")  # it continues now: no older state is its latest any more
    snapshots.put("conversation", tokens, payload, tail=[last])
    found = snapshots.find(prompt[:-1], "conversation")
    if found and (payload := snapshots.load(found)) is not None:
        ...  # restore it, then truncate it to found.tokens

A state is just bytes here. A snapshot is kept in memory and written to disk soon after, so that it survives
the process. When memory is full, snapshots that are also on disk are released first, those with the lowest
`Snapshot.retention_score` before others; files are evicted by the same score. `memory_bytes` limits what is
in memory, with tokens and with snapshots that wait to be written. In addition the writing thread may hold one
snapshot, so that one larger than the memory budget can still go to disk. The tokens of files also stay in
memory, four bytes each, for lookups.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from suite.engine.snapshots.directory import ExistingFile, SnapshotDirectory
from suite.engine.snapshots.file import Payload, Saved, pack, unpack
from suite.engine.snapshots.index import SnapshotIndex
from suite.engine.snapshots.snapshot import PrefixMatch, Snapshot
from suite.identity import NewId, Now

_log = logging.getLogger("suite.engine")


class Snapshots:
    """All snapshots of one key. One thread may use it; `load`, `forget`, `flush` and `close` may block."""

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
        """Without a `directory`, or with 0 `disk_bytes`, or if the directory is unusable, all stay in memory.

        `key` must differ wherever a state cannot be restored: another model, other settings or versions. At
        most `max_conversations` snapshots are kept, counting those without a conversation, each for
        `max_age_seconds` after its last use.
        """
        self.key = key
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

    def _take_over(self, kept: Iterable[ExistingFile], directory: SnapshotDirectory) -> None:
        """Index the files of an earlier process.

        It may have died at any point and left two files of a conversation. Then the one that was not
        superseded is taken, or else the newer one.
        """
        now = self._time()
        latest: dict[str, ExistingFile] = {}
        for file in sorted(kept, key=lambda file: (file.tail is not None, file.used, len(file.tokens))):
            if (older := latest.pop(file.header.conversation_id, None)) is not None:
                directory.remove_later(older.name)
            latest[file.header.conversation_id] = file
        for file in sorted(latest.values(), key=lambda file: (file.used, len(file.tokens))):
            snapshot = Snapshot(
                file.name,
                file.header.conversation_id,
                file.tokens,
                tail=file.tail,
                min_prefix=file.header.min_prefix,
                payload=None,
                size=file.size,
                used=min(file.used, now),  # the clock may have been set back since
                adapters=file.adapters,
            )
            self._index.add(snapshot)
        self.expire()
        self._keep_to_count()

    def __len__(self) -> int:
        return len(self._index)

    @property
    def memory_used(self) -> int:
        """Bytes of the snapshots in memory."""
        return self._memory

    @property
    def disk_used(self) -> int:
        """Bytes of all files, with the final size of the one that is being written."""
        return 0 if self._directory is None else self._directory.total

    @property
    def on_disk(self) -> bool:
        """Whether the snapshots of conversations outlive the process."""
        return self._directory is not None

    def put(
        self,
        conversation_id: str | None,
        tokens: Sequence[int],
        payload: Payload,
        *,
        min_prefix: int = 0,
        tail: Sequence[int] | None = (),
        adapters: str = "",
    ) -> None:
        """Keep the state of these tokens as the conversation's latest, replacing an older one.

        `min_prefix` is the fewest tokens to which the state can be truncated; prompts that share fewer do not
        find it. `tail` has the tokens sampled after these, which are not in the state; None if the
        conversation cannot be continued from here, as in the middle of a prompt. A snapshot without a
        conversation is kept in memory only and evicted first; it is also dropped when a snapshot comes that
        extends it and can be truncated to it. An empty payload is not kept. `adapters` is the key of those
        that the tokens were decoded with.
        """
        if conversation_id is not None:
            self.supersede(conversation_id)
        if not tokens or not payload:
            return
        self.expire()
        packed = pack(tokens)
        for old in self._replaced(conversation_id, packed, min_prefix, adapters):
            self._drop(old)
        size = len(payload) + len(packed)
        new = Snapshot(
            self._new_id(),
            conversation_id,
            packed,
            tail=None if tail is None else tuple(tail),
            min_prefix=min_prefix,
            payload=None,
            size=size,
            used=self._time(),
            adapters=adapters,
        )
        self._index.add(new)
        job = None if conversation_id is None else new.write_job(conversation_id, payload)
        if self._make_room(new):
            new.payload = payload
            self._memory += size
            if job is not None and self._directory is not None:
                self._directory.enqueue(job)
        elif job is None or self._directory is None or not self._directory.write_now(job):
            self._drop(new)
        self._keep_to_count()

    def _replaced(
        self, conversation_id: str | None, tokens: bytes, min_prefix: int, adapters: str
    ) -> list[Snapshot]:
        def goes(entry: Snapshot) -> bool:
            if entry.conversation_id is not None:
                return entry.conversation_id == conversation_id
            if entry.adapters != adapters:
                return False
            return tokens.startswith(entry.tokens) and (entry.count >= min_prefix or entry.tokens == tokens)

        return [entry for entry in self._index if goes(entry)]

    def find(
        self,
        prompt: Sequence[int],
        conversation_id: str | None,
        *,
        at_least: int = 0,
        whole: bool = False,
        adapters: str = "",
    ) -> PrefixMatch | None:
        """The snapshot that shares the longest prefix with the prompt.

        The prefix has `at_least` so many tokens, and at least one. Among equals the conversation's own
        snapshot is preferred, then the most recently used one. With `whole`, the snapshot must be a prefix of
        the prompt as a whole. It was decoded with these `adapters`. Pass the prompt without its last token,
        which must be decoded in any case.
        """
        self.expire()
        return self._index.find(
            pack(prompt), conversation_id, at_least=at_least, whole=whole, adapters=adapters
        )

    def tokens_of(self, conversation_id: str) -> list[int] | None:
        """All tokens that the conversation continues from; None: its latest state is not kept."""
        self.expire()
        entry = self._index.of_conversation(conversation_id)
        if entry is None or entry.tail is None or not self._still_exists(entry):
            return None
        return [*unpack(entry.tokens), *entry.tail]

    def saved(self, conversation_id: str) -> Saved | None:
        """The state of a conversation, to be restored elsewhere; None: none is kept. May block."""
        self.expire()
        entry = self._index.of_conversation(conversation_id)
        payload = None if entry is None else self.load(PrefixMatch(entry.count, entry.count, entry))
        if entry is None or payload is None:
            return None
        return Saved(conversation_id, entry.tokens, entry.tail, entry.min_prefix, payload, entry.adapters)

    def supersede(self, conversation_id: str) -> None:
        """Record that a conversation continues now, so that its snapshot is no longer its latest state.

        Prompts may still reuse the snapshot as a prefix. The record survives a crash.
        """
        entry = self._index.of_conversation(conversation_id)
        if entry is None or entry.tail is None:
            return
        entry.tail = None
        if self._directory is not None:
            self._directory.supersede(entry.name)

    def _still_exists(self, entry: Snapshot) -> bool:
        """Whether the snapshot is in memory, or its file still exists."""
        if entry.payload is not None:
            return True
        return self._directory is not None and self._directory.still_exists(entry.name)

    def load(self, found: PrefixMatch) -> Payload | None:
        """The state of a found snapshot, from memory or from disk. None: it is gone, or was damaged."""
        entry = found.snapshot
        if entry not in self._index:
            return None
        payload = entry.payload
        if payload is None and self._directory is not None:
            payload = self._directory.read(entry.name, entry.tokens)
        if payload is None:
            self._drop(entry)
            return None
        self._index.touch(entry, self._time())
        if self._directory is not None:
            self._directory.touch(entry.name, entry.used)
        return payload

    def forget(self, conversation_id: str | None) -> list[Snapshot]:
        """Forget a conversation, or with None all. Returns the snapshots that were forgotten.

        Their files are removed before this returns, so that no crash brings them back.
        """
        self.expire()
        forgotten = [entry for entry in self._index if conversation_id in (None, entry.conversation_id)]
        for entry in forgotten:
            self._drop(entry)
        if self._directory is not None:
            self._directory.remove([entry.name for entry in forgotten])
        return forgotten

    def expire(self) -> None:
        """Drop the snapshots that have not been used for too long, or whose file is lost. Cheap."""
        if self._directory is not None:
            for name in self._directory.pop_lost():
                if (entry := self._index.get(name)) is not None and entry.payload is None:
                    self._drop(entry)
        oldest = self._time() - self._max_age
        for entry in self._index:
            if entry.used >= oldest:
                break
            self._drop(entry)

    def flush(self, seconds: float) -> bool:
        """Write the snapshots that are only in memory to disk, the highest score first.

        Those that do not fit into the disk budget are not written. False: the time was too short for all.
        """
        self.expire()
        if self._directory is None:
            return True
        deadline = time.monotonic() + seconds
        for entry in sorted(self._index, key=lambda entry: entry.retention_score, reverse=True):
            if (
                entry.conversation_id is None
                or entry.payload is None
                or self._directory.is_tracked(entry.name)
            ):
                continue
            self._directory.wait_for_room(deadline - time.monotonic())
            if not self._directory.enqueue(entry.write_job(entry.conversation_id, entry.payload)):
                return False
        return self._directory.drain(deadline - time.monotonic())

    def close(self, seconds: float = 0.0) -> None:
        """Flush for at most this long, end the writing thread within about a second, and drop everything."""
        if self._directory is not None:
            self.flush(seconds)
            self._directory.close()
            self._directory = None
        for entry in self._index:
            self._drop(entry)

    def _time(self) -> float:
        return self._now().timestamp()

    def _drop(self, entry: Snapshot) -> None:
        """Drop a snapshot; its file is removed in the background."""
        self._index.remove(entry)
        if entry.payload is not None:
            entry.payload = None
            self._memory -= entry.size
        if self._directory is not None:
            self._directory.remove_later(entry.name)

    def _make_room(self, new: Snapshot) -> bool:
        """Release snapshots to make room in memory for a new one.

        False, and nothing is released: the others come before the new one in the order of eviction.
        """
        missing = self._memory + new.size - self._memory_bytes
        victims = []
        held = [entry for entry in self._index if entry.payload is not None]
        for entry in sorted(held, key=self._eviction_order):
            if missing <= 0 or self._eviction_order(entry) > self._eviction_order(new):
                break
            victims.append(entry)
            missing -= entry.size
        if missing > 0:
            return False
        for entry in victims:
            self._release(entry)
        return True

    def _eviction_order(self, entry: Snapshot) -> tuple[bool, bool, float]:
        """The order of eviction: without a conversation first, then also on disk, then the lowest score."""
        on_disk = self._directory is not None and self._directory.has_file(entry.name)
        return (entry.conversation_id is not None, not on_disk, entry.retention_score)

    def _release(self, entry: Snapshot) -> None:
        """Release a snapshot's memory, and drop it if it is neither on disk nor being written."""
        entry.payload = None
        self._memory -= entry.size
        if self._directory is not None:
            self._directory.cancel(entry.name)
            if self._directory.is_tracked(entry.name):
                return
        self._drop(entry)

    def _keep_to_count(self) -> None:
        surplus = len(self._index) - self._max_conversations
        if surplus > 0:
            by_value = sorted(
                self._index, key=lambda entry: (entry.conversation_id is not None, entry.retention_score)
            )
            for entry in by_value[:surplus]:
                self._drop(entry)
