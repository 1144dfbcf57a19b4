"""What is wrong with a body that is no JSON, and where: for whoever has to mend what sends it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import Any, Final

_SEARCHED_BYTES: Final = 1 << 20
"""Larger bodies are not searched for what Python's parser takes and JSON has not."""
_place = re.compile(r"\(byte (\d+)\)").search
_surrogate = re.compile("[\ud800-\udfff]").search


def complaint(body: bytes, error: Exception) -> str:
    """Why a body cannot be read, and what to do. ``error`` is what msgspec says."""
    if (found := _found(body)) is not None:
        return found
    if not body.strip():
        return "the body is empty: send one UTF-8 JSON object"
    if isinstance(error, RecursionError):
        return "the body is nested too deeply: send one UTF-8 JSON object with fewer levels"
    if isinstance(error, UnicodeDecodeError):
        return f"the body is not UTF-8 ({error.reason}): send one UTF-8 JSON object"
    if (place := _place(str(error))) is None:
        return f"the body is not JSON ({error}): it ends too early, send one whole UTF-8 JSON object"
    before = body[: int(place[1])]
    line, column = before.count(b"\n") + 1, len(before) - before.rfind(b"\n")
    return f"the body is not JSON ({error}, line {line}, column {column}): send one UTF-8 JSON object"


def _found(body: bytes) -> str | None:
    """What is wrong if Python's parser, which takes more, can read it."""
    if len(body) > _SEARCHED_BYTES:
        return None
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return next(_strange(document, ""), None)


def _strange(value: Any, path: str) -> Iterator[str]:
    match value:
        case dict():
            for name, each in value.items():
                yield from _strange(name, path)
                yield from _strange(each, f"{path}.{name}" if path else str(name))
        case list():
            for index, each in enumerate(value):
                yield from _strange(each, f"{path}[{index}]")
        case float() if not math.isfinite(value):
            yield f"{_field(path)}JSON has no NaN and no Infinity: leave it out"
        case str() if half := _surrogate(value):
            escaped = half[0].encode("unicode_escape").decode()
            yield f"{_field(path)}it has one half of a character, {escaped}: send whole ones"


def _field(path: str) -> str:
    shown = path[:100].encode(errors="backslashreplace").decode()
    return f"field '{shown}': " if shown else ""
