"""What the files of a model are called on another node, so that it has the same id there."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from suite.catalogue import Model
from suite.engine.gguf.names import SUFFIX


def names_elsewhere(model: Model, directories: Iterable[Path]) -> list[str]:
    """The paths of a model's files below a model directory, as they are below one of `directories` here.

    What lies in another program's store is called as `suite pull` would call it, or by its id.
    """
    entry = model.file.entry
    if entry.source == "huggingface" and entry.repository is not None:
        folder = PurePosixPath(entry.repository)
    elif entry.named_by is not None:
        return [f"{model.model_id.removesuffix(SUFFIX)}{SUFFIX}"]
    else:
        folder = _folder(model.path.parent, directories)
    return [str(folder / path.name) for path in model.file.parts]


def _folder(path: Path, directories: Iterable[Path]) -> PurePosixPath:
    """The folder below the model directory that it is in, the innermost if these are in each other."""
    found = [path.relative_to(top) for top in directories if path.is_relative_to(top)]
    return PurePosixPath(min(found, key=lambda each: len(each.parts), default=Path()))
