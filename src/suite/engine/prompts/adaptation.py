"""Brings a chat into a form that a chat template takes, where the template refuses or drops a part of it.

Templates are written for the chats that a model was trained with. Many refuse two messages of one role after
another, or leave out without a word what they have no place for: a system message in the middle of a chat,
calls of tools, the messages of a role that they do not know. So a chat is rendered as it is first, and
`missing` says what of it is not in the prompt. Then each of `adaptations` is tried, until nothing is missing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

Message: TypeAlias = dict[str, Any]

_SYSTEM = ("system", "developer")


class Adaptation(NamedTuple):
    """A chat in another form, and what to tell its sender about it."""

    messages: list[Message]
    warnings: tuple[str, ...]


_TOOLS = """\
You may call functions. Each is a line of JSON here, with the JSON schema of its arguments:
<tools>
{tools}
</tools>
To call one, write its name and arguments as one JSON object, like this:
<tool_call>
{{"name": "the name", "arguments": {{"an argument": "its value"}}}}
</tool_call>"""
_TOOLS_AS_TEXT = "the model's chat template has no place for tools: they are in the prompt as text"
_CALLS_AS_TEXT = "the model's chat template has no place for calls of tools: they are in the prompt as text"
_SYSTEM_AS_USER = (
    "the model's chat template takes no system message there: it is in the prompt as a user's message"
)


def adaptations(messages: Sequence[Message]) -> Iterator[Adaptation]:
    """Other forms of a chat, those that change least first."""
    system = any(message["role"] in _SYSTEM for message in messages)
    joined = _joined(_without_system(messages))
    if joined != list(messages):
        yield Adaptation(joined, (_SYSTEM_AS_USER,) if system else ())
    if any(message.get("tool_calls") or message["role"] == "tool" for message in messages):
        texts = _with_calls_as_text(messages)
        yield Adaptation(texts, (_CALLS_AS_TEXT,))
        yield Adaptation(
            _joined(_without_system(texts)), (_CALLS_AS_TEXT, *((_SYSTEM_AS_USER,) if system else ()))
        )


def with_tools_as_text(messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> Adaptation:
    """The chat with its tools as a text of the system, for a template that has no place for them.

    The form is that of Hermes, as in `adaptations`.
    """
    told = _TOOLS.format(tools="\n".join(json.dumps(each, ensure_ascii=False) for each in tools))
    if not messages or messages[0]["role"] not in _SYSTEM:
        return Adaptation([{"role": "system", "content": told}, *messages], (_TOOLS_AS_TEXT,))
    first, *rest = messages
    return Adaptation([{**first, "content": f"{first['content']}\n\n{told}"}, *rest], (_TOOLS_AS_TEXT,))


def missing(messages: Sequence[Message], text: str) -> list[str]:
    """What of the messages is not in the rendered chat, in words.

    What an assistant said is not looked for: templates leave out what it thought, and more besides.
    """
    found = []
    for index, message in enumerate(messages):
        if message["role"] != "assistant" and not _is_in(message["content"], text):
            found.append(f"messages[{index}] (role {message['role']!r})")
        calls = message.get("tool_calls") or ()
        if not all(_is_in(call["function"]["name"], text) for call in calls):
            found.append(f"messages[{index}].tool_calls")
    return found


def _is_in(part: str, text: str) -> bool:
    part = part.strip()
    return part in text or json.dumps(part, ensure_ascii=False)[1:-1] in text


def _without_system(messages: Sequence[Message]) -> list[Message]:
    """The messages with those of the system as the user's."""
    return [{**message, "role": "user"} if message["role"] in _SYSTEM else message for message in messages]


def _joined(messages: Sequence[Message]) -> list[Message]:
    """The messages, those of users and assistants that follow each other as one."""
    joined: list[Message] = []
    for message in messages:
        last = joined[-1] if joined else None
        if last is not None and _can_join(last) and _can_join(message) and last["role"] == message["role"]:
            joined[-1] = {**last, "content": f"{last['content']}\n\n{message['content']}"}
        else:
            joined.append(message)
    return joined


def _can_join(message: Message) -> bool:
    return message.keys() == {"role", "content"} and message["role"] in ("user", "assistant")


def _with_calls_as_text(messages: Sequence[Message]) -> list[Message]:
    """The messages with the calls of tools as text that the assistant said, and their answers as the user's.

    The form is that of Hermes, which many models have seen.
    """
    return [_call_as_text(message) for message in messages]


def _call_as_text(message: Message) -> Message:
    if message["role"] == "tool":
        return {"role": "user", "content": f"<tool_response>\n{message['content']}\n</tool_response>"}
    calls = [
        f"<tool_call>\n{json.dumps(call['function'], ensure_ascii=False)}\n</tool_call>"
        for call in message.get("tool_calls") or ()
    ]
    if not calls:
        return message
    rest = {name: value for name, value in message.items() if name != "tool_calls"}
    return {**rest, "content": "\n".join([*filter(None, [message["content"]]), *calls])}
