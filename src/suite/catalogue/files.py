"""One model's file as it is now, by stat only. Everything here blocks."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from suite.catalogue.entry import Entry
from suite.catalogue.outage import Outage, outage_at
from suite.engine.gguf.names import part_names
from suite.engine.gguf.signature import FileState, Signature
from suite.errors import ModelFileGone, ModelFileIncomplete, ModelFileInvalid, SuiteError

_LINK_OUT: Final = (
    'it is a link out of the model directories; put the file itself there, or set follow_links = "anywhere"'
)


class ModelFile(msgspec.Struct, frozen=True, kw_only=True):
    """A model's file at the time of a scan."""

    entry: Entry
    parts: tuple[Path, ...] = ()
    """The files that the signature is about."""
    projectors: tuple[Path, ...] = ()
    """Those of its entry that are where files may be."""
    signature: Signature
    folder_device: int = 0
    """The device of the folder that it is in; 0 if that is not known."""
    error: SuiteError | None = None
    """Why it is refused without being read."""
    outage: Outage | None = None
    """Why it cannot be read at the moment, though it is there."""

    @property
    def path(self) -> Path:
        """The absolute path of the file; of a split model, of the first part."""
        return self.entry.path


def look(entry: Entry, roots: Sequence[Path]) -> ModelFile:
    """The current state of a file, which may really be in any of `roots`, whatever links lead to it.

    Raises ModelFileGone when it does not exist.
    """
    if entry.unfinished is not None:
        return _unfinished(entry, entry.unfinished)
    if entry.outage is not None:
        return _out_of_reach(entry, entry.outage)
    path = entry.path
    error: SuiteError | None = None
    if entry.problem is not None:
        error = ModelFileInvalid(f"{entry.ids[0]} is refused: {entry.problem}")
    outage: Outage | None = None
    seen: dict[Path, os.stat_result] = {}
    for part in _parts(path):
        try:
            seen[part] = _status(part)
        except OSError as failure:
            if isinstance(failure, FileNotFoundError):
                if part is not path:
                    continue  # the inspection says which part is missing
                if not path.is_symlink():
                    raise gone(path.name) from None
            error = _refusal(path, f"it cannot be read ({failure.strerror or failure})")
            outage = outage_at(part, failure)
        else:
            if not _is_within(part, (*roots, *entry.roots)):
                error = _refusal(path, _LINK_OUT)
    if error is None and not stat.S_ISREG(seen[path].st_mode):
        error = _refusal(
            path, "it is a directory" if stat.S_ISDIR(seen[path].st_mode) else "it is not a regular file"
        )
    return ModelFile(
        entry=entry,
        parts=tuple(seen),
        projectors=tuple(each for each in entry.projectors if _is_within(each, (*roots, *entry.roots))),
        signature=Signature(tuple(map(FileState.of, seen.values()))),
        folder_device=_device(path.parent),
        error=error,
        outage=outage,
    )


def refused(path: Path, reason: str) -> ModelFile:
    """A file that is refused because of its path, without a look at it."""
    return ModelFile(entry=Entry(ids=(), path=path), signature=Signature(), error=_refusal(path, reason))


def gone(file_name: str) -> ModelFileGone:
    """The error for a file that is no longer there."""
    return ModelFileGone(f"{file_name} is gone: put it back, or choose another model")


def _status(part: Path) -> os.stat_result:
    """What the file system says of a file that can be read. Raises OSError."""
    status = part.stat()
    if not os.access(part, os.R_OK, effective_ids=True):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    return status


def _is_within(part: Path, roots: Sequence[Path]) -> bool:
    """Whether a file really is in one of the directories, whatever links lead to it."""
    real = Path(os.path.realpath(part))
    return any(real.is_relative_to(root) for root in roots)


def _out_of_reach(entry: Entry, outage: Outage) -> ModelFile:
    return ModelFile(
        entry=entry,
        signature=Signature(),
        error=ModelFileInvalid(f"{entry.ids[0]} is refused: {outage}"),
        outage=outage,
    )


def _unfinished(entry: Entry, sign: Path) -> ModelFile:
    try:
        status = sign.stat()
    except OSError:
        raise gone(sign.name) from None
    return ModelFile(
        entry=entry,
        parts=(sign,),
        signature=Signature((FileState.of(status),)),
        folder_device=_device(sign.parent),
        error=ModelFileIncomplete(
            f"{entry.path.name} is not whole yet, as {sign.name} shows: it is served by itself once it is"
        ),
    )


def _device(folder: Path) -> int:
    try:
        return folder.stat().st_dev
    except OSError:
        return 0


def _parts(path: Path) -> list[Path]:
    return [path, *(path.with_name(part) for part in part_names(path.name)[1:])]


def _refusal(path: Path, reason: str) -> ModelFileInvalid:
    return ModelFileInvalid(f"{path.name} is refused: {reason}")
