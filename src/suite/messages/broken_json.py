"""What is wrong with a body that is no JSON, and where: for whoever has to mend what sends it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import Any, Final

_REMEDY: Final = "send one UTF-8 JSON object"
_SEARCHED_BYTES: Final = 1 << 20
"""Larger bodies are not searched for what Python's parser takes and JSON has not."""
_place = re.compile(r"\(byte (\d+)\)").search
_surrogate = re.compile("[\ud800-\udfff]").search


def complaint(body: bytes, error: Exception) -> str:
    """Why a body cannot be read, and what to do. ``error`` is what msgspec says."""
    reason, remedy = _found(body) or _told(body, error)
    return f"the body is not JSON ({reason}): {remedy}"


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


def _found(body: bytes) -> tuple[str, str] | None:
    """What is wrong and what to do, if Python's parser, which takes more, can read it."""
    if len(body) > _SEARCHED_BYTES:
        return None
    try:
        return next(_strange(json.loads(body), ""), None)
    except (ValueError, RecursionError):
        return None


def _strange(value: Any, path: str) -> Iterator[tuple[str, str]]:
    match value:
        case dict():
            for name, each in value.items():
                yield from _strange(name, path)
                yield from _strange(each, f"{path}.{name}" if path else str(name))
        case list():
            for index, each in enumerate(value):
                yield from _strange(each, f"{path}[{index}]")
        case float() if not math.isfinite(value):
            yield f"{_field(path)} is NaN or infinite", "JSON has no NaN and no Infinity, leave it out"
        case str() if half := _surrogate(value):
            escaped = half[0].encode("unicode_escape").decode()
            yield f"{_field(path)} has one half of a character, {escaped}", "send whole ones"


def _field(path: str) -> str:
    shown = path[:100].encode(errors="backslashreplace").decode()
    return f"field '{shown}'" if shown else "it"
