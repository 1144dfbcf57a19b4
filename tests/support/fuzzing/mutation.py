"""Changes valid inputs a little, so that they get past the first check and fail a later one."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import Any, Final

NUMBERS: Final = (
    0,
    -1,
    1,
    2,
    16,
    255,
    2**31 - 1,
    2**31,
    2**32,
    2**53,
    2**63,
    -(2**63),
    10**30,
    10**400,
    0.5,
    1e308,
    -0.0,
)
TEXTS: Final = (
    "",
    " ",
    "\0",
    "\x7f\x1b[31m",
    "é\u202e\ufeff𝄞",
    "a" * 300,
    "a" * 70_000,
    "../../etc/passwd",
    "a.b.*.>",
    "$SYS.x",
    "%s%n{0}",
    "2026-02-30T25:61:61Z",
    "0001-01-01T00:00:00+14:00",
    "9999-12-31T23:59:59-14:00",
    "1e999",
    "null",
    "\u2028</s><|im_end|>",
    "data:image/png;base64,AAAA",
)
BYTES: Final = (0x00, 0x01, 0x09, 0x0A, 0x0D, 0x20, 0x22, 0x2C, 0x5B, 0x5C, 0x7B, 0x7D, 0x7F, 0x80, 0xFF)
_PIECES: Final = (
    *(b"NaN", b"-Infinity", b"1e999", b'"\\ud800"', b"\xff\xfe", b"\xef\xbb\xbf", b"\r\n", b"\0"),
    *(b"null", b"{}", b"[]", b'""', b"[" * 5000, b'{"a":' * 3000, b'"\\u0000"', b"//", b"'"),
)
_NESTED: Final = "\u2603 something nested \u2603"
"""What becomes something nested to any depth once it is JSON: what writes JSON here would not go so deep."""
_DEPTHS: Final = (100, 300, 600, 900, 950, 980, 990, 1100)
"""About those to which the decoders of requests, events and schemas go."""
_Place = tuple[Any, Any]
"""What contains a value, and its key or index there."""


def junk(random: Random, depth: int = 2) -> Any:
    """Any JSON value."""
    match random.randrange(8 if depth else 6):
        case 0:
            return random.choice((None, True, False, _NESTED))
        case 1 | 2:
            return random.choice(NUMBERS)
        case 3 | 4:
            return random.choice(TEXTS)
        case 5:
            return random.choice(([], {}, [[]], [None], {"": None}, {"type": "object"}))
        case 6:
            return [junk(random, depth - 1) for _ in range(random.randrange(5))]
        case _:
            return {text(random): junk(random, depth - 1) for _ in range(random.randrange(4))}


def text(random: Random) -> str:
    """A short text, most of them ordinary."""
    if random.random() < 0.2:
        return random.choice(TEXTS[:-1])
    return "".join(random.choices("ab \n\"\\{}[]<>/.,:0159é%'", k=random.randrange(12)))


def mutated_document(document: Any, random: Random) -> Any:
    """A copy of a JSON document in which a few values or names are others."""
    changed = copy.deepcopy(document)
    for _ in range(random.choice((1, 1, 1, 2, 3, 6))):
        if not (places := list(_places(changed))):
            return junk(random)
        random.choice(_CHANGES)(places, random)
    return changed


def _places(value: Any) -> Iterator[_Place]:
    keys: Sequence[Any] = list(value) if isinstance(value, dict) else []
    keys = range(len(value)) if isinstance(value, list) else keys
    for key in keys:
        yield value, key
        yield from _places(value[key])


def _replace(places: list[_Place], random: Random) -> None:
    inside, key = random.choice(places)
    inside[key] = junk(random)


def _remove(places: list[_Place], random: Random) -> None:
    inside, key = random.choice(places)
    del inside[key]


def _wrap(places: list[_Place], random: Random) -> None:
    inside, key = random.choice(places)
    inside[key] = [inside[key]] if random.random() < 0.5 else {random.choice("ab"): inside[key]}


def _copy(places: list[_Place], random: Random) -> None:
    inside, key = random.choice(places)
    other, name = random.choice(places)
    inside[key] = copy.deepcopy(other[name])


def _rename(places: list[_Place], random: Random) -> None:
    inside, key = random.choice(places)
    if isinstance(inside, dict):
        inside[text(random)] = inside.pop(key)


def _add(places: list[_Place], random: Random) -> None:
    inside, _ = random.choice(places)
    if isinstance(inside, list):
        inside.extend([junk(random, 1)] * random.choice((1, 2, 200)))
    else:
        inside[text(random)] = junk(random)


def _nudge(places: list[_Place], random: Random) -> None:
    inside, key = random.choice(places)
    value = inside[key]
    if isinstance(value, str):
        inside[key] = mutated_text(value, random)
    elif isinstance(value, int | float):
        rounded = float(value) if abs(value) < 2**1000 else value
        inside[key] = random.choice((-value, value + 1, value - 1, value * 1000, str(value), rounded))


_CHANGES: Final[tuple[Callable[[list[_Place], Random], None], ...]] = (
    *(_replace, _replace, _nudge, _nudge, _remove, _wrap, _copy, _rename, _add),
)


def encoded(document: Any, random: Random, *, broken: float) -> bytes:
    """The document as JSON; so often, JSON with a few wrong bytes."""
    body = json.dumps(document, ensure_ascii=random.random() < 0.5).encode("utf-8", "surrogatepass")
    for each in (json.dumps(_NESTED).encode(), json.dumps(_NESTED, ensure_ascii=False).encode()):
        body = body.replace(each, _nested(random))
    return mutated_bytes(body, random) if random.random() < broken else body


def _nested(random: Random) -> bytes:
    """Lists or objects, each the only thing in another one."""
    depth = random.choice(_DEPTHS) + random.randrange(-9, 10)
    opening, closing = random.choice(((b"[", b"]"), (b'{"a":', b"}"), (b'{"items":', b"}")))
    return opening * depth + b"1" + closing * depth


def mutated_bytes(content: bytes, random: Random) -> bytes:
    """The content with a few bytes changed, cut, doubled or put in."""
    changed = bytearray(content)
    for _ in range(random.choice((1, 1, 2, 4))):
        at = random.randrange(len(changed) + 1)
        match random.randrange(6):
            case 0 | 1 if at < len(changed):
                changed[at] = random.choice((*BYTES, random.randrange(256)))
            case 2:
                del changed[at : at + random.choice((1, 2, 8, len(changed)))]
            case 3:
                changed[at:at] = random.choice(_PIECES)
            case 4:
                changed[at:at] = changed[at : at + random.randrange(64)]
            case _:
                other = random.randrange(len(changed) + 1)
                changed[at : at + 8] = changed[other : other + 8]
    return bytes(changed)


_TOKEN: Final = re.compile(r"\w+|\s+|.", re.DOTALL)


def mutated_text(source: str, random: Random, words: Sequence[str] = TEXTS) -> str:
    """The source with a few of its words taken out, doubled, exchanged, or replaced by one of the `words`."""
    tokens = _TOKEN.findall(source) or [""]
    for _ in range(random.choice((1, 1, 2, 3, 5))):
        at, other = random.randrange(len(tokens)), random.randrange(len(tokens))
        match random.randrange(6):
            case 0:
                tokens[at] = ""
            case 1:
                tokens[at] = tokens[other]
            case 2:
                tokens[at] += "".join(tokens[other : other + random.randrange(1, 20)])
            case 3:
                tokens[at], tokens[other] = tokens[other], tokens[at]
            case 4:
                tokens[at] = random.choice(words)
            case _:
                tokens[at] += random.choice(words)
    return "".join(tokens)
