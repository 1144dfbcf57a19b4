"""A backup as one file: a zip archive, which any tool can list and unpack.

| in it | what it is |
| --- | --- |
| ``stream.tar.s2`` | the stream of the log, as nats-server packs one |
| ``ids.json`` | which id means which model file, of the node beside which it was taken; may be missing |
| ``manifest.json`` | what it is a backup of, and the size and digest of each of the others; written last |

There is no password and no key in it: `credentials.json` is not copied, and the log has digests of keys only.
"""

from __future__ import annotations

import errno
import hashlib
import lzma
import os
import struct
import tempfile
import zipfile
import zlib
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Final, Self

import anyio
import anyio.to_thread
import msgspec

from suite.errors import BackupUnusable, FileNameTaken
from suite.messages.subjects import Subjects

FORMAT: Final = 1
STREAM: Final = "stream.tar.s2"
_MANIFEST: Final = "manifest.json"
_PART_SUFFIX: Final = ".part"
"""What the name of the file ends in until all of it is there, and checked."""
READ_BYTES: Final = 128 * 1024
_UNREADABLE: Final = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, msgspec.MsgspecError),
    *(KeyError, ValueError, EOFError, RuntimeError),  # RuntimeError: a password is wanted
)
"""What reading raises for a file that is no archive, or one that was altered."""
_NO_SUCH_PLACE: Final = (None, errno.EINVAL)
"""The errors among OSErrors that mean the same: a place before the begin of the file, or of a bz2 stream."""
_NO_SYNC: Final = (errno.EINVAL, errno.ENOTSUP)
"""What file systems answer that have no directories to sync."""


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """The size and the digest of one file in the archive."""

    bytes: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a backup is of."""

    format: int = FORMAT
    taken: datetime
    """When it was begun."""
    version: str
    """The version of the suite that took it."""
    subject_root: str
    messages: int
    """How many messages the log had when it was begun; those that were stored meanwhile may be in it too."""
    first_seq: int
    last_seq: int
    """It has every event that was acknowledged by then, which end with this one."""
    parts: Mapping[str, Part]


class ArchiveWriter:
    """Writes a backup, into a file that gets its name by `publish`."""

    def __init__(self, part: Path, archive: zipfile.ZipFile) -> None:
        self.part = part
        """Where it is written: beside its name, and nobody else writes there."""
        self._archive = archive
        self._parts: dict[str, Part] = {}

    @classmethod
    @asynccontextmanager
    async def create(cls, path: Path) -> AsyncIterator[Self]:
        """Begin one, beside where it is to be. Raises FileNameTaken, OSError."""
        if await anyio.Path(path).exists():
            raise FileNameTaken(f"{path} is there already, and stays: choose another name")
        try:
            descriptor, name = tempfile.mkstemp(_PART_SUFFIX, f"{path.name}.", path.parent)
        except OSError as error:  # it names a file of which nobody has heard
            raise OSError(error.errno, error.strerror, str(path)) from None
        part = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file, zipfile.ZipFile(file, "w") as archive:
                yield cls(part, archive)
                await anyio.to_thread.run_sync(archive.close)
                file.flush()
                await anyio.to_thread.run_sync(os.fsync, file.fileno())
        except BaseException:
            part.unlink(missing_ok=True)  # noqa: ASYNC240 - at once, also when cancelled
            raise

    async def add(self, name: str, chunks: AsyncIterable[bytes]) -> None:
        """Add a file, as it comes. Raises OSError, and what the chunks raise."""
        digest, size = hashlib.sha256(), 0
        with self._archive.open(name, "w", force_zip64=True) as file:
            async for chunk in chunks:
                digest.update(chunk)
                size += len(chunk)
                await anyio.to_thread.run_sync(file.write, chunk)
        self._parts[name] = Part(bytes=size, sha256=digest.hexdigest())

    async def finish(self, manifest: Manifest) -> None:
        """Write what it is, with the digests of what was added. Raises OSError."""
        whole = msgspec.structs.replace(manifest, parts=self._parts)
        self._archive.writestr(_MANIFEST, msgspec.json.format(msgspec.json.encode(whole), indent=2))


def publish(part: Path, path: Path) -> None:
    """Give a backup that was written its name. What is there already is never replaced.

    Raises FileNameTaken, OSError; then it is still in ``part``.
    """
    try:
        _give_name(part, path)
    except FileExistsError:
        raise FileNameTaken(f"{path} has appeared meanwhile, and stays: the backup is {part}") from None
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror} (the backup is {part})", str(path)) from error
    _sync(path.parent)


def _give_name(part: Path, path: Path) -> None:
    try:
        os.link(part, path)  # unlike a rename, this replaces nothing
    except FileExistsError:
        raise
    except OSError:  # there are no hard links here, as on exFAT and many shares
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        try:
            part.rename(path)
        except BaseException:
            path.unlink()
            raise
    else:
        part.unlink()


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise
    finally:
        os.close(descriptor)


class Archive:
    """A backup whose digests are right."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest

    @classmethod
    async def open(cls, path: Path) -> Self:
        """Read all of it once, and check the digests. Raises BackupUnusable, OSError."""
        return cls(path, await anyio.to_thread.run_sync(_checked, path))

    @property
    def subjects(self) -> Subjects:
        """The subjects that its events have."""
        return Subjects(self.manifest.subject_root)

    async def read(self, name: str) -> AsyncGenerator[bytes, None]:
        """Yield a file of it, in chunks. Raises OSError, and KeyError if it is not there."""
        with zipfile.ZipFile(self.path) as archive, archive.open(name) as file:
            while chunk := await anyio.to_thread.run_sync(file.read, READ_BYTES):
                yield chunk

    async def content(self, name: str) -> bytes | None:
        """All of a small file of it; None if it is not there. Raises OSError."""
        if name not in self.manifest.parts:
            return None
        return b"".join([chunk async for chunk in self.read(name)])


def _checked(path: Path) -> Manifest:
    try:
        with zipfile.ZipFile(path) as archive:
            manifest = msgspec.json.decode(archive.read(_MANIFEST), type=Manifest)
            if manifest.format > FORMAT:
                raise BackupUnusable(
                    f"{path} is of format {manifest.format}, by suite {manifest.version}: this version reads "
                    f"up to {FORMAT}; restore it with a newer one"
                )
            for name, part in manifest.parts.items():
                if _digest(archive, name) != part:
                    raise BackupUnusable(f"{path} was altered: {name} does not have its digest")
    except (*_UNREADABLE, OSError) as error:
        if isinstance(error, OSError) and error.errno not in _NO_SUCH_PLACE:
            raise
        raise BackupUnusable(
            f"{path} is no backup of a log, or was cut off or altered ({error}): take another copy of it"
        ) from error
    if STREAM not in manifest.parts:
        raise BackupUnusable(f"{path} has no log in it")
    return manifest


def _digest(archive: zipfile.ZipFile, name: str) -> Part:
    digest, size = hashlib.sha256(), 0
    with archive.open(name) as file:
        while chunk := file.read(READ_BYTES):
            digest.update(chunk)
            size += len(chunk)
    return Part(bytes=size, sha256=digest.hexdigest())
