"""Extracts tool calls from a model's answer, in the usual formats.

- Hermes, Qwen: ``<tool_call>{"name": ..., "arguments": {...}}</tool_call>``, any number, with text around;
- Mistral: ``[TOOL_CALLS][{"name": ..., "arguments": {...}}, ...]``, and ``[TOOL_CALLS]name[ARGS]{...}``;
- Llama 3: ``{"name": ..., "parameters": {...}}``, several with ``;`` between, and perhaps ``<|python_tag|>``.

The words in brackets are control tokens in many models and then missing from the text, so JSON without them
is a call too. Whatever cannot be parsed as a call stays text. So does a call of a function that the request
did not offer, with the other calls within the same tags.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from hashlib import sha256
from typing import NamedTuple, NoReturn

from suite.messages.actions.chat import FunctionCall, ToolCall

MAX_CALLS = 128
"""The most calls in a message; an answer with more is left as text."""

_BLOCK = re.compile(r"<tool_call>")
_BLOCK_END = re.compile(r"</tool_call>|\Z")
_TEXT_END = re.compile(r"\Z")
_MARKER = re.compile(r"\[TOOL_CALLS\]|<\|python_tag\|>")
_NAMED = re.compile(r"([A-Za-z_][\w.-]{0,127})(?:\[CALL_ID\]([\w-]{1,64}))?(?:\[ARGS\])?\s*(?=\{)")
_BETWEEN = re.compile(r"(?:[\s;,]|\[TOOL_CALLS\])*")
_ID_CHARACTERS = 9
"""The length of ids that Mistral's templates insist on."""


class ExtractedToolCalls(NamedTuple):
    """The tool calls of an answer, and its remaining text."""

    text: str
    """The answer without the calls; unchanged if there are none."""
    calls: tuple[ToolCall, ...]


class _Call(NamedTuple):
    name: str
    arguments: str
    id: str | None = None


class _Sequence(NamedTuple):
    """Consecutive calls."""

    calls: list[_Call]
    end: int
    """The position in the text after them."""


def extract_tool_calls(text: str, names: Collection[str], generation_id: str) -> ExtractedToolCalls:
    """Extract the tool calls from a text.

    `names` are the functions that the request offers. A call without an id gets one derived from the
    generation's id, so that the same generation always gives the same ids.
    """
    rest, found = _in_blocks(text, names)
    if not found:
        rest, found = _after_marker(text, names)
    if not found and (alone := _sequence(text, 0, _TEXT_END, names)) is not None:
        rest, found = "", alone.calls
    if not 0 < len(found) <= MAX_CALLS:
        return ExtractedToolCalls(text, ())
    calls = (
        ToolCall(
            id=call.id or _id(generation_id, index),
            function=FunctionCall(name=call.name, arguments=call.arguments),
        )
        for index, call in enumerate(found)
    )
    return ExtractedToolCalls(rest.strip(), tuple(calls))


def _in_blocks(text: str, names: Collection[str]) -> tuple[str, list[_Call]]:
    """The text without the tagged blocks that are calls, and these calls."""
    found: list[_Call] = []
    rest: list[str] = []
    after = 0
    opening = _BLOCK.search(text)
    while opening:
        # Where a block ends shows when its calls are read: an argument may have a tag in it.
        block = _sequence(text, opening.end(), _BLOCK_END, names)
        if block is not None and block.calls:
            found += block.calls
            rest.append(text[after : opening.start()])
            after = block.end
        opening = _BLOCK.search(text, max(after, opening.end()))
    return "".join(rest) + text[after:], found


def _after_marker(text: str, names: Collection[str]) -> tuple[str, list[_Call]]:
    if marker := _MARKER.search(text):
        sequence = _sequence(text, marker.end(), _TEXT_END, names)
        if sequence is not None:
            return text[: marker.start()], sequence.calls
    return text, []


def _sequence(text: str, place: int, end: re.Pattern[str], names: Collection[str]) -> _Sequence | None:
    """The calls from a position to the end pattern; None if anything else or an unknown function is there."""
    found: list[_Call] = []
    place = _gap(text, place)
    while not (ended := end.match(text, place)):
        named = _NAMED.match(text, place)
        try:
            value, place = _decoder.raw_decode(text, named.end() if named else place)
        except (ValueError, RecursionError):
            return None
        if named:
            calls = [_call(named[1], value, named[2])]
        else:
            calls = [_from_object(each) for each in (value if isinstance(value, list) else [value])]
        for call in calls:
            if call is None or call.name not in names:
                return None
            found.append(call)
        place = _gap(text, place)
    return _Sequence(found, ended.end())


def _gap(text: str, place: int) -> int:
    between = _BETWEEN.match(text, place)
    return between.end() if between else place


def _from_object(value: object) -> _Call | None:
    """Read a JSON object as a call; None if it is not one."""
    if not isinstance(value, dict):
        return None
    if isinstance(function := value.get("function"), dict):
        value = {**function, "id": value.get("id")}
    return _call(value.get("name"), value.get("arguments", value.get("parameters", {})), value.get("id"))


def _call(name: object, arguments: object, id: object) -> _Call | None:
    if not isinstance(name, str) or not 0 < len(name) <= 128:
        return None
    if isinstance(arguments, str):
        try:
            arguments = _decoder.decode(arguments)
        except (ValueError, RecursionError):
            return None
    if not isinstance(arguments, dict):
        return None
    usable_id = id if isinstance(id, str) and 0 < len(id) <= 64 else None
    try:
        written = json.dumps(arguments, ensure_ascii=False, allow_nan=False)
        f"{name}{usable_id}{written}".encode()
    except (ValueError, RecursionError):  # a number over all limits, half of a surrogate pair
        return None
    return _Call(name, written, usable_id)


def _id(generation_id: str, index: int) -> str:
    return sha256(f"{generation_id}\n{index}".encode()).hexdigest()[:_ID_CHARACTERS]


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


_decoder = json.JSONDecoder(parse_constant=_no_constant)
