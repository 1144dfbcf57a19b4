"""What is wrong with a body that is no JSON, and where: for whoever has to mend what sends it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from itertools import islice
from typing import Any, Final, TypeAlias

from suite.errors import InvalidJson, InvalidRequest, SuiteError

_REMEDY: Final = "send one UTF-8 JSON object"
_SEARCHED_BYTES: Final = 1 << 20
"""Larger bodies are not searched for what Python's parser takes and JSON has not."""
_SEARCHED_VALUES: Final = 10_000
"""So many values of a body are searched: a few hundredths of a second in which nobody else is answered."""
_PATH_CHARACTERS: Final = 200
_Found: TypeAlias = tuple[str, Any, str]
"""A value: its name in an object, itself, and its path."""
_place = re.compile(r"\(byte (\d+)\)").search
_surrogate = re.compile("[\ud800-\udfff]").search


def refusal(body: bytes, error: Exception) -> SuiteError:
    """Why a body cannot be read, and what to do. ``error`` is what msgspec says."""
    document = _lenient(body)
    if (half := half_character(document)) is not None:
        return half
    if (path := _not_number(document)) is not None:
        reason, remedy = f"{path} is NaN or infinite", "JSON has no NaN and no Infinity, leave the field out"
    else:
        reason, remedy = _told(body, error)
    return InvalidJson(f"the body is not JSON ({reason}): {remedy}")


def half_character(fields: object) -> InvalidRequest | None:
    """The error for the first text or name with half of a surrogate pair in it; None if there is none.

    JavaScript has such halves when it cuts a text within a character.
    """
    for name, value, path in _searched(fields):
        if _surrogate(name) or (isinstance(value, str) and _surrogate(value)):
            return InvalidRequest(
                f"field '{_shown(path)}': half of a surrogate pair, which is no character: send whole ones"
            )
    return None


def _not_number(document: object) -> str | None:
    """Where the first NaN or infinite number is; None if there is none."""
    for _, value, path in _searched(document):
        if isinstance(value, float) and not math.isfinite(value):
            return f"field '{_shown(path)}'" if path else "it"
    return None


def _told(body: bytes, error: Exception) -> tuple[str, str]:
    if not body.strip():
        return "it is empty", _REMEDY
    if isinstance(error, RecursionError):
        return "it is nested too deeply", "send fewer levels"
    if isinstance(error, UnicodeDecodeError):
        return f"it is not UTF-8: {error.reason}", _REMEDY
    if (place := _place(str(error))) is None:
        return f"{error}: it ends too early", "send all of it"
    before = body[: int(place[1])]
    line, column = before.count(b"\n") + 1, len(before) - before.rfind(b"\n")
    return f"{error}, line {line}, column {column}", _REMEDY


def _lenient(body: bytes) -> object:
    """What is in a body if Python's parser, which takes more than JSON, can read it; None if it cannot."""
    if len(body) > _SEARCHED_BYTES:
        return None
    try:
        return json.loads(body.decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError):
        return None


def _searched(document: object) -> Iterator[_Found]:
    """What is in a document, as it is read: each value before what is in it."""
    return islice(_everything(document), _SEARCHED_VALUES)


def _everything(document: object) -> Iterator[_Found]:
    within: list[Iterator[_Found]] = [iter([("", document, "")])]
    while within:
        if (found := next(within[-1], None)) is None:
            within.pop()
        else:
            yield found
            within.append(_inside(found[1], found[2]))


def _inside(value: Any, path: str) -> Iterator[_Found]:
    """What is in an object or a list."""
    if len(path) > _PATH_CHARACTERS:
        path = path[:_PATH_CHARACTERS]  # nobody reads more of it, and each of many values would get all of it
    match value:
        case dict():
            for name, below in value.items():
                yield name, below, f"{path}{'.' if path else ''}{name}"
        case list() | tuple():
            for index, below in enumerate(value):
                yield "", below, f"{path}[{index}]"


def _shown(path: str) -> str:
    return path[:_PATH_CHARACTERS].encode(errors="replace").decode()
