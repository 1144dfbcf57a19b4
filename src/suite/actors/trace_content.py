"""Prompts and answers as attributes of spans: only with ``trace_content``, and within a limit."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import msgspec

from suite.messages.actions.chat import ChatMessage, SentToolCall
from suite.messages.actions.generation import Choice, GenerateTextRequest
from suite.telemetry import MOST_CONTENT_BYTES

_AROUND: Final = 128
"""Bytes around a text, at most: what JSON has there, and the mark of one that is cut."""
_LAST: Final = 4 * _AROUND
"""Bytes for what takes the last room: a call has three texts, and a message that begins with it a role."""


def asked_content(request: GenerateTextRequest) -> dict[str, str]:
    """What a generation was asked, as `gen_ai.input.messages` and `gen_ai.system_instructions`."""
    content = {"gen_ai.input.messages": _json(_input(request, _Room()))}
    if request.system_prompt is not None:
        content["gen_ai.system_instructions"] = _json([_text(request.system_prompt, _Room())])
    return content


def answered_content(choices: Sequence[Choice]) -> dict[str, str]:
    """What it has answered, as `gen_ai.output.messages`."""
    room = _Room()
    return {"gen_ai.output.messages": _json([_answer(each, room) for each in choices if room.is_left])}


class _Room:
    """How much of an attribute is left: what comes first gets it."""

    def __init__(self) -> None:
        self._bytes = MOST_CONTENT_BYTES - _LAST

    @property
    def is_left(self) -> bool:
        """Whether there is any."""
        return self._bytes > 0

    def cut(self, text: str) -> str:
        """A text, or the beginning of it for which there is room, with a mark."""
        most = max(0, self._bytes - _AROUND)
        # A character takes a byte or more, and a longer beginning more bytes than a shorter one.
        end = bisect_right(range(1, min(len(text), most) + 1), most, key=lambda end: _size(text[:end]))
        self._bytes -= _AROUND + _size(text[:end])
        return text if end == len(text) else f"{text[:end]}… ({len(text)} characters)"


def _input(request: GenerateTextRequest, room: _Room) -> list[dict[str, Any]]:
    """The last messages of a chat that have room, or the prompt."""
    if request.messages is not None:
        newest_first = [_message(each, room) for each in reversed(request.messages) if room.is_left]
        return newest_first[::-1]
    if isinstance(request.prompt, str):
        return [{"role": "user", "parts": [_text(request.prompt, room)]}]
    return []  # token ids


def _message(message: ChatMessage, room: _Room) -> dict[str, Any]:
    return {"role": room.cut(message.role), "parts": list(_parts(message, room))}


def _parts(message: ChatMessage, room: _Room) -> Iterator[dict[str, Any]]:
    if isinstance(message.content, str):
        yield _text(message.content, room)
    for part in message.content if isinstance(message.content, tuple) else ():
        if room.is_left:
            yield _text(part.plain or "", room)
    yield from _calls(message.tool_calls or (), room)


def _answer(choice: Choice, room: _Room) -> dict[str, Any]:
    return {"role": "assistant", "parts": list(_said(choice, room)), "finish_reason": choice.finish_reason}


def _said(choice: Choice, room: _Room) -> Iterator[dict[str, Any]]:
    if choice.reasoning is not None:
        yield {"type": "reasoning", "content": room.cut(choice.reasoning)}
    if choice.text:
        yield _text(choice.text, room)
    yield from _calls(choice.tool_calls or (), room)


def _text(text: str, room: _Room) -> dict[str, Any]:
    return {"type": "text", "content": room.cut(text)}


def _calls(calls: Iterable[SentToolCall], room: _Room) -> Iterator[dict[str, Any]]:
    for call in calls:
        if room.is_left:
            called = {"type": "tool_call", "id": room.cut(call.id), "name": room.cut(call.function.name)}
            yield {**called, "arguments": _arguments(call.function.arguments, room)}


def _arguments(given: str | dict[str, Any], room: _Room) -> str | dict[str, Any]:
    text = given if isinstance(given, str) else _json(given)
    cut = room.cut(text)
    return given if cut == text else cut


def _size(text: str) -> int:
    """How many bytes it takes in JSON, in which some characters are escaped."""
    return len(msgspec.json.encode(text))


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
