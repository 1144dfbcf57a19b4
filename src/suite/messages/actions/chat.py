"""What a chat is made of: messages, tools and their calls, and the form that an answer is to have."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from suite.messages.actions.base import Name


class FunctionCall(msgspec.Struct, frozen=True, kw_only=True):
    """Which function the model wants called."""

    name: Name
    arguments: str
    """A JSON object as text, as the model wrote it: check it before it is used."""


class ToolCall(msgspec.Struct, frozen=True, kw_only=True):
    """A call that the model asks for; answer it with a message of role ``tool``."""

    id: Annotated[str, Meta(min_length=1, max_length=200)]
    type: Literal["function"] = "function"
    function: FunctionCall


class ChatMessage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One message of a chat."""

    role: Annotated[str, Meta(min_length=1, max_length=64)]
    """``system``, ``user``, ``assistant``, ``tool``, and what else the model's template knows."""
    content: str | None = None
    """May be left out where there are ``tool_calls``."""
    tool_calls: Annotated[tuple[ToolCall, ...], Meta(max_length=128)] | None = None
    """Of an assistant's message: the calls that it asked for."""
    tool_call_id: Annotated[str, Meta(max_length=200)] | None = None
    """Of a tool's message: the call that it answers."""
    name: Name | None = None
    """Of a tool's message: the function that was called."""

    def __post_init__(self) -> None:
        if self.content is None and not self.tool_calls:
            raise ValueError("content is missing: send it, or tool_calls")


class Function(msgspec.Struct, frozen=True, kw_only=True):
    """A function that the model may ask to have called."""

    name: Annotated[str, Meta(min_length=1, max_length=128)]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    """A JSON schema of its arguments, an object."""


class Tool(msgspec.Struct, frozen=True, kw_only=True):
    """Something that the model may use."""

    type: Literal["function"] = "function"
    function: Function


class SchemaFormat(msgspec.Struct, frozen=True, kw_only=True):
    """The ``json_schema`` of a response format, as OpenAI's API has it."""

    schema: dict[str, Any] | None = None
    name: str | None = None
    strict: bool | None = None


class ResponseFormat(msgspec.Struct, frozen=True, kw_only=True):
    """What the answer has to be: any text, any JSON object, or JSON that follows a schema."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: SchemaFormat | None = None
    schema: dict[str, Any] | None = None
    """The same without the object around it."""
