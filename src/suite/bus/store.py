"""Where nats-server keeps the log on the disk, and the move of a log that predates the accounts."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from suite.bus.accounts import LOG_ACCOUNT
from suite.errors import DataDirUnusable, LogOfOtherKind

log = logging.getLogger("suite.bus")

GLOBAL_ACCOUNT = "$G"
"""nats-server's name for the global account, which users without an account of their own use."""


def streams(store: Path) -> Path:
    """The directory that holds the streams of the log's account."""
    return store / "jetstream" / LOG_ACCOUNT / "streams"


def require_kind(store: Path, *, clustered: bool) -> None:
    """Raises LogOfOtherKind if a server of the other kind has stored the log there.

    nats-server deletes what it finds when it joins a cluster for the first time, for the cluster does not
    know it. A server that has left a cluster has a part of the log, at best.
    """
    was_clustered = (store / "jetstream" / "$SYS" / "_js_" / "_meta_").is_dir()
    if was_clustered and not clustered:
        raise LogOfOtherKind(
            f"the log in {store} is a cluster's: start the node with --join and --cluster-file, as before, "
            "or with another --data-dir"
        )
    if clustered and not was_clustered and _holds_streams(store / "jetstream" / LOG_ACCOUNT):
        raise LogOfOtherKind(
            f"the log in {store} is a single server's, and would be deleted when that joins a cluster: join "
            "with another --data-dir, or take the log along as docs/how-to/fleet.md says"
        )


def adopt(store: Path) -> None:
    """Move a log that was stored in the global account to the account of the log.

    The move is one rename, synced, so that after a crash the log is in one place or the other. Does nothing
    if there is no such log. The server must not be running. Raises DataDirUnusable if both places hold a
    log, or if file permissions are missing.
    """
    old = store / "jetstream" / GLOBAL_ACCOUNT
    new = store / "jetstream" / LOG_ACCOUNT
    if not _holds_streams(old):
        return
    if _holds_streams(new):
        raise DataDirUnusable(
            f"there are two logs, in {old} and {new}: an older version has served from here in between."
            " Decide which one counts, and move the other one elsewhere"
        )
    try:
        old.rename(new)
        directory = os.open(new.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        raise DataDirUnusable(f"{old} cannot be renamed to {new.name} ({error.strerror})") from error
    log.warning("the log has moved from %s to %s: an older version would not find it", old, new)


def _holds_streams(account: Path) -> bool:
    try:
        return any((account / "streams").iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise DataDirUnusable(f"{account} cannot be read ({error.strerror}): mend its rights") from error
