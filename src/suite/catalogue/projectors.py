"""Which projector (mmproj) belongs to a model: one in its folder that is named like it and fits."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from suite.engine.gguf.file import GgufInfo
from suite.engine.gguf.names import SUFFIX, is_projector_name, split_name
from suite.engine.gguf.projector import ProjectorInfo, inspect_projector
from suite.engine.pictures.availability import why_missing
from suite.errors import ModelFileInvalid

NO_PROJECTOR: Final = "none"
"""What the setting `projector` of a model has so that it reads no pictures."""

_NONE_THERE: Final = (
    "it has no projector; put its mmproj file beside it, named like it, or set projector to its path"
)
_PRECISION: Final = re.compile(r"[-_.](?:ud[-_])?(?:i?q\d\w*|mxfp4\w*|b?f16|fp16|f32|fp32)\Z")
"""The end of a name that tells of precision, such as ``-Q4_K_M``."""
_BEST_FIRST: Final = ("f16", "bf16", "q8_0", "f32")
_ANY_NAME: Final = frozenset({"mmproj", "model"})


class Pairing(NamedTuple):
    """How a model reads pictures, or why it reads none."""

    projector: ProjectorInfo | None
    lack: str = ""
    """Why it reads no pictures; empty if it does."""


UNPAIRED: Final = Pairing(None, "it cannot be loaded")


def pair(path: Path, info: GgufInfo, candidates: Sequence[Path], configured: str | None) -> Pairing:
    """The projector of a model: the configured one, or of the candidates the one that fits.

    Blocks, as it reads their headers.
    """
    if not info.generates or configured == NO_PROJECTOR:
        return Pairing(None, "it is switched off" if info.generates else "it generates no text")
    told = [path.parent / configured] if configured else _told_by_store(candidates)
    chosen = told or _named_alike(path, candidates)
    if not chosen:
        return Pairing(None, _NONE_THERE)
    if (missing := why_missing()) is not None:
        return Pairing(None, missing)
    pairings = [_checked(each, info, is_certain=bool(told) or not _is_of_any(each)) for each in chosen]
    return next((each for each in pairings if each.projector is not None), pairings[0])


def name_beside(model_file: str, projector_file: str) -> str:
    """What a projector is to be called so that it is that of a model file, whatever else is in their folder.

    Its own name, if that says so.
    """
    if is_projector_name(projector_file) and _words(projector_file) == _words(model_file):
        return projector_file
    split = split_name(model_file)
    return f"mmproj-{split[0] if split else model_file.removesuffix(SUFFIX)}{SUFFIX}"


def _told_by_store(candidates: Sequence[Path]) -> list[Path]:
    """Those that a store says are the model's: they have no name that says anything."""
    return [each for each in candidates if not is_projector_name(each.name)]


def _checked(path: Path, info: GgufInfo, *, is_certain: bool) -> Pairing:
    try:
        found = inspect_projector(path)
    except ModelFileInvalid as invalid:
        return Pairing(None, invalid.message)
    if not found.sees:
        return Pairing(None, f"{path.name} reads no pictures")
    if found.embedding_length is None and not is_certain:
        return Pairing(None, f"{path.name} does not say for which model it is; set projector to its path")
    if found.embedding_length not in (None, info.embedding_length):
        return Pairing(
            None,
            f"{path.name} is for models with an embedding of {found.embedding_length}, and this one has "
            f"{info.embedding_length}",
        )
    return Pairing(found)


def _named_alike(path: Path, candidates: Sequence[Path]) -> list[Path]:
    """The candidates that are named like the model, then those with a name for any, the best first."""
    own = _words(path.name)
    alike = [each for each in candidates if _words(each.name) in (own, ())]
    return sorted(alike, key=lambda each: (_is_of_any(each), _precision(each), each.name))


def _is_of_any(path: Path) -> bool:
    return not _words(path.name)


def _precision(path: Path) -> int:
    name = path.name.lower()
    found = (index for index, each in enumerate(_BEST_FIRST) if re.search(rf"(?<![a-z0-9]){each}", name))
    return next(found, len(_BEST_FIRST))


def _words(file_name: str) -> tuple[str, ...]:
    """What a name says of the model, without precision and without that it is a projector."""
    split = split_name(file_name)
    plain = _PRECISION.sub("", (split[0] if split else file_name.removesuffix(SUFFIX)).lower())
    return tuple(word for word in re.split(r"[-_. ]+", plain) if word and word not in _ANY_NAME)
