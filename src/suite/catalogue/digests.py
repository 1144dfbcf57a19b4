"""A cache of the SHA-256 digests of model files, stored in the node's data directory."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import threading
from collections.abc import Iterable
from pathlib import Path

import msgspec

logger = logging.getLogger("suite.catalogue")

_CHUNK_BYTES = 1 << 20


class Digest(msgspec.Struct, frozen=True, kw_only=True):
    """The digest of a file when it had this size and modification time."""

    size: int
    mtime_ns: int
    sha256: str


class DigestCache:
    """Digests by absolute path, valid as long as the file's size and modification time are the same.

    The cache is only an optimization: if its file is damaged or lost, digests are computed again.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._lock = threading.Lock()
        self._digests = self._read()

    def get(self, path: Path, *, size: int, mtime_ns: int) -> str | None:
        """The digest of a file, if it is cached for this size and time."""
        known = self._digests.get(str(path))
        return known.sha256 if known and (known.size, known.mtime_ns) == (size, mtime_ns) else None

    def put(self, path: Path, *, size: int, mtime_ns: int, sha256: str) -> None:
        """Store a digest, drop those of files that no longer exist, and write the cache to disk. Blocks."""
        with self._lock:
            known = {old: digest for old, digest in self._digests.items() if os.path.exists(old)}  # noqa: PTH110
            self._digests = known | {str(path): Digest(size=size, mtime_ns=mtime_ns, sha256=sha256)}
            try:
                self._write()
            except OSError as error:
                logger.warning("digests cannot be stored in %s: %s", self._file, error)

    def _read(self) -> dict[str, Digest]:
        try:
            return msgspec.json.decode(self._file.read_bytes(), type=dict[str, Digest])
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            logger.warning("%s cannot be used, so digests are computed again: %s", self._file, error)
            return {}

    def _write(self) -> None:
        new = self._file.with_name(self._file.name + ".new")
        new.unlink(missing_ok=True)  # left behind by a crash, maybe with other rights
        try:
            with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(msgspec.json.encode(self._digests))
            new.replace(self._file)
        except OSError:
            with contextlib.suppress(OSError):
                new.unlink()
            raise


def sha256(paths: Iterable[Path], stop: threading.Event) -> str | None:
    """The SHA-256 of the files, one after the other; None when `stop` is set. Blocks. Raises OSError."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb", buffering=0) as file:
            while chunk := file.read(_CHUNK_BYTES):
                if stop.is_set():
                    return None
                digest.update(chunk)
    return digest.hexdigest()
