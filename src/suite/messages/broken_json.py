"""What is wrong with a body that is no JSON, and where: for whoever has to mend what sends it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import Any, Final

from suite.errors import InvalidJson, InvalidRequest, SuiteError

_REMEDY: Final = "send one UTF-8 JSON object"
_SEARCHED_BYTES: Final = 1 << 20
"""Larger bodies are not searched for what Python's parser takes and JSON has not."""
_place = re.compile(r"\(byte (\d+)\)").search
_surrogate = re.compile("[\ud800-\udfff]").search


def refusal(body: bytes, error: Exception) -> SuiteError:
    """Why a body cannot be read, and what to do. ``error`` is what msgspec says."""
    document = _lenient(body)
    if (half := half_character(document)) is not None:
        return half
    if (path := next(_not_numbers(document, ""), None)) is not None:
        reason, remedy = f"{path} is NaN or infinite", "JSON has no NaN and no Infinity, leave the field out"
    else:
        reason, remedy = _told(body, error)
    return InvalidJson(f"the body is not JSON ({reason}): {remedy}")


def half_character(fields: object) -> InvalidRequest | None:
    """The error for the first text or name with half of a surrogate pair in it; None if there is none.

    JavaScript has such halves when it cuts a text within a character.
    """
    path = next(_half_characters(fields, ""), None)
    if path is None:
        return None
    return InvalidRequest(f"field '{path}': half of a surrogate pair, which is no character: send whole ones")


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


def _not_numbers(value: Any, path: str) -> Iterator[str]:
    if isinstance(value, float) and not math.isfinite(value):
        yield f"field '{_shown(path)}'" if path else "it"
    for _, below, inner in _inside(value, path):
        yield from _not_numbers(below, inner)


def _half_characters(value: Any, path: str) -> Iterator[str]:
    if isinstance(value, str) and _surrogate(value):
        yield _shown(path)
    for name, below, inner in _inside(value, path):
        if _surrogate(name):
            yield _shown(inner)
        yield from _half_characters(below, inner)


def _inside(value: Any, path: str) -> Iterator[tuple[str, Any, str]]:
    """What is in an object or a list: its name, itself, and its path."""
    match value:
        case dict():
            for name, below in value.items():
                yield str(name), below, f"{path}{'.' if path else ''}{name}"
        case list() | tuple():
            for index, below in enumerate(value):
                yield "", below, f"{path}[{index}]"


def _shown(path: str) -> str:
    return path[:200].encode(errors="replace").decode()
