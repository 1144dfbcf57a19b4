"""Prompts and answers as attributes of spans: only with ``trace_content``, and within a limit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

from suite.messages.actions.chat import ChatMessage
from suite.messages.actions.generation import Choice, GenerateTextRequest

MOST_CHARACTERS: Final = 16_384
"""Of one text; what is longer is cut, with a mark."""
MOST_MESSAGES: Final = 64
"""The last so many of a chat."""


def asked_content(request: GenerateTextRequest) -> dict[str, str]:
    """What a generation was asked, as `gen_ai.input.messages` and `gen_ai.system_instructions`."""
    content = {"gen_ai.input.messages": _json(_input(request))}
    if request.system_prompt is not None:
        content["gen_ai.system_instructions"] = _json([_text(request.system_prompt)])
    return content


def answered_content(choices: Sequence[Choice]) -> dict[str, str]:
    """What it has answered, as `gen_ai.output.messages`."""
    return {"gen_ai.output.messages": _json([_answer(choice) for choice in choices])}


def _input(request: GenerateTextRequest) -> list[dict[str, Any]]:
    if request.messages is not None:
        return [
            {"role": each.role, "parts": list(_parts(each))} for each in request.messages[-MOST_MESSAGES:]
        ]
    if isinstance(request.prompt, str):
        return [{"role": "user", "parts": [_text(request.prompt)]}]
    return []  # token ids


def _parts(message: ChatMessage) -> Iterable[dict[str, Any]]:
    if isinstance(message.content, str):
        yield _text(message.content)
    for part in message.content if isinstance(message.content, tuple) else ():
        yield _text(part.plain or "")
    for call in message.tool_calls or ():
        yield _call(call.id, call.function.name, call.function.arguments)


def _answer(choice: Choice) -> dict[str, Any]:
    parts = [] if choice.reasoning is None else [{"type": "reasoning", "content": _cut(choice.reasoning)}]
    parts += [_text(choice.text)] if choice.text else []
    parts += [_call(call.id, call.function.name, call.function.arguments) for call in choice.tool_calls or ()]
    return {"role": "assistant", "parts": parts, "finish_reason": choice.finish_reason}


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "content": _cut(text)}


def _call(id: str, name: str, arguments: str | dict[str, Any]) -> dict[str, Any]:
    given = _cut(arguments) if isinstance(arguments, str) else arguments
    return {"type": "tool_call", "id": id, "name": name, "arguments": given}


def _cut(text: str) -> str:
    return text if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]}… ({len(text)} characters)"


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
