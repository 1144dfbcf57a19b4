"""Which id means which file. An id stays with its file for as long as the file exists (ADR 26)."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import msgspec

from suite import data_directory
from suite.catalogue.files import ModelFile
from suite.engine.gguf.signature import Signature
from suite.errors import InvalidRequest
from suite.messages.subjects import escape

logger = logging.getLogger("suite.catalogue")


class Binding(msgspec.Struct, frozen=True, kw_only=True):
    """The file that an id means, as it was last seen."""

    path: str
    folder_device: int
    signature: Signature
    configured: bool = False
    """Whether the settings name the file, so that it is theirs to say what the id means."""

    @classmethod
    def to(cls, file: ModelFile, *, configured: bool) -> Binding:
        """The binding to a file."""
        return cls(
            path=str(file.entry.place),
            folder_device=file.folder_device,
            signature=file.signature,
            configured=configured,
        )


class Ids:
    """The ids of model files, kept in a file so that they survive a restart.

    If that file is damaged or lost, files get their ids anew, in the order in which they are found.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._bindings = self._read()

    @property
    def bindings(self) -> Mapping[str, Binding]:
        """The bindings by id."""
        return self._bindings

    def assign(
        self, files: Iterable[ModelFile], *, reserved: Collection[str]
    ) -> tuple[dict[str, ModelFile], list[ModelFile]]:
        """Give each file its id, and return those that can get none as well.

        A file that has an id keeps it, also when it was moved to another folder. Any other gets the first of
        its ids that no other file has. `reserved` are the ids that none of these files may get.
        """
        left = {str(file.entry.place): file for file in files}
        bound = {
            id: each for id, each in self._bindings.items() if id not in reserved and not each.configured
        }
        found: dict[str, ModelFile] = {}
        for match in (_unchanged, _moved, _in_place):
            matched = match({id: each for id, each in bound.items() if id not in found}, left.values())
            for file in matched.values():
                left.pop(str(file.entry.place), None)
            found |= matched
        without: list[ModelFile] = []
        for file in left.values():
            free = (id for id in file.entry.ids if id not in found and id not in reserved)
            if (id := next(filter(_is_valid, free), None)) is None:
                without.append(file)
            else:
                found[id] = file
        return found, without

    def remember(self, bindings: Mapping[str, Binding]) -> tuple[str, ...]:
        """Store the bindings, and return the ids that are bound no more. Blocks."""
        dropped = tuple(id for id in self._bindings if id not in bindings)
        if self._bindings != bindings:
            self._bindings = dict(bindings)
            try:
                data_directory.write_private(self._file, msgspec.json.encode(self._bindings))
            except OSError as error:
                logger.warning("the ids of models cannot be stored in %s: %s", self._file, error)
        return dropped

    def _read(self) -> dict[str, Binding]:
        try:
            return msgspec.json.decode(self._file.read_bytes(), type=dict[str, Binding])
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            logger.warning("%s cannot be used, so models get their ids anew: %s", self._file, error)
            return {}


def _unchanged(bound: Mapping[str, Binding], files: Iterable[ModelFile]) -> dict[str, ModelFile]:
    """The files that are where they were, and are the same ones."""
    by_path = {str(file.entry.place): file for file in files}
    return {
        id: file
        for id, each in bound.items()
        if (file := by_path.get(each.path)) and _identity(each.signature) == _identity(file.signature)
    }


def _moved(bound: Mapping[str, Binding], files: Iterable[ModelFile]) -> dict[str, ModelFile]:
    """The files that are in another folder than they were, if there is no doubt of it."""
    arrived = [
        ((file.path.name, _identity(file.signature)), file)
        for file in files
        if file.signature.parts and file.entry.named_by is None
    ]
    left = {id: (Path(each.path).name, _identity(each.signature)) for id, each in bound.items()}
    times_left, times_arrived = Counter(left.values()), Counter(key for key, _ in arrived)
    by_key = dict(arrived)
    return {id: by_key[key] for id, key in left.items() if times_left[key] == times_arrived[key] == 1}


def _in_place(bound: Mapping[str, Binding], files: Iterable[ModelFile]) -> dict[str, ModelFile]:
    """The files that have taken the place of others."""
    by_path = {str(file.entry.place): file for file in files}
    return {id: by_path[each.path] for id, each in bound.items() if each.path in by_path}


def _identity(signature: Signature) -> tuple[tuple[int, int, int, int], ...]:
    """What stays of a model's files when they are moved; the system changes the time of the last change."""
    return tuple((part.device, part.inode, part.size, part.mtime_ns) for part in signature.parts)


def _is_valid(id: str) -> bool:
    """Whether the id can be used in requests and subjects."""
    try:
        escape(id)
    except InvalidRequest:
        return False
    return True
