"""Tells a file that was deleted from one that is out of reach: a drive away, a folder that cannot be read.

A file counts as deleted only when its folder, or what is left of the path to it, can be listed and does not
list it (ADR 26). Everything here blocks.
"""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from suite.catalogue.names import printable

JUST_BACK: Final = "it is there again, and is looked at by the next scan"
_EMPTY: Final = "it is empty, and its drive is not mounted"
_RIGHTS: Final = {errno.EACCES, errno.EPERM}
_ITS_OWN_FAULT: Final = {
    errno.ENOENT,
    errno.ENOTDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.EINVAL,
    errno.EFBIG,
}
"""What a file gives that is not there or not usable; any other error is one of the drive, or of rights."""
_SHOWN = 20
"""How many problems are told one by one."""


class Outage(msgspec.Struct, frozen=True):
    """A directory, or a file, that cannot be read at the moment, and why."""

    path: Path
    reason: str

    def __str__(self) -> str:
        return f"{printable(self.path)} cannot be read ({self.reason})"


def outage_at(path: Path, failure: OSError) -> Outage | None:
    """What is out of reach where a file cannot be read; None if the fault is the file's own."""
    reason = failure.strerror or str(failure)
    if failure.errno in _RIGHTS:
        return Outage(path, reason)
    folder = Path(os.path.realpath(path)).parent
    if failure.errno not in _ITS_OWN_FAULT:
        return Outage(folder, reason)
    return absence(folder) if failure.errno == errno.ENOENT and path.is_symlink() else None


def absence(folder: Path) -> Outage | None:
    """Why a folder, in which files should be, has none at all; None if it has any."""
    try:
        with os.scandir(folder) as found:
            return None if any(found) else Outage(folder, _EMPTY)
    except OSError as error:
        while not os.path.lexists(folder.parent):
            folder = folder.parent  # it is the highest one that is not there that has to be brought back
        return Outage(folder, error.strerror or str(error))


class _Contents(NamedTuple):
    names: frozenset[str]
    device: int


class Outages:
    """Looks for the reasons why files are not found. One object serves one scan: it reads a folder once.

    Make it after the files were looked for: a directory that is back by then lists them.
    """

    def __init__(self, tops: Sequence[Path], unlisted: Mapping[Path, Outage]) -> None:
        """`unlisted` are folders of which the scan could not list all, and why."""
        self._tops = tops
        self._unlisted = unlisted
        self._read: dict[Path, _Contents | OSError] = {}

    def of(self, path: Path, device: int | None) -> Outage | None:
        """Why a file that was not found may exist all the same; None if it was deleted.

        `device` is that of its folder when the file was last seen: an empty folder on another device is where
        a drive is mounted at other times.
        """
        top = next((top for top in self._tops if path.is_relative_to(top)), None)
        if top is None:
            return None
        for folder, outage in self._unlisted.items():
            if path.is_relative_to(folder):
                return outage
        below = path
        while below != top:
            directory = below.parent
            contents = self._contents(directory)
            if isinstance(contents, _Contents):
                if below.name in contents.names and below != path:
                    return Outage(below, os.strerror(errno.ENOENT))  # a link to a folder that is away
                return _judge(contents, directory, below.name, device)
            if isinstance(contents, FileNotFoundError) and directory != top:
                below = directory
            elif isinstance(contents, NotADirectoryError) and directory != top:
                return None  # a file has taken the folder's place
            else:
                return Outage(directory, contents.strerror or str(contents))
        return None

    def of_directory(self, directory: Path) -> Outage | None:
        """Why a directory cannot be read; None if it can."""
        contents = self._contents(directory)
        if isinstance(contents, OSError):
            return Outage(directory, contents.strerror or str(contents))
        return None

    def _contents(self, directory: Path) -> _Contents | OSError:
        if directory not in self._read:
            try:
                self._read[directory] = _list(directory)
            except OSError as error:
                self._read[directory] = error
        return self._read[directory]


def outage_problems(models: Mapping[str, Outage], directories: Iterable[Outage]) -> tuple[str, ...]:
    """What to tell an operator of directories that cannot be read, each with how many models are in it.

    A directory that is not there and never had a model is not worth an alarm.
    """
    counts = Counter(models.values())
    for outage in directories:
        if outage not in counts and outage.reason != os.strerror(errno.ENOENT):
            counts[outage] = 0
    problems = [_problem(outage, count) for outage, count in counts.items()]
    more = len(problems) - _SHOWN
    return (*problems[:_SHOWN], *((f"{more} more cannot be read",) if more > 0 else ()))


def _problem(outage: Outage, count: int) -> str:
    if outage.reason == os.strerror(errno.EACCES):
        remedy = "give the service's user the right to read it"
    else:
        remedy = (
            "bring it back, or, if it is gone for good, delete the links to it, "
            "take it out of models_directories or make it anew with any file in it"
        )
    return f"{outage}: {count} of its models stay as they are and loaded ones go on answering; {remedy}"


def _judge(contents: _Contents, directory: Path, name: str, device: int | None) -> Outage | None:
    if name in contents.names:
        return Outage(directory, JUST_BACK)
    if not contents.names and device not in (None, contents.device):
        return Outage(directory, _EMPTY)
    return None


def _list(directory: Path) -> _Contents:
    """Both from one descriptor: a directory that is swapped meanwhile is either the one or the other."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return _Contents(frozenset(os.listdir(descriptor)), os.fstat(descriptor).st_dev)  # noqa: PTH208
    finally:
        os.close(descriptor)
