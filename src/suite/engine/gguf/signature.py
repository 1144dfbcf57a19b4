"""What the file system says of a model's files: it notices a change without reading them (ADR 25)."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import msgspec


class FileState(msgspec.Struct, frozen=True, array_like=True):
    """One file as `stat` describes it. The system sets `ctime_ns` at each change; no tool sets it back."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> FileState:
        """The state that `stat` or `fstat` returned."""
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


class Signature(msgspec.Struct, frozen=True, array_like=True):
    """The states of a model's parts, in their order; none for a file that is refused because of its path."""

    parts: tuple[FileState, ...] = ()

    @classmethod
    def of(cls, paths: Iterable[Path]) -> Signature:
        """The signature that the files have now. Raises OSError."""
        return cls(tuple(FileState.of(path.stat()) for path in paths))

    @classmethod
    def of_text(cls, text: str) -> Signature:
        """The signature that `text` was made from. Raises ValueError."""
        return msgspec.json.decode(text, type=cls)

    @property
    def size(self) -> int:
        """The bytes of all parts."""
        return sum(part.size for part in self.parts)

    @property
    def text(self) -> str:
        """The signature as text, to compare it with that of another process."""
        return msgspec.json.encode(self).decode()

    def without_devices(self) -> Signature:
        """The signature without what may change when a file system is mounted again."""
        return Signature(tuple(msgspec.structs.replace(part, device=0) for part in self.parts))

    def is_touched(self, now: Signature) -> bool:
        """Whether at most ctime differs: other rights or links, or other content with its time set back."""
        return self._without_ctimes() == now._without_ctimes()

    def _without_ctimes(self) -> Signature:
        return Signature(tuple(msgspec.structs.replace(part, ctime_ns=0) for part in self.parts))

    def was_overwritten(self, now: Signature) -> bool:
        """Whether a file that this is about still exists and may have been written to since."""
        files = {(part.device, part.inode): part for part in now.parts}
        return any(files.get((part.device, part.inode), part) != part for part in self.parts)
