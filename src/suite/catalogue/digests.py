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

from suite.engine.gguf.signature import Signature

logger = logging.getLogger("suite.catalogue")

_CHUNK_BYTES = 1 << 20


class Digest(msgspec.Struct, frozen=True, kw_only=True):
    """The digest that a model's files had when the file system said this of them."""

    signature: Signature
    sha256: str


class DigestCache:
    """Digests of model files, valid as long as the file system says of them what it said before (ADR 25).

    The cache is only an optimization: if its file is damaged, lost or of an older format, digests are
    computed again.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._lock = threading.Lock()
        self._digests = self._read()
        """By the absolute path of the first part."""
        self._by_signature = self._index()

    def get(self, signature: Signature) -> str | None:
        """The digest of the files with this signature, wherever they are now, if it is cached."""
        return self._by_signature.get(signature)

    def put(self, path: Path, signature: Signature, sha256: str) -> None:
        """Store a digest, drop those of files that no longer exist, and write the cache to disk. Blocks."""
        with self._lock:
            known = {old: digest for old, digest in self._digests.items() if os.path.exists(old)}  # noqa: PTH110
            self._digests = known | {str(path): Digest(signature=signature, sha256=sha256)}
            self._by_signature = self._index()
            try:
                self._write()
            except OSError as error:
                logger.warning("digests cannot be stored in %s: %s", self._file, error)

    def _index(self) -> dict[Signature, str]:
        return {known.signature: known.sha256 for known in self._digests.values()}

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
