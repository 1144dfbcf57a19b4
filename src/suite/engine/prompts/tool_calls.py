"""Extracts tool calls from a model's answer, in the usual formats.

- Hermes, Qwen: ``<tool_call>{"name": ..., "arguments": {...}}</tool_call>``, any number, with text around;
- Functionary: ``<function=name>{...}</function>``, any number, with text around;
- Mistral: ``[TOOL_CALLS][{"name": ..., "arguments": {...}}, ...]``, and ``[TOOL_CALLS]name[ARGS]{...}``;
- Phi, Granite: ``<|tool_call|>[{"name": ..., "arguments": {...}}, ...]``;
- Llama 3: ``{"name": ..., "parameters": {...}}``, several with ``;`` between, and perhaps ``<|python_tag|>``.

The words in brackets are control tokens in many models and then missing from the text, so JSON without them
is a call too, if it has arguments: any JSON may have a name. After such a word a call may leave them out if
the function needs none, or write them beside the name. Whatever cannot be parsed as a call stays text. So
does a call of a function that the request did not offer, with the other calls within the same tags.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from hashlib import sha256
from typing import Any, NamedTuple, NoReturn

from suite.messages.actions.chat import Function, FunctionCall, ToolCall

MAX_CALLS = 128
"""The most calls in a message; an answer with more is left as text."""

_BLOCK = re.compile(r"<tool_call>|<function=(?=[^>]{1,128}>)")
_BLOCK_ENDS = {"<tool_call>": re.compile(r"</tool_call>|\Z"), "<function=": re.compile(r"</function>|\Z")}
_TEXT_END = re.compile(r"\Z")
_MARKER = re.compile(r"\[TOOL_CALLS\]|<\|python_tag\|>|<\|tool_call\|>")
_MARKER_END = re.compile(r"(?:<\|/tool_call\|>)?\s*\Z")
_MARKED = re.compile(rf"\s*(?:{_BLOCK.pattern}|{_MARKER.pattern})")
_NAMED = re.compile(r"([A-Za-z_][\w.-]{0,127})(?:\[CALL_ID\]([\w-]{1,64}))?(?:\[ARGS\]|>)?\s*(?=\{)")
_BETWEEN = re.compile(r"(?:[\s;,]|\[TOOL_CALLS\])*")
_NO_ARGUMENTS = frozenset(("name", "id", "type", "arguments", "parameters"))
"""What a call has beside its arguments."""
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


class _Offer(NamedTuple):
    """What may be called."""

    needs: Mapping[str, bool]
    """The functions, and whether each needs arguments."""
    is_marked: bool = False
    """Whether a marker has said that what follows is a call."""


class _Sequence(NamedTuple):
    """Consecutive calls."""

    calls: list[_Call]
    end: int
    """The position in the text after them."""


def extract_tool_calls(
    text: str,
    functions: Collection[Function],
    generation_id: str,
    *,
    may_be_json: bool = True,
    at_most: int = MAX_CALLS,
) -> ExtractedToolCalls:
    """Extract the tool calls from a text.

    `functions` are those that the request offers. A call without an id gets one derived from the generation's
    id, so that the same generation always gives the same ids. Without `may_be_json`, JSON is the answer that
    was asked for, and only an answer that begins with a marker is a call. Of more calls than `at_most`, the
    first count.
    """
    if not may_be_json and not _MARKED.match(text):
        return ExtractedToolCalls(text, ())
    offer = _Offer({function.name: _needs_arguments(function) for function in functions})
    marked = offer._replace(is_marked=True)
    rest, found = _in_blocks(text, marked)
    if not found:
        rest, found = _after_marker(text, marked)
    if not found and (alone := _sequence(text, 0, _TEXT_END, offer)) is not None:
        rest, found = "", alone.calls
    if not 0 < len(found) <= MAX_CALLS:
        return ExtractedToolCalls(text, ())
    calls = (
        ToolCall(
            id=call.id or _id(generation_id, index),
            function=FunctionCall(name=call.name, arguments=call.arguments),
        )
        for index, call in enumerate(found[:at_most])
    )
    return ExtractedToolCalls(rest.strip(), tuple(calls))


def _needs_arguments(function: Function) -> bool:
    return bool((function.parameters or {}).get("required"))


def _in_blocks(text: str, offer: _Offer) -> tuple[str, list[_Call]]:
    """The text without the tagged blocks that are calls, and these calls."""
    found: list[_Call] = []
    rest: list[str] = []
    after = 0
    opening = _BLOCK.search(text)
    while opening:
        # Where a block ends shows when its calls are read: an argument may have a tag in it.
        block = _sequence(text, opening.end(), _BLOCK_ENDS[opening[0]], offer)
        if block is not None and block.calls:
            found += block.calls
            rest.append(text[after : opening.start()])
            after = block.end
        opening = _BLOCK.search(text, max(after, opening.end()))
    return "".join(rest) + text[after:], found


def _after_marker(text: str, offer: _Offer) -> tuple[str, list[_Call]]:
    if marker := _MARKER.search(text):
        sequence = _sequence(text, marker.end(), _MARKER_END, offer)
        if sequence is not None:
            return text[: marker.start()], sequence.calls
    return text, []


def _sequence(text: str, place: int, end: re.Pattern[str], offer: _Offer) -> _Sequence | None:
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
            calls = [_from_object(each, offer) for each in (value if isinstance(value, list) else [value])]
        for call in calls:
            if call is None or call.name not in offer.needs:
                return None
            found.append(call)
        place = _gap(text, place)
    return _Sequence(found, ended.end())


def _gap(text: str, place: int) -> int:
    between = _BETWEEN.match(text, place)
    return between.end() if between else place


def _from_object(value: object, offer: _Offer) -> _Call | None:
    """Read a JSON object as a call; None if it is not one."""
    if not isinstance(value, dict):
        return None
    if isinstance(function := value.get("function"), dict):
        value = {**function, "id": value.get("id")}
    return _call(value.get("name"), _arguments(value, offer), value.get("id"))


def _arguments(value: Mapping[str, Any], offer: _Offer) -> object:
    """The arguments of a call, of which nothing is left out; None if it has none and needs some."""
    given = [value[name] for name in ("arguments", "parameters") if name in value]
    beside = {name: each for name, each in value.items() if name not in _NO_ARGUMENTS}
    if given and given[0] is not None:
        return given[0]
    if beside and offer.is_marked:
        return beside
    needs_none = offer.needs.get(str(value.get("name"))) is False
    return {} if needs_none and not beside and (given or offer.is_marked) else None


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
