"""``/api/chat`` and ``/api/generate``: their requests."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from suite.errors import UnsupportedContent
from suite.gateway.generations import Fields
from suite.gateway.ollama.names import reader
from suite.gateway.ollama.options import OllamaRequest


class OllamaFunctionCall(msgspec.Struct, frozen=True, kw_only=True):
    """The function that the model called, and its arguments."""

    name: str
    arguments: dict[str, Any] | None = None

    @property
    def sent(self) -> dict[str, Any]:
        """The call as the service takes it."""
        return {"name": self.name, "arguments": self.arguments or {}}


class OllamaToolCall(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A call in a message."""

    id: str | None = None
    function: OllamaFunctionCall


class OllamaMessage(msgspec.Struct, frozen=True, kw_only=True):
    """One message of a chat."""

    role: str
    content: str | None = None
    thinking: str | None = None
    images: tuple[str, ...] | None = None
    tool_calls: tuple[OllamaToolCall, ...] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None

    def sent(self, number: int) -> dict[str, Any]:
        """The message as the service takes it. ``number`` makes ids for calls without one."""
        message: dict[str, Any] = {"role": self.role, "content": with_images(self.content or "", self.images)}
        if self.tool_calls:
            message["tool_calls"] = [
                {
                    "id": call.id or f"call_{number}_{index}",
                    "type": "function",
                    "function": call.function.sent,
                }
                for index, call in enumerate(self.tool_calls)
            ]
        given = {
            "reasoning_content": self.thinking,
            "name": self.tool_name,
            "tool_call_id": self.tool_call_id,
        }
        return message | {name: value for name, value in given.items() if value is not None}


class OllamaTool(msgspec.Struct, frozen=True, kw_only=True):
    """A function that the model may call."""

    type: str = "function"
    function: dict[str, Any]


class OllamaChatRequest(OllamaRequest, frozen=True, kw_only=True):
    """A request to ``/api/chat``.

    Without messages it loads the model, or unloads it with ``keep_alive: 0``.
    """

    messages: tuple[OllamaMessage, ...] | None = None
    tools: tuple[OllamaTool, ...] | None = None

    @property
    def callable_names(self) -> tuple[str, ...]:
        """The functions that the answer may call."""
        return tuple(str(each.function.get("name", "")) for each in self.tools or ())

    @property
    def fields(self) -> Fields:
        """The request as the service takes it. Raises InvalidRequest and UnsupportedContent."""
        fields = self.common_fields
        fields["messages"] = [message.sent(number) for number, message in enumerate(self.messages or ())]
        if self.tools:
            fields["tools"] = self.tools
        return fields


class OllamaGenerateRequest(OllamaRequest, frozen=True, kw_only=True):
    """A request to ``/api/generate``.

    Without a prompt it loads the model, or unloads it with ``keep_alive: 0``.
    The prompt is one message of a user, unless it is ``raw``, has a ``suffix``, or the model has no template.
    """

    prompt: str | None = None
    suffix: str | None = None
    system: str | None = None
    images: tuple[str, ...] | None = None
    raw: bool | None = None

    def fields(self, *, has_template: bool) -> Fields:
        """The request as the service takes it. Raises InvalidRequest and UnsupportedContent."""
        fields = self.common_fields
        if self.system:
            fields["system_prompt"] = self.system
        prompt = self.prompt or ""
        if self.suffix:
            return fields | {"prompt": prompt, "suffix": self.suffix}
        if self.raw or not has_template:
            if self.images:
                raise UnsupportedContent(
                    "images need a chat: send them without raw, to a model with a template"
                )
            return fields | {"prompt": prompt}
        return fields | {"messages": [{"role": "user", "content": with_images(prompt, self.images)}]}


def with_images(text: str, images: tuple[str, ...] | None) -> str | list[dict[str, Any]]:
    """The content of a message: Ollama has its pictures, which are in base64, before its text."""
    if not images:
        return text
    return [*({"type": "image", "data": each} for each in images), {"type": "text", "text": text}]


read_chat: Final = reader(OllamaChatRequest)
read_generate: Final = reader(OllamaGenerateRequest)
