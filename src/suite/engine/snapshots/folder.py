"""The tree that snapshots lie in: private folders, what is removed from them and why.

`<root>/<hash of the model's id>/<hash of the key>/<id>.kv`: folders of 0700, files of 0600. No name tells
whose a file is. A model's folder is its process's alone; the key's folder keeps contents, settings and
versions of the model apart.
"""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path

from suite.engine.snapshots import file as snapshot_file
from suite.engine.snapshots.file import Unusable

_log = logging.getLogger("suite.engine")

WHOLE, SUPERSEDED, PARTIAL = ".kv", ".old", ".tmp"
"""What the names of whole files end with, of those that their conversation has left behind, and of those that
are being written."""


def folder_of(directory: Path, name: str) -> Path:
    """Where the snapshots of a model lie within the root, and those of a key within the model's."""
    return directory / snapshot_file.digest(name.encode("utf-8", "surrogatepass")).hex()


def make_private(folder: Path) -> None:
    """Have a folder that only its owner can look into. Raises OSError.

    The one that it is in is made so as well where it is not there, and left as it is where it is.
    """
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_mode & 0o777 != 0o700:
        folder.chmod(0o700)


def unlink(path: Path) -> bool:
    """Remove a file; whether it is gone."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        _log.warning("the snapshot %s could not be removed: %s", path.name, error.strerror)
        return False
    return True


def remove_unusable(path: Path, error: Unusable | OSError) -> None:
    """Remove a file that cannot be read, and say why."""
    reason = error.strerror if isinstance(error, OSError) else str(error)
    _log.warning("the snapshot %s is removed and its tokens are computed again: %s", path.name, reason)
    unlink(path)


def remove_snapshots(directory: Path, conversation_id: str | None = None) -> tuple[int, int]:
    """Remove the files of a conversation, for None all, however deep they lie; how many, of how many tokens.

    For where no actor runs that would forget them. One that does run finds them gone.
    """
    files, tokens = 0, 0
    for path in _files(directory):
        try:
            header = snapshot_file.read_header(path)
        except FileNotFoundError:
            continue
        except (Unusable, OSError) as error:
            if conversation_id is None or path.suffix != PARTIAL:  # it may have just been begun
                remove_unusable(path, error)
            continue
        if conversation_id in (None, header.conversation_id) and unlink(path) and path.suffix != PARTIAL:
            files += 1
            tokens += header.tokens
    return files, tokens


def remove_expired(directory: Path, *, expired_before: float) -> None:
    """Remove files last used before then (epoch seconds), and folders that are empty then."""
    for path in _files(directory):
        try:
            expired = path.lstat().st_mtime < expired_before
        except OSError:
            continue  # an actor was faster
        if expired and unlink(path):
            _remove_if_empty(path.parent, within=directory)


def _files(directory: Path) -> list[Path]:
    paths = (Path(folder, name) for folder, _, names in os.walk(directory) for name in names)
    return [path for path in paths if path.suffix in (WHOLE, SUPERSEDED, PARTIAL)]


def _remove_if_empty(folder: Path, *, within: Path) -> None:
    with contextlib.suppress(OSError):
        while folder != within:
            folder.rmdir()
            folder = folder.parent
