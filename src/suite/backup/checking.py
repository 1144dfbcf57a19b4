"""Checks a backup: restores it in a server of its own, and folds it as a node would."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from suite.backup.archive import Archive
from suite.backup.restoring import restore
from suite.bus.connection import Connection
from suite.bus.embedded import EmbeddedServer
from suite.errors import BackupDiffers
from suite.identity import NewId, Now
from suite.log import Log
from suite.projections.verification import Verified, verify


async def check(
    archive: Archive, copies: Mapping[str, Path], *, new_id: NewId, now: Now
) -> Sequence[Verified]:
    """Restore a backup into a temporary directory, fold it, and compare that with a node's read models.

    ``copies`` are those, as `copy_read_models` makes them before the backup is taken. This takes as much
    space as the log, where temporary files are made. Raises BackupUnusable, BackupDiffers, Unavailable,
    ServerNotFound.
    """
    with tempfile.TemporaryDirectory(prefix="suite-backup-") as name:
        directory = Path(name)
        async with (
            EmbeddedServer.start(directory / "nats", subjects_root=archive.manifest.subject_root) as server,
            Connection.open(server.access, name="suite-backup") as connection,
        ):
            await restore(connection, archive, new_id=new_id)
            async with Log.open(
                connection, archive.subjects, source="/backup", new_id=new_id, now=now, create=False
            ) as log:
                verified = await verify(log, directory, copies)
    _require_equal(verified)
    return verified


def _require_equal(verified: Sequence[Verified]) -> None:
    """Raises BackupDiffers, naming the read models that the service has otherwise."""
    if differing := [f"{each.name} ({each.difference})" for each in verified if each.difference]:
        raise BackupDiffers(
            f"the service's read models {', '.join(differing)} have other rows than the log gives: "
            "`suite health` may say why, `suite rebuild` makes them anew; --no-check writes it all the same"
        )
