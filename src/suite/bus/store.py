"""Where nats-server keeps the log on the disk, and how one from before there were accounts comes there."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from suite.bus.accounts import LOG_ACCOUNT
from suite.errors import DataDirUnusable

log = logging.getLogger("suite.bus")

GLOBAL_ACCOUNT = "$G"
"""nats-server's name for the account of those who have none."""


def streams(store: Path) -> Path:
    """The directory of the streams in the account of the log."""
    return store / "jetstream" / LOG_ACCOUNT / "streams"


def adopt(store: Path) -> None:
    """Give a log that was stored without an account to the account of the log.

    One rename, synced, so that a crash leaves it in one place or the other. Nothing is done where there is no
    such log. The server must not run. Raises DataDirUnusable when both places have one, and for lack of
    rights.
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
