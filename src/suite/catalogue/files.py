"""Finds model files in the directories, by their names and stat only. Everything here blocks."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from suite.config import ModelSettings
from suite.engine.gguf.file import MAX_PARTS, split_name
from suite.engine.gguf.signature import FileState, Signature
from suite.errors import InvalidRequest, ModelFileGone, ModelFileInvalid, SuiteError
from suite.messages.subjects import escape

_SUFFIX = ".gguf"


class ModelFile(msgspec.Struct, frozen=True, kw_only=True):
    """A model's file at the time of a scan."""

    path: Path
    parts: tuple[Path, ...] = ()
    """The files that the signature is about."""
    signature: Signature
    error: SuiteError | None = None
    """Why it is refused without being read."""


class Listing(msgspec.Struct, frozen=True, kw_only=True):
    """The model files by id, and warnings about what was left out."""

    files: dict[str, ModelFile]
    warnings: tuple[str, ...]
    missing: dict[str, str]
    """By id, why a configured model has no file."""


class Directories:
    """The only directories that model files may be in."""

    def __init__(self, directories: Sequence[Path]) -> None:
        self.paths = tuple(Path(os.path.abspath(directory)) for directory in directories)  # noqa: PTH100

    def listing(self, settings: Mapping[str, ModelSettings]) -> Listing:
        """List the model files that exist now."""
        warnings: list[str] = []
        roots = self._roots()
        files, missing = self._configured_files(settings)
        taken = {file.path for file in files.values()}
        off = {model_id for model_id, its in settings.items() if not its.enabled}
        for model_id in off:
            files.pop(model_id, None)
            missing[model_id] = f"{model_id} is switched off by `enabled = false`"
        for model_id, path in self._walk(warnings):
            if model_id in off or path in taken:
                continue
            if model_id in files:
                warnings.append(f"{path} is left out: {files[model_id].path} has the id {model_id!r} already")
            elif not _is_valid_id(model_id):
                warnings.append(f"{os.fsencode(path)!r} is left out: its name is not valid Unicode")
            else:
                with contextlib.suppress(ModelFileGone):  # taken away meanwhile
                    files[model_id] = self._look(path, roots)
        absent = sorted(settings.keys() - off - files.keys())
        for model_id in absent:
            missing.setdefault(model_id, f"{model_id} is configured, but no model directory has its file")
        warnings.extend(missing[model_id] for model_id in absent)
        return Listing(files=files, warnings=tuple(warnings), missing=missing)

    def look(self, path: Path) -> ModelFile:
        """The current state of one file. Raises ModelFileGone when it does not exist."""
        return self._look(path, self._roots())

    def _look(self, path: Path, roots: Sequence[Path]) -> ModelFile:
        error: SuiteError | None = None
        seen: dict[Path, os.stat_result] = {}
        for part in _parts(path):
            try:
                real = Path(os.path.realpath(part, strict=True))
                if not any(real.is_relative_to(root) for root in roots):
                    error = _refusal(
                        path, "it is a link out of the model directories; put the file itself there"
                    )
                seen[part] = part.stat()
            except OSError as failure:
                if isinstance(failure, FileNotFoundError) and part is path and not path.is_symlink():
                    raise ModelFileGone(
                        f"{path.name} is gone: put it back, or choose another model"
                    ) from None
                if not (isinstance(failure, FileNotFoundError) and part is not path):
                    error = _refusal(path, f"it cannot be read ({failure.strerror or failure})")
        signature = Signature(tuple(map(FileState.of, seen.values())))
        if error is None and not stat.S_ISREG(seen[path].st_mode):
            error = _refusal(
                path, "it is a directory" if stat.S_ISDIR(seen[path].st_mode) else "it is not a regular file"
            )
        return ModelFile(path=path, parts=tuple(seen), signature=signature, error=error)

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
            return _refused(asked, "its model_path has '..' in it; give a path below a model directory")
        candidates = [asked] if asked.is_absolute() else [directory / asked for directory in self.paths]
        if asked.is_absolute() and not any(asked.is_relative_to(directory) for directory in self.paths):
            return _refused(asked, "its model_path leads out of the model directories")
        for candidate in candidates:
            try:
                return self.look(candidate)
            except ModelFileGone:
                continue
        raise ModelFileGone(f"no model directory has the file {model_path!r} of its model_path")

    def _roots(self) -> list[Path]:
        """The real paths of the directories, without links."""
        return [directory.resolve() for directory in self.paths]

    def _walk(self, warnings: list[str]) -> Iterator[tuple[str, Path]]:
        """Yield id and path of everything named like a model; a directory comes before its subdirectories."""

        def failed(error: OSError) -> None:
            warnings.append(f"the directory {error.filename} cannot be read: {error.strerror}")

        for top in self.paths:
            for directory, names, files in os.walk(top, onerror=failed):
                models = {name for name in (*names, *files) if name.lower().endswith(_SUFFIX)}
                for name in sorted(models):
                    model_id = _id(name)
                    if model_id is not None:
                        yield model_id, Path(directory, name)
                names[:] = sorted(name for name in set(names) - models if not name.startswith("."))
                linked = [path for name in names if (path := Path(directory, name)).is_symlink()]
                warnings.extend(
                    f"{path} is left out: links to directories are not followed" for path in linked
                )


def _id(file_name: str) -> str | None:
    """The id derived from a file name; None for hidden files and the later parts of a split model."""
    split = split_name(file_name)
    if split is not None:
        return split[0] if split[1] == 1 else None
    return None if file_name.startswith(".") else file_name[: -len(_SUFFIX)]


def _is_valid_id(model_id: str) -> bool:
    """Whether the id can be used in requests and subjects."""
    try:
        escape(model_id)
    except InvalidRequest:
        return False
    return True


def _parts(path: Path) -> list[Path]:
    split = split_name(path.name)
    if split is None:
        return [path]
    base, _, count = split
    count = min(count, MAX_PARTS)  # the inspection refuses more
    return [path] + [
        path.with_name(f"{base}-{part:05}-of-{count:05}{_SUFFIX}") for part in range(2, count + 1)
    ]


def _refusal(path: Path, reason: str) -> ModelFileInvalid:
    return ModelFileInvalid(f"{path.name} is refused: {reason}")


def _refused(path: Path, reason: str) -> ModelFile:
    return ModelFile(path=path, signature=Signature(), error=_refusal(path, reason))
