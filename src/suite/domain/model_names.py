"""Which model a person means by what was typed: a name, an alias, or any unique beginning of one (ADR 31)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeAlias

from suite.errors import ModelNotFound

Names: TypeAlias = Mapping[str, Sequence[str]]
"""The names of each model by its id, the id among them."""

_CANDIDATES: Final = 8
"""How many ids an error lists."""


def meant_by(typed: str, names: Names) -> str:
    """The id that is meant, with the version that was typed behind an ``@``; what was typed if there is none.

    Raises ModelNotFound if several may be meant.
    """
    if found := _beginning_with(typed, names):
        return _one_of(typed, found)
    name, at, version = typed.rpartition("@")
    found = _beginning_with(name, names) if name else []
    return f"{_one_of(name, found)}{at}{version}" if found else typed


def _one_of(typed: str, model_ids: Sequence[str]) -> str:
    if len(model_ids) == 1:
        return model_ids[0]
    *shown, last = sorted(model_ids)
    if len(shown) >= _CANDIDATES:
        shown, last = shown[:_CANDIDATES], f"{len(shown) + 1 - _CANDIDATES} more"
    raise ModelNotFound(f"{typed!r} may be {', '.join(shown)} or {last}: type more of it")


def _beginning_with(typed: str, names: Names) -> list[str]:
    """The ids of the models that may be meant: by a whole name, by one in another case, by a beginning."""
    folded = typed.casefold()
    rules: tuple[Callable[[str], bool], ...] = (
        lambda name: name == typed,
        lambda name: name.casefold() == folded,
        lambda name: name.casefold().startswith(folded),
    )
    for meant in rules:
        if found := [model_id for model_id, own in names.items() if any(map(meant, own))]:
            return found
    return []
