"""The folders that snapshots are stored in, and the removal of snapshots.

A snapshot is at `<root>/<model>/<content>/<key>/<id>.kv`, where all but the last are hashes: of the model's
id, of its content with the version of llama.cpp, and of the key, which also has the form of the KV cache and
the kind of attention. Folders have mode 0700, files 0600, and no name reveals the conversation. Only a
model's own process writes into its folder. It reads the files of one key, and removes those that other keys
have of its content. Earlier versions had `<root>/<model>/<key>/<id>.kv`: what they left expires.
"""

from __future__ import annotations

import contextlib
import logging
import os
from importlib.metadata import version
from pathlib import Path

from suite.engine.snapshots import file as snapshot_file
from suite.engine.snapshots.file import InvalidSnapshotFile, Saved

_log = logging.getLogger("suite.engine")

WHOLE, SUPERSEDED, PARTIAL = ".kv", ".old", ".tmp"
"""Suffixes of complete files, of complete files whose conversation has continued since, and of files that are
being written."""


def folder_of(directory: Path, name: str) -> Path:
    """The folder of a model within the root, or of a key within the model's folder."""
    return directory / snapshot_file.digest(name.encode("utf-8", "surrogatepass")).hex()


def key_of(content: str, *, streams: int = 1, flash_attention: bool = True) -> str:
    """The key of the states of a model with this content: its digest, or an id that nothing else has.

    llama.cpp takes a state only into a KV cache of as many streams as it comes from, for the same attention.
    """
    of_streams = f" {streams} streams" if streams > 1 else ""
    of_attention = "" if flash_attention else " plain attention"
    return f"{content} {version('llama-cpp-python')}{of_streams}{of_attention}"


def content_folder(directory: Path, content: str) -> Path:
    """The folder within a model's that has all states of this content, whatever their keys."""
    return folder_of(directory, key_of(content))


def make_private(folder: Path) -> None:
    """Make a folder that only its owner can open, or give an existing one this mode (0700). Raises OSError.

    Its parents are made with the same mode if they do not exist, and left as they are if they do.
    """
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_mode & 0o777 != 0o700:
        folder.chmod(0o700)


def unlink(path: Path) -> bool:
    """Remove a file. Returns whether it is gone; logs the error otherwise."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        _log.warning("the snapshot %s could not be removed: %s", path.name, error.strerror)
        return False
    return True


def remove_invalid(path: Path, error: InvalidSnapshotFile | OSError) -> None:
    """Remove a file that cannot be used, and log why."""
    reason = error.strerror if isinstance(error, OSError) else str(error)
    _log.warning("the snapshot %s is removed and its tokens are computed again: %s", path.name, reason)
    unlink(path)


def remove_snapshots(directory: Path, conversation_id: str | None = None) -> tuple[int, int]:
    """Remove the snapshots of a conversation, or with None all, anywhere below a directory.

    Returns how many were removed, and their number of tokens. This is for models that are not loaded: a
    model's process forgets its own. If one runs nevertheless, it treats the missing files as removed.
    """
    files, tokens = 0, 0
    for path in _files(directory):
        try:
            header = snapshot_file.read_header(path)
        except FileNotFoundError:
            continue
        except (InvalidSnapshotFile, OSError) as error:
            if conversation_id is None or path.suffix != PARTIAL:  # it may be a file just being written
                remove_invalid(path, error)
            continue
        if conversation_id in (None, header.conversation_id) and unlink(path) and path.suffix != PARTIAL:
            files += 1
            tokens += header.tokens
    return files, tokens


def take_conversation(directory: Path, key: str, conversation_id: str) -> Saved | None:
    """The state that files of a key have of a conversation which goes on elsewhere; None: they have none.

    `directory` is that of the content. This is for models that are not loaded. The file stays, but the
    conversation cannot be continued from it any more. Raises InvalidSnapshotFile and OSError. Blocks.
    """
    found: list[tuple[bool, float, Path]] = []
    for path in _files(folder_of(directory, key)):
        with contextlib.suppress(InvalidSnapshotFile, OSError):
            if path.suffix != PARTIAL and snapshot_file.read_header(path).conversation_id == conversation_id:
                found.append((path.suffix == WHOLE, path.stat().st_mtime, path))
    if not found:
        return None
    is_latest, _, path = max(found)
    saved = snapshot_file.from_bytes(key, path.read_bytes())
    if not is_latest:
        return saved._replace(tail=None)
    path.rename(path.with_suffix(SUPERSEDED))
    return saved


def remove_expired(directory: Path, *, expired_before: float) -> None:
    """Remove files last used before this time (epoch seconds), and the folders that this leaves empty.

    Those of models stay: the process of one may write below its folder, but not make that again.
    """
    for path in _files(directory):
        try:
            expired = path.lstat().st_mtime < expired_before
        except OSError:
            continue  # the model's process removed it first
        if expired and unlink(path):
            _remove_if_empty(path.parent, within=directory / path.relative_to(directory).parts[0])


def remove_other_keys(directory: Path, key: str) -> None:
    """Remove what a content has of other keys, which nothing reads, and the folders that this leaves empty.

    Files that lie in the directory itself are of an earlier version, and stay until they expire.
    """
    own = folder_of(directory, key)
    for path in _files(directory):
        if path.parent not in (own, directory) and unlink(path):
            _remove_if_empty(path.parent, within=directory)


def _files(directory: Path) -> list[Path]:
    paths = (Path(folder, name) for folder, _, names in os.walk(directory) for name in names)
    return [path for path in paths if path.suffix in (WHOLE, SUPERSEDED, PARTIAL)]


def _remove_if_empty(folder: Path, *, within: Path) -> None:
    with contextlib.suppress(OSError):
        while folder != within:
            folder.rmdir()
            folder = folder.parent
