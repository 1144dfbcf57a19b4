"""The parts of a chat: messages, tools and tool calls, and the format of the answer."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from suite.messages.actions.base import Name


class FunctionCall(msgspec.Struct, frozen=True, kw_only=True):
    """The function that the model calls, and its arguments."""

    name: Name
    arguments: str
    """A JSON object as text, written by the model: validate it before use."""


class ToolCall(msgspec.Struct, frozen=True, kw_only=True):
    """A tool call by the model; answer it with a message of the role ``tool``."""

    id: Annotated[str, Meta(min_length=1, max_length=200)]
    type: Literal["function"] = "function"
    function: FunctionCall


class ChatMessage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One message of a chat."""

    role: Annotated[str, Meta(min_length=1, max_length=64)]
    """``system``, ``user``, ``assistant``, ``tool``, or another role that the model's template supports."""
    content: str | None = None
    """May be left out if there are ``tool_calls``."""
    tool_calls: Annotated[tuple[ToolCall, ...], Meta(max_length=128)] | None = None
    """In an assistant's message: its tool calls."""
    tool_call_id: Annotated[str, Meta(max_length=200)] | None = None
    """In a tool's message: the id of the call that it answers."""
    name: Name | None = None
    """In a tool's message: the name of the function."""

    def __post_init__(self) -> None:
        if self.content is None and not self.tool_calls:
            raise ValueError("content is missing: send it, or tool_calls")


class Function(msgspec.Struct, frozen=True, kw_only=True):
    """A function that the model may call."""

    name: Annotated[str, Meta(min_length=1, max_length=128)]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    """The JSON schema of its arguments, which are an object."""


class Tool(msgspec.Struct, frozen=True, kw_only=True):
    """A tool that the model may use."""

    type: Literal["function"] = "function"
    function: Function


class SchemaFormat(msgspec.Struct, frozen=True, kw_only=True):
    """The ``json_schema`` of a response format, as in OpenAI's API."""

    schema: dict[str, Any] | None = None
    name: str | None = None
    strict: bool | None = None


class ResponseFormat(msgspec.Struct, frozen=True, kw_only=True):
    """The format of the answer: any text, any JSON object, or JSON that satisfies a schema."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: SchemaFormat | None = None
    schema: dict[str, Any] | None = None
    """The schema itself, as an alternative to ``json_schema``."""
