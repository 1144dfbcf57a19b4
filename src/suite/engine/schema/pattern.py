"""Converts a regular expression of a JSON schema (ECMA 262) into a grammar of the strings that match it.

A pattern may match anywhere in a string, so any text may surround it where it has no anchor. Characters that
JSON does not permit within quotes are written as escapes if the pattern names them; dots and negated classes
leave them out.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from typing import NamedTuple, TypeAlias

_Ranges: TypeAlias = tuple[tuple[int, int], ...]
"""Code points, both ends included."""

_LAST = 0x10FFFF
_SURROGATES = (0xD800, 0xDFFF)
_ESCAPED_IN_JSON = ((0x00, 0x1F), (0x22, 0x22), (0x5C, 0x5C))
_LEFT_OUT = (*_ESCAPED_IN_JSON, (0x7F, 0x7F), _SURROGATES)
_LINE_ENDS = ((0x0A, 0x0A), (0x0D, 0x0D), (0x2028, 0x2029))
_WHITESPACE = (
    *((0x09, 0x0D), (0x20, 0x20), (0xA0, 0xA0), (0x1680, 0x1680), (0x2000, 0x200A), (0x2028, 0x2029)),
    *((0x202F, 0x202F), (0x205F, 0x205F), (0x3000, 0x3000), (0xFEFF, 0xFEFF)),
)
_SHORTHANDS: dict[str, _Ranges] = {
    "d": ((0x30, 0x39),),
    "w": ((0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A)),
    "s": ((0x20, 0x20),),  # a model that is free to choose other spaces runs away in them
}
_NEGATED_SHORTHANDS = {"D": _SHORTHANDS["d"], "W": _SHORTHANDS["w"], "S": _WHITESPACE}
_CONTROLS = {"t": 0x09, "n": 0x0A, "v": 0x0B, "f": 0x0C, "r": 0x0D}
_COUNT = re.compile(r"\{([0-9]{1,9})(,?)([0-9]{0,9})\}")
_CODE = re.compile(r"x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|u\{([0-9a-fA-F]{1,6})\}")
_MOST_REPEATS = 2000
"""llama.cpp refuses more."""


class UnsupportedPattern(ValueError):
    """A pattern cannot be converted into a grammar; the message names the unsupported part."""


class InvalidPattern(ValueError):
    """A text is no regular expression; the message says why."""


def to_gbnf(pattern: str) -> str:
    """Convert a pattern into the GBNF of the text between the quotes of a matching JSON string.

    The GBNF may refer to a rule `char`, one character of a JSON string. Raises UnsupportedPattern
    or InvalidPattern.
    """
    return _Reader(pattern).read()


class _Part(NamedTuple):
    rule: str
    may_be_empty: bool


class _Reader:
    """Parses a pattern from left to right."""

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._at = 0

    def read(self) -> str:
        alternatives = [self._alternative()]
        while self._take("|"):
            alternatives.append(self._alternative())
        if self._next == ")":
            raise InvalidPattern("its parentheses are not balanced")
        return " | ".join(alternatives)

    @property
    def _next(self) -> str:
        return self._pattern[self._at : self._at + 1]

    def _take(self, expected: str) -> bool:
        found = self._pattern.startswith(expected, self._at)
        self._at += len(expected) * found
        return found

    def _character(self) -> str:
        character = self._next
        self._at += 1
        return character

    def _alternative(self) -> str:
        """An alternative of the whole pattern; anchors are allowed only at its ends."""
        before = "" if self._take("^") else "char* "
        rule = self._sequence().rule
        after = "" if self._take("$") else " char*"
        if self._next not in ("", "|", ")"):
            raise UnsupportedPattern("$ is not supported but at the end of an alternative")
        return before + rule + after

    def _sequence(self) -> _Part:
        rules: list[str] = []
        may_be_empty = True
        while self._next not in ("", "|", ")", "$"):
            part = self._repeated(self._atom())
            may_be_empty &= part.may_be_empty
            if rules and _is_literal(rules[-1]) and _is_literal(part.rule):
                rules[-1] = rules[-1][:-1] + part.rule[1:]
            else:
                rules.append(part.rule)
        return _Part(" ".join(rules) or '""', may_be_empty)

    def _repeated(self, part: _Part) -> _Part:
        least, most = 1, 1
        if self._next in ("*", "+", "?"):
            times = self._character()
            least, most = {"*": (0, -1), "+": (1, -1), "?": (0, 1)}[times]
        elif count := _COUNT.match(self._pattern, self._at):
            least = int(count[1])
            most = int(count[3]) if count[3] else -1 if count[2] else least
            times = count[0]
            self._at = count.end()
        else:
            return part
        self._take("?")  # lazy or greedy, the same strings match
        if most < 0 and part.may_be_empty:
            raise UnsupportedPattern(f"{times} after what may be empty is not supported")
        if 0 <= most < least:
            raise InvalidPattern(f"{times} is the wrong way round")
        if max(least, most) > _MOST_REPEATS:
            raise UnsupportedPattern(f"{times} is more than the {_MOST_REPEATS} that can be counted")
        return _Part(f"{part.rule}{times}" if most else '""', part.may_be_empty or least == 0)

    def _atom(self) -> _Part:
        character = self._character()
        if character == "(":
            return self._group()
        if character == "[":
            return _Part(_class(self._members()), False)
        if character == ".":
            return _Part(_class(_all_but(_LINE_ENDS)), False)
        if character == "\\":
            escaped = self._escape()
            return _Part(_literal(escaped) if isinstance(escaped, int) else _class(escaped), False)
        if character == "^":
            raise UnsupportedPattern("^ is not supported but at the beginning of an alternative")
        if character in "*+?":
            raise InvalidPattern(f"{character} has nothing to repeat")
        if character == "{":
            raise UnsupportedPattern(r"{ that counts nothing has to be \{")
        return _Part(_literal(ord(character)), False)

    def _group(self) -> _Part:
        if self._take("?") and not self._take(":"):
            raise UnsupportedPattern(f"(?{self._next} is not supported")
        parts = [self._sequence()]
        while self._take("|"):
            parts.append(self._sequence())
        if self._next == "$":
            raise UnsupportedPattern("$ within parentheses is not supported")
        if not self._take(")"):
            raise InvalidPattern("its parentheses are not balanced")
        rule = f"({' | '.join(part.rule for part in parts)})"
        return _Part(rule, any(part.may_be_empty for part in parts))

    def _members(self) -> _Ranges:
        """The characters that a class in brackets permits."""
        negated = self._take("^")
        if self._next == "]":
            raise UnsupportedPattern("an empty class is not supported")
        ranges: list[tuple[int, int]] = []
        while not self._take("]"):
            first = self._member()
            if self._next != "-" or self._pattern.startswith("-]", self._at):
                ranges += _as_ranges(first)
                continue
            self._take("-")
            last = self._member()
            if not isinstance(first, int) or not isinstance(last, int):
                ranges += [*_as_ranges(first), *_as_ranges(ord("-")), *_as_ranges(last)]
                continue
            if last < first:
                raise InvalidPattern("a range in a class is not from one character up to another")
            ranges.append((first, last))
        return _all_but(tuple(ranges)) if negated else tuple(ranges)

    def _member(self) -> int | _Ranges:
        character = self._character()
        if not character:
            raise InvalidPattern("its brackets are not balanced")
        if character == "\\":
            return 0x08 if self._take("b") else self._escape()
        return ord(character)

    def _escape(self) -> int | _Ranges:
        character = self._character()
        if character in _SHORTHANDS:
            return _SHORTHANDS[character]
        if character in _NEGATED_SHORTHANDS:
            return _all_but(_NEGATED_SHORTHANDS[character])
        if character in _CONTROLS:
            return _CONTROLS[character]
        if code := _CODE.match(self._pattern, self._at - 1):
            self._at = code.end()
            return int(code[1] or code[2] or code[3], 16)
        if not character:
            raise InvalidPattern("it ends with a single \\")
        if character.isalnum():
            raise UnsupportedPattern(f"\\{character} is not supported")
        return ord(character)


def _as_ranges(member: int | _Ranges) -> _Ranges:
    return ((member, member),) if isinstance(member, int) else member


def _is_literal(rule: str) -> bool:
    return rule.startswith('"') and rule.endswith('"')


def _literal(code: int) -> str:
    """One character of a JSON string, as a GBNF literal."""
    if _SURROGATES[0] <= code <= _SURROGATES[1] or code > _LAST:
        raise UnsupportedPattern(f"\\u{code:x} is no character")
    text = json.dumps(chr(code), ensure_ascii=False)[1:-1]
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


@lru_cache
def _class(ranges: _Ranges) -> str:
    """Any one of these characters in a JSON string, as GBNF."""
    raw = _complement((*_complement(ranges), *_ESCAPED_IN_JSON, _SURROGATES))
    alternatives = [f"[{''.join(_spelled(low, high) for low, high in raw)}]"] if raw else []
    for low, high in _ESCAPED_IN_JSON:
        named = (code for code in range(low, high + 1) if any(a <= code <= b for a, b in ranges))
        alternatives += [_literal(code) for code in named]
    if not alternatives:
        raise UnsupportedPattern("nothing follows one of its classes")
    return alternatives[0] if len(alternatives) == 1 else f"({' | '.join(alternatives)})"


def _spelled(low: int, high: int) -> str:
    """A range of characters, as written within brackets in GBNF."""
    ends = [
        f"\\U{code:08X}" if code >= 0x80 else chr(code) if chr(code).isalnum() else f"\\x{code:02X}"
        for code in (low, high)
    ]
    return ends[0] if low == high else "-".join(ends)


@lru_cache
def _all_but(ranges: _Ranges) -> _Ranges:
    return _complement((*ranges, *_LEFT_OUT))


def _complement(ranges: _Ranges) -> _Ranges:
    found, begin = [], 0
    for low, high in sorted(ranges):
        if low > begin:
            found.append((begin, low - 1))
        begin = max(begin, high + 1)
    if begin <= _LAST:
        found.append((begin, _LAST))
    return tuple(found)
