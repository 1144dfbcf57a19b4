"""Which models a repository offers, and which of them is meant."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath
from typing import Final

import msgspec

from suite.engine.gguf.names import SUFFIX, is_model_name, part_names
from suite.errors import HubChoiceUnclear, HubModelNotFound
from suite.units import size

PREFERRED: Final = "Q4_K_M"
"""The quantization that most people want: a quarter of the size, and hardly worse."""

_SHOWN = 40


class HubFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file of a repository."""

    path: str
    """Within the repository."""
    bytes: int
    sha256: str | None
    """None for a file that is not in large file storage."""


class Offer(msgspec.Struct, frozen=True, kw_only=True):
    """A model of a repository: a file, or all parts of a split one in their order."""

    files: tuple[HubFile, ...]

    @property
    def path(self) -> str:
        """The file that it is named by; of a split model, the first part."""
        return self.files[0].path

    @property
    def bytes(self) -> int:
        """The size of all files."""
        return sum(file.bytes for file in self.files)


def offers(files: Iterable[HubFile]) -> list[Offer]:
    """The models among the files of a repository, by path. Split ones of which a part is missing are none."""
    models: list[Offer] = []
    by_path = {file.path: file for file in files}
    for path in map(PurePosixPath, sorted(by_path)):
        parts = part_names(path.name)
        if is_model_name(path.name) and path.name == parts[0]:
            found = [by_path.get(str(path.with_name(part))) for part in parts]
            whole = tuple(file for file in found if file is not None)
            if len(whole) == len(parts):
                models.append(Offer(files=whole))
    return models


def choose(repository: str, models: Sequence[Offer], wanted: str | None) -> Offer:
    """The model that is wanted: the one of this name or quantization, or the only one, or the preferred.

    Raises HubModelNotFound and HubChoiceUnclear, with a list of what there is.
    """
    if not models:
        raise HubModelNotFound(
            f"{repository} has no GGUF file: look for a repository whose name ends in -GGUF"
        )
    found = _named(models, wanted) if wanted else _default(models)
    if len(found) == 1:
        return found[0]
    if not found and wanted:
        raise HubModelNotFound(f"{repository} has no {wanted}; it has:\n{listing(repository, models)}")
    raise HubChoiceUnclear(
        f"{repository} has several models; add one of these:\n{listing(repository, found or models)}"
    )


def listing(repository: str, models: Sequence[Offer]) -> str:
    """A line a model, as it can be typed, with its size."""
    lines = [f"  {repository}:{offer.path}  {size(offer.bytes)}" for offer in models[:_SHOWN]]
    if len(models) > _SHOWN:
        lines.append(f"  and {len(models) - _SHOWN} more")
    return "\n".join(lines)


def _default(models: Sequence[Offer]) -> Sequence[Offer]:
    if len(models) == 1:
        return models
    return [offer for offer in models if _has_word(offer, PREFERRED)]


def _named(models: Sequence[Offer], wanted: str) -> Sequence[Offer]:
    names = {wanted.lower(), f"{wanted}{SUFFIX}".lower()}
    exact = [
        offer for offer in models if {offer.path.lower(), PurePosixPath(offer.path).name.lower()} & names
    ]
    return exact or [offer for offer in models if _has_word(offer, wanted)]


def _has_word(offer: Offer, word: str) -> bool:
    """Whether a path has a word such as `Q4_K_M` that nothing but `-`, `.`, `_` and `/` is next to."""
    pattern = rf"(?:^|[-./_]){re.escape(word)}(?:$|[-./])"
    return re.search(pattern, offer.path.removesuffix(SUFFIX), re.IGNORECASE) is not None
