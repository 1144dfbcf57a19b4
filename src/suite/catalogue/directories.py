"""Lists the model files of the model directories under their ids. Everything here blocks."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import msgspec

from suite.catalogue import folder, stores
from suite.catalogue.entry import Entry
from suite.catalogue.files import ModelFile, look, refused
from suite.catalogue.ids import Binding, Ids
from suite.catalogue.outage import JUST_BACK, Outage, Outages
from suite.config import FollowLinks, ModelSettings
from suite.config.layers import suggestion
from suite.engine.gguf.names import is_companion
from suite.errors import ModelFileGone


class Listing(msgspec.Struct, frozen=True, kw_only=True):
    """What a scan found."""

    files: dict[str, ModelFile]
    """The model files by id."""
    outages: dict[str, Outage]
    """By id, why a known file is out of reach at the moment."""
    bindings: dict[str, Binding]
    """What each id means from now on."""
    back: frozenset[str]
    """The ids of files that were there again when the scan had already missed them."""
    unreadable: tuple[Outage, ...]
    """The model directories that cannot be read."""
    warnings: tuple[str, ...]
    missing: dict[str, str]
    """By id, why a configured model has no file."""


class Directories:
    """The only directories that model files may be in."""

    def __init__(self, directories: Sequence[Path], ids: Ids, follow_links: FollowLinks = "inside") -> None:
        self._anywhere = follow_links == "anywhere"
        self.paths = tuple(Path(os.path.abspath(directory)) for directory in directories)  # noqa: PTH100
        self._ids = ids
        self._back: frozenset[str] = frozenset()
        """The ids of files that were back when the last scan had already missed them."""

    def listing(self, settings: Mapping[str, ModelSettings]) -> Listing:
        """List the model files that exist now, and the known ones that are out of reach.

        Nothing is remembered of it, so that it can be abandoned.
        """
        warnings: list[str] = []
        configured, missing = self._configured_files(settings)
        unlisted: dict[Path, Outage] = {}
        found = self._found({file.path for file in configured.values()}, warnings, unlisted)
        outages = Outages(self.paths, unlisted)
        away = self._away(configured, found, settings, outages)
        back = frozenset(id for id, outage in away.items() if outage.reason == JUST_BACK)
        # What two scans in turn saw and did not find is no model any more: its name or a setting is another.
        away = {id: outage for id, outage in away.items() if id not in back & self._back}
        files, without = self._ids.assign(found, reserved=configured.keys() | away.keys())
        warnings.extend(f"{file.path} is left out: its name is too long" for file in without)
        files |= configured
        away |= {id: file.outage for id, file in files.items() if file.outage is not None}
        bindings = self._bindings(files, configured, away)
        self._leave_out(files, away, settings, missing)
        absent = sorted(settings.keys() - files.keys())
        warnings.extend(missing[id] for id in absent if settings[id].enabled and id in missing)
        return Listing(
            files=files,
            outages=away,
            bindings=bindings,
            back=back,
            unreadable=tuple(outage for top in self.paths if (outage := outages.of_directory(top))),
            warnings=tuple(warnings),
            missing=missing,
        )

    def remember(self, listing: Listing) -> tuple[str, ...]:
        """Store what the ids mean now, and return those that mean no file any more."""
        self._back = listing.back
        return self._ids.remember(listing.bindings)

    def unlisted(self) -> dict[str, Outage]:
        """By id, the known files; before the first listing nothing more can be said of any of them."""
        return {
            id: Outage(Path(each.path).parent, "it has not been listed yet")
            for id, each in self._ids.bindings.items()
        }

    def look(self, entry: Entry) -> ModelFile:
        """The current state of one file. Raises ModelFileGone when it does not exist."""
        own = [directory for directory in self.paths if entry.path.is_relative_to(directory)]
        file = look(entry, self._roots(own))
        if file.error is None:
            return file  # without a question to the other directories, whose drives may not answer
        return look(entry, self._roots(self.paths))

    def _found(self, taken: set[Path], warnings: list[str], unlisted: dict[Path, Outage]) -> list[ModelFile]:
        """Everything named as a model, but for what is taken, directory by directory.

        Fills `unlisted`: the folders of which not all could be listed, and why.
        """
        roots = self._roots(self.paths)
        files: dict[Path, ModelFile] = {}
        for entry in self._entries(warnings, unlisted):
            if entry.path not in taken:
                try:
                    files.setdefault(entry.place, look(entry, roots))
                except ModelFileGone:
                    continue  # taken away meanwhile
        return list(files.values())

    def _entries(self, warnings: list[str], unlisted: dict[Path, Outage]) -> Iterator[Entry]:
        def failed(error: OSError, store: Path | None = None) -> None:
            place = Path(error.filename or store or "")
            unlisted[store or place] = Outage(place, error.strerror or str(error))
            warnings.append(f"the directory {place} cannot be read: {error.strerror}")

        def left_out(path: Path, reason: str) -> None:
            warnings.append(f"{path} is left out: {reason}")

        def store_at(directory: Path, names: Sequence[str]) -> folder.Store | None:
            store = stores.store_at(directory, names)
            if store is None:
                return None
            found = store.entries(failed=partial(failed, store=directory), warn=warnings.append)
            return folder.Store(found, store.folders)

        for top in self.paths:
            for entry in folder.entries(
                top, failed=failed, left_out=left_out, store_at=store_at, follow_links=self._anywhere
            ):
                labelled = stores.labelled(entry)
                if labelled.source != "directory" and is_companion(labelled.path.name):
                    continue
                if labelled.is_unicode:
                    yield labelled
                else:
                    left_out(labelled.place, "its name, or that of a folder, is not UTF-8")

    def _away(
        self,
        configured: Mapping[str, ModelFile],
        found: Sequence[ModelFile],
        settings: Mapping[str, ModelSettings],
        outages: Outages,
    ) -> dict[str, Outage]:
        """By id, why a known file that was not found is out of reach, if it was not deleted."""
        here = {str(file.entry.place) for file in (*found, *configured.values())}
        away: dict[str, Outage | None] = {
            id: outages.of(Path(each.path), each.folder_device)
            for id, each in self._ids.bindings.items()
            if id not in configured and each.path not in here
        }
        for id, its in settings.items():
            if id not in configured and away.get(id) is None and its.model_path is not None:
                reasons = (outages.of(path, None) for path in self._candidates(its.model_path))
                away[id] = next(filter(None, reasons), None)
        return {id: outage for id, outage in away.items() if outage is not None}

    def _bindings(
        self,
        files: Mapping[str, ModelFile],
        configured: Mapping[str, ModelFile],
        away: Mapping[str, Outage],
    ) -> dict[str, Binding]:
        """What each id means after this scan; what is out of reach is as it was when it was last seen."""
        kept = {id: each for id, each in self._ids.bindings.items() if id in away}
        now = {id: Binding.to(file, configured=id in configured) for id, file in files.items()}
        return now | kept

    def _leave_out(
        self,
        files: dict[str, ModelFile],
        away: dict[str, Outage],
        settings: Mapping[str, ModelSettings],
        missing: dict[str, str],
    ) -> None:
        """Leave out what is switched off, and say of the other configured models why they have no file."""
        for id, its in settings.items():
            if not its.enabled:
                files.pop(id, None)
                away.pop(id, None)
                missing[id] = f"{id} is switched off by `enabled = false`"
            elif its.base is not None and its.model_path is None and id not in files:
                continue  # a name for a model with adapters
            elif id in away:
                missing[id] = f"{id} is configured, but {away[id]}"
            elif id not in files:
                hint = suggestion(id, sorted(files.keys() - settings.keys()))
                missing.setdefault(id, f"{id} is configured, but no model directory has its file{hint}")

    def _configured_files(
        self, settings: Mapping[str, ModelSettings]
    ) -> tuple[dict[str, ModelFile], dict[str, str]]:
        """The files that configured `model_path`s name, and by id why one has none."""
        files: dict[str, ModelFile] = {}
        missing: dict[str, str] = {}
        for model_id, its in settings.items():
            if its.model_path is not None:
                try:
                    files[model_id] = self._configured(its.model_path)
                except ModelFileGone as error:
                    missing[model_id] = error.message
        return files, missing

    def _configured(self, model_path: str) -> ModelFile:
        """The file that a `model_path` names, in the first directory that has it. Raises ModelFileGone."""
        asked = Path(model_path)
        if ".." in asked.parts:
            return refused(asked, "its model_path has '..' in it; give a path below a model directory")
        if asked.is_absolute() and not any(asked.is_relative_to(directory) for directory in self.paths):
            return refused(asked, "its model_path leads out of the model directories")
        for candidate in self._candidates(model_path):
            try:
                return self.look(Entry(ids=(), path=candidate))
            except ModelFileGone:
                continue
        raise ModelFileGone(f"no model directory has the file {model_path!r} of its model_path")

    def _candidates(self, model_path: str) -> list[Path]:
        """Where the file of a `model_path` may be."""
        asked = Path(model_path)
        return [asked] if asked.is_absolute() else [directory / asked for directory in self.paths]

    def _roots(self, directories: Sequence[Path]) -> list[Path]:
        """Where files may really be: in the directories, without links, or anywhere."""
        return [Path("/")] if self._anywhere else [directory.resolve() for directory in directories]
