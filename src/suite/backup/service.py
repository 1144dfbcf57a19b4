"""Backups of a service: of one that runs, and for one that is to be started."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import anyio
import anyio.to_thread

from suite import data_directory
from suite.backup import archive, taking
from suite.backup.archive import Archive
from suite.backup.checking import check
from suite.backup.restoring import restored
from suite.bus.connection import Connection
from suite.bus.store import streams
from suite.client import Client
from suite.config import Settings
from suite.errors import InvalidConfiguration, LogExists
from suite.identity import NewId, Now
from suite.log import Log
from suite.node.nats_server import reached_nats
from suite.projections.projections import FILES, paths
from suite.projections.verification import Verified, copy_read_models, verify


class Checked(NamedTuple):
    """A backup, and the read models that were folded from it."""

    archive: Archive
    verified: Sequence[Verified]
    """None of them: it was not checked."""


async def back_up(
    client: Client, path: Path, *, beside: Path | None, is_checked: bool, new_id: NewId, now: Now
) -> Checked:
    """Take a backup of a running service, which gets its name when it is checked.

    `beside` is the data directory of a node of the service, if that is known. Raises what `taking.take`,
    `check` and `archive.publish` raise.
    """
    with tempfile.TemporaryDirectory(prefix="suite-backup-") as directory:
        copies: Mapping[str, Path] = {}
        if is_checked and beside is not None:
            copies = await anyio.to_thread.run_sync(copy_read_models, beside, Path(directory))
        part = await taking.take(client, path, ids=_ids(beside), now=now)
        try:
            written = await Archive.open(part)
            verified = await check(written, copies, new_id=new_id, now=now) if is_checked else ()
        except BaseException:
            part.unlink(missing_ok=True)
            raise
    await anyio.to_thread.run_sync(archive.publish, part, path)
    return Checked(written, verified)


def _ids(data_dir: Path | None) -> bytes | None:
    if data_dir is None:
        return None
    try:
        return (data_dir / data_directory.IDS).read_bytes()
    except FileNotFoundError:
        return None


async def restore(settings: Settings, path: Path, *, new_id: NewId, now: Now) -> Checked:
    """Make the log of a service from a backup where there is none, and fold it.

    It goes where these settings have it: into a data directory, or to a NATS that is there. Raises
    InvalidConfiguration, LogExists, BackupUnusable, Unavailable, and what opening these raises.
    """
    opened = await Archive.open(path)
    _require_room(settings, opened)
    with data_directory.held(settings.data_dir), _fold_directory(settings) as directory:
        async with (
            reached_nats(settings) as nats,
            Connection.open(nats.access, name="suite-restore") as connection,
            restored(connection, opened, new_id=new_id),
            Log.open(
                connection, opened.subjects, source="/restore", new_id=new_id, now=now, create=False
            ) as log,
        ):
            verified = await verify(log, directory, {})
        _keep_read_models(directory, settings)
        await _keep_ids(opened, settings.data_dir)
    return Checked(opened, verified)


def _require_room(settings: Settings, opened: Archive) -> None:
    """Raises InvalidConfiguration or LogExists, before anything is started."""
    if settings.nats.join:
        raise InvalidConfiguration(
            "nodes that join their servers cannot take a backup: restore it for a node alone, or in a NATS "
            "of your own"
        )
    if opened.manifest.subject_root != settings.subject_root:
        raise InvalidConfiguration(
            f"the backup's subjects begin with {opened.manifest.subject_root}: set subject_root to that"
        )
    store = streams(settings.data_dir / "nats" / "jetstream") / opened.subjects.stream
    if settings.nats.url is None and store.exists():
        raise LogExists(
            f"{settings.data_dir} has a log already, and nothing was changed: restore into another "
            "--data-dir, or move its directory nats away"
        )


@contextmanager
def _fold_directory(settings: Settings) -> Iterator[Path]:
    """Where the log is folded: on the disk where the read models are to be."""
    with tempfile.TemporaryDirectory(prefix="restore-", dir=settings.data_dir) as directory:
        yield Path(directory)


def _keep_read_models(directory: Path, settings: Settings) -> None:
    """Spare the first start the fold. What a node finds of another log, it sets aside itself."""
    for projection, kept in paths(settings.data_dir, settings.sqlite_db_path).items():
        if not kept.exists():
            kept.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            shutil.move(directory / FILES[projection], kept)


async def _keep_ids(opened: Archive, data_dir: Path) -> None:
    ids = await opened.content(data_directory.IDS)
    if ids is not None and not (data_dir / data_directory.IDS).exists():
        data_directory.write_private(data_dir / data_directory.IDS, ids)
