"""A cache of the SHA-256 digests of model files, stored in the node's data directory."""

from __future__ import annotations

import hashlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import msgspec

from suite.data_directory import write_private
from suite.engine.gguf.signature import FileState, Signature
from suite.errors import ModelFileInvalid

logger = logging.getLogger("suite.catalogue")

_CHUNK_BYTES = 1 << 20
_BLOCK_BYTES = 4096
_BLOCKS = 16
"""How many blocks of a model a fingerprint reads."""
_TICK_SECONDS = 0.1
"""Two changes within this time may leave the same times: the clocks of file systems tick this slowly."""
_COARSE_TICK_SECONDS = 2.0
"""The same where times have whole seconds only."""


class Digest(msgspec.Struct, frozen=True, kw_only=True):
    """The digest of a model's content, and what was seen of its files when it was computed."""

    signature: Signature
    """Without devices: their numbers are given out anew when a file system is mounted."""
    fingerprint: str
    sha256: str


class DigestCache:
    """Digests of models, valid as long as their signatures and fingerprints are the same (ADR 25).

    The cache is only an optimization: if its file is damaged, lost or of an older format, digests are
    computed again.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._lock = threading.Lock()
        self._digests = self._read()
        """By the absolute path of the first part."""
        self._index = self._indexed()

    def get(self, signature: Signature, fingerprint: str) -> str | None:
        """The digest of the files with this signature, wherever they are now, if it is cached."""
        return self._index.get((signature.without_devices(), fingerprint))

    def put(self, path: Path, signature: Signature, fingerprint: str, sha256: str) -> None:
        """Store a digest, drop those of files that were removed, and write the cache to disk. Blocks."""
        new = Digest(signature=signature.without_devices(), fingerprint=fingerprint, sha256=sha256)
        with self._lock:
            known = {old: digest for old, digest in self._digests.items() if not _is_removed(old)}
            self._digests = known | {str(path): new}
            self._index = self._indexed()
            try:
                write_private(self._file, msgspec.json.encode(self._digests))
            except OSError as error:
                logger.warning("digests cannot be stored in %s: %s", self._file, error)

    def _indexed(self) -> dict[tuple[Signature, str], str]:
        return {(known.signature, known.fingerprint): known.sha256 for known in self._digests.values()}

    def _read(self) -> dict[str, Digest]:
        try:
            return msgspec.json.decode(self._file.read_bytes(), type=dict[str, Digest])
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            logger.warning("%s cannot be used, so digests are computed again: %s", self._file, error)
            return {}


def _is_removed(path: str) -> bool:
    """Whether a file was removed; not if its directory is away too, as that of a disk that will be back."""
    return not os.path.exists(path) and os.path.exists(os.path.dirname(path))  # noqa: PTH110, PTH120


def sha256(
    paths: Iterable[Path], stop: threading.Event, now_ns: Callable[[], int] = time.time_ns
) -> str | None:
    """The SHA-256 of the files, one after the other; None when `stop` is set.

    A file that has just changed is read a moment later, so that any later change shows in its times. Blocks.
    Raises OSError, and ModelFileInvalid when a file changes meanwhile.
    """
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb", buffering=0) as file:
            before = FileState.of(os.fstat(file.fileno()))
            stop.wait(_restless_seconds(before, now_ns()))
            while chunk := file.read(_CHUNK_BYTES):
                if stop.is_set():
                    return None
                digest.update(chunk)
            if not before == FileState.of(os.fstat(file.fileno())) == FileState.of(path.stat()):
                raise just_changed(path.name)
    return digest.hexdigest()


def _restless_seconds(file: FileState, now_ns: int) -> float:
    """How long a change of the file could still go unnoticed; at most a tick, whatever the clocks say."""
    changed_ns = max(file.ctime_ns, file.mtime_ns)
    tick = _TICK_SECONDS if file.ctime_ns % 1_000_000_000 else _COARSE_TICK_SECONDS
    return min(tick, max(0.0, tick - (now_ns - changed_ns) / 1e9))


def fingerprint(paths: Sequence[Path]) -> str:
    """A hash of a few blocks throughout the files: other models differ in it, and it takes milliseconds.

    The same fingerprint does not mean the same content. Blocks. Raises OSError.
    """
    digest = hashlib.blake2b(digest_size=16)
    blocks = max(2, _BLOCKS // len(paths))
    for path in paths:
        with path.open("rb", buffering=0) as file:
            last = max(0, os.fstat(file.fileno()).st_size - _BLOCK_BYTES)
            for block in range(blocks):
                digest.update(os.pread(file.fileno(), _BLOCK_BYTES, last * block // (blocks - 1)))
    return digest.hexdigest()


def just_changed(file_name: str) -> ModelFileInvalid:
    """The error for a file that changes while it is used."""
    return ModelFileInvalid(f"{file_name} has just been changed: try again once nothing writes to it")
