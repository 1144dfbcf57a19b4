"""Takes a backup of the log of a running service."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

from suite.backup.archive import STREAM, ArchiveWriter, Manifest
from suite.client import Client
from suite.data_directory import IDS
from suite.identity import Now
from suite.version import __version__


async def take(client: Client, path: Path, *, ids: bytes | None, now: Now) -> Path:
    """Write a backup with everything that was acknowledged before.

    Returns where it is: it gets its name, ``path``, by `archive.publish`. ``ids`` is what `ids.json` of the
    node is to be, if it is to be in it. Raises FileNameTaken, OSError, AccessDenied, Unavailable.
    """
    taken = now()
    async with ArchiveWriter.create(path) as archive, client.log_snapshot() as log:
        await archive.add(STREAM, log.chunks)
        if ids is not None:
            await archive.add(IDS, _once(ids))
        await archive.finish(
            Manifest(
                taken=taken,
                version=__version__,
                subject_root=client.subject_root,
                messages=log.state.messages,
                first_seq=log.state.first_seq,
                last_seq=log.state.last_seq,
                parts={},
            )
        )
    return archive.part


async def _once(content: bytes) -> AsyncIterator[bytes]:
    yield content
