"""Which id means which file. An id stays with its file for as long as the file exists (ADR 26)."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
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
            path=str(file.path),
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
        """Give each file its id, and return those that can get none as well. Blocks no longer than memory.

        A file that has an id keeps it, also when it was moved to another folder. Any other gets the first of
        its ids that no other file has. `reserved` are the ids that none of these files may get.
        """
        files = list(files)
        mine = {id: each for id, each in self._bindings.items() if id not in reserved and not each.configured}
        ids = {each.path: id for id, each in mine.items()}
        found = {ids[str(file.path)]: file for file in files if str(file.path) in ids}
        left = [file for file in files if str(file.path) not in ids]
        found |= self._moved({id: each for id, each in mine.items() if id not in found}, left)
        without: list[ModelFile] = []
        placed = {file.path for file in found.values()}
        for file in left:
            if file.path not in placed:
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
                data_directory.write(self._file, msgspec.json.encode(self._bindings))
            except OSError as error:
                logger.warning("the ids of models cannot be stored in %s: %s", self._file, error)
        return dropped

    def _moved(self, absent: Mapping[str, Binding], files: Iterable[ModelFile]) -> dict[str, ModelFile]:
        """The files that were moved from where their ids' files were, leaving out all doubtful ones."""
        files = list(files)
        homeless = Counter(key for each in absent.values() for key in _keys(Path(each.path), each.signature))
        arrived = Counter(key for file in files for key in _keys(file.path, file.signature))
        by_key = {key: file for file in files for key in _keys(file.path, file.signature)}
        return {
            id: by_key[key]
            for id, each in absent.items()
            for key in _keys(Path(each.path), each.signature)
            if homeless[key] == arrived[key] == 1
        }

    def _read(self) -> dict[str, Binding]:
        try:
            return msgspec.json.decode(self._file.read_bytes(), type=dict[str, Binding])
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            logger.warning("%s cannot be used, so models get their ids anew: %s", self._file, error)
            return {}


def _keys(path: Path, signature: Signature) -> Iterator[tuple[object, ...]]:
    """What stays of a file when it is moved: its name, and all but the time of the last change of its state."""
    if signature.parts:
        yield (
            path.name,
            *((part.device, part.inode, part.size, part.mtime_ns) for part in signature.parts),
        )


def _is_valid(id: str) -> bool:
    """Whether the id can be used in requests and subjects."""
    try:
        escape(id)
    except InvalidRequest:
        return False
    return True
