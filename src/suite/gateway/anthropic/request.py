"""Requests of Anthropic's Messages API, as the service takes them.

A message of this API has blocks of several kinds. The service has messages with a text, calls, and answers to
calls as messages of their own, so one message here may become several there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta

from suite.errors import InvalidRequest, UnsupportedContent
from suite.gateway.encoding import Integer
from suite.gateway.fields import function_tool
from suite.gateway.generations import Fields

SentMessage: TypeAlias = dict[str, Any]
"""A `ChatMessage` of the service, as it is sent."""

_ATTRIBUTION: Final = re.compile(r"^x-anthropic-billing-header:[^\n]*\n?", re.MULTILINE)
"""A line that Claude Code puts into its system text, with a value that changes with each request.

Each prompt would begin otherwise, so that no token of a conversation could be used again."""


class TextBlock(msgspec.Struct, frozen=True, kw_only=True, tag="text"):
    """A text."""

    text: str


class ThinkingBlock(msgspec.Struct, frozen=True, kw_only=True, tag="thinking"):
    """What the model thought in an earlier answer."""

    thinking: str


class RedactedThinkingBlock(msgspec.Struct, frozen=True, kw_only=True, tag="redacted_thinking"):
    """Thoughts that only Anthropic can read; left out."""


class ToolUseBlock(msgspec.Struct, frozen=True, kw_only=True, tag="tool_use"):
    """A call that the model made in an earlier answer."""

    id: str
    name: str
    input: dict[str, Any]


class ImageSource(msgspec.Struct, frozen=True, kw_only=True):
    """Where a picture is: in the request itself, or at a URL that the service may fetch (ADR 79)."""

    type: str
    """``base64`` or ``url``; others are refused, as no files are kept."""
    media_type: str | None = None
    data: str | None = None
    url: str | None = None


class ImageBlock(msgspec.Struct, frozen=True, kw_only=True, tag="image"):
    """A picture."""

    source: ImageSource


class DocumentBlock(msgspec.Struct, frozen=True, kw_only=True, tag="document"):
    """A file, which is refused."""


class ToolResultBlock(msgspec.Struct, frozen=True, kw_only=True, tag="tool_result"):
    """The answer to a call."""

    tool_use_id: str
    content: str | tuple[TextBlock | ImageBlock | DocumentBlock, ...] | None = None
    is_error: bool | None = None


Block: TypeAlias = (
    TextBlock
    | ThinkingBlock
    | RedactedThinkingBlock
    | ToolUseBlock
    | ToolResultBlock
    | ImageBlock
    | DocumentBlock
)


class InputMessage(msgspec.Struct, frozen=True, kw_only=True):
    """One message of the conversation."""

    role: Literal["user", "assistant", "system"]
    content: str | tuple[Block, ...]

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The content as blocks."""
        return (TextBlock(text=self.content),) if isinstance(self.content, str) else self.content


class InputTool(msgspec.Struct, frozen=True, kw_only=True):
    """A function that the model may call."""

    name: Annotated[str, Meta(min_length=1, max_length=128)]
    type: str | None = None
    """Null or ``custom``; tools that run on Anthropic's servers are refused."""
    description: str | None = None
    input_schema: dict[str, Any] | None = None
    strict: bool | None = None


class InputToolChoice(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the model may or has to call a function."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool = False


class Thinking(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the model thinks before it answers, if it can be told."""

    type: Literal["enabled", "disabled", "adaptive"]


class OutputFormat(msgspec.Struct, frozen=True, kw_only=True):
    """The JSON schema that the answer follows."""

    type: Literal["json_schema"]
    schema: dict[str, Any]


class OutputConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How the answer is written."""

    format: OutputFormat | None = None


class Metadata(msgspec.Struct, frozen=True, kw_only=True):
    """About the request."""

    user_id: str | None = None
    """Tells conversations apart that begin alike; Claude Code's has the id of its session in it."""


class CountTokensRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request to ``/v1/messages/count_tokens``. Unknown parameters are ignored."""

    model: Annotated[str, Meta(min_length=1)]
    messages: Annotated[tuple[InputMessage, ...], Meta(min_length=1)]
    system: str | tuple[TextBlock, ...] | None = None
    tools: tuple[InputTool, ...] | None = None
    tool_choice: InputToolChoice | None = None
    thinking: Thinking | None = None

    @property
    def prompt_fields(self) -> dict[str, Any]:
        """What the prompt is made of, as the service takes it.

        Raises UnsupportedContent for documents, InvalidRequest for tools of Anthropic's servers.
        """
        fields: dict[str, Any] = {"messages": _messages(self.system, self.messages)}
        if self.tools:
            fields["tools"] = [_tool(each) for each in self.tools]
        if self.thinking is not None:
            fields["chat_template_kwargs"] = {"enable_thinking": self.thinking.type != "disabled"}
        return fields


class MessagesRequest(CountTokensRequest, frozen=True, kw_only=True):
    """A request to ``/v1/messages``. Unknown parameters are ignored."""

    max_tokens: Annotated[int, Meta(ge=1, le=2**31 - 1)]
    stream: bool | None = None
    metadata: Metadata | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: Integer | None = None
    stop_sequences: tuple[str, ...] | None = None
    output_format: OutputFormat | None = None
    """An older place of ``output_config.format``."""
    output_config: OutputConfig | None = None

    @property
    def callable_names(self) -> tuple[str, ...]:
        """The functions that the answer may call."""
        if self.tool_choice is not None and self.tool_choice.type == "none":
            return ()
        return tuple(each.name for each in self.tools or ())

    @property
    def fields(self) -> Fields:
        """The request as the service takes it. Raises the errors of `prompt_fields`."""
        given = {
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": self.top_k,
            "stop": self.stop_sequences or None,
            "response_format": self._response_format,
        }
        return {
            "model_id": self.model,
            **self.prompt_fields,
            **({} if self.tool_choice is None or not self.tools else _tool_choice(self.tool_choice)),
            **{name: value for name, value in given.items() if value is not None},
        }

    @property
    def _response_format(self) -> dict[str, Any] | None:
        format = (self.output_config and self.output_config.format) or self.output_format
        return None if format is None else {"type": "json_schema", "json_schema": {"schema": format.schema}}


read_messages: Final = msgspec.json.Decoder(MessagesRequest).decode
read_count_tokens: Final = msgspec.json.Decoder(CountTokensRequest).decode


def _messages(
    system: str | tuple[TextBlock, ...] | None, messages: Iterable[InputMessage]
) -> list[SentMessage]:
    text = _ATTRIBUTION.sub("", _joined(system or ""))
    first = [{"role": "system", "content": text}] if text else []
    return [*first, *(sent for message in messages for sent in _sent(message))]


def _sent(message: InputMessage) -> Iterator[SentMessage]:
    """The messages that one becomes: answers to calls, then what is left of it."""
    blocks = message.blocks
    if any(isinstance(each, DocumentBlock) for each in blocks):
        raise UnsupportedContent
    results = [each for each in blocks if isinstance(each, ToolResultBlock)]
    yield from map(_result, results)
    calls = [_call(each) for each in blocks if isinstance(each, ToolUseBlock)]
    thoughts = [each.thinking for each in blocks if isinstance(each, ThinkingBlock)]
    text = _content(tuple(each for each in blocks if isinstance(each, TextBlock | ImageBlock)))
    if text or calls or thoughts or not results:
        yield {
            "role": message.role,
            "content": text,
            **({"tool_calls": calls} if calls else {}),
            **({"reasoning_content": "\n".join(thoughts)} if thoughts else {}),
        }


def _result(result: ToolResultBlock) -> SentMessage:
    content = result.content or ""
    if not isinstance(content, str) and any(isinstance(each, DocumentBlock) for each in content):
        raise UnsupportedContent
    text = f"Error: {_joined(content)}" if result.is_error else _content(content)
    return {"role": "tool", "tool_call_id": result.tool_use_id, "content": text}


def _content(content: str | tuple[Block, ...]) -> str | list[dict[str, Any]]:
    """A text, or its parts where there are pictures among them."""
    if isinstance(content, str) or not any(isinstance(each, ImageBlock) for each in content):
        return _joined(content)
    return [_part(each) for each in content if isinstance(each, TextBlock | ImageBlock)]


def _part(block: TextBlock | ImageBlock) -> dict[str, Any]:
    if isinstance(block, TextBlock):
        return {"type": "text", "text": block.text}
    if block.source.data is None:
        url = block.source.url or f"{block.source.type}:"
        return {"type": "image_url", "image_url": url}
    return {"type": "image", "data": block.source.data}


def _joined(content: str | tuple[Block, ...]) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(each.text for each in content if isinstance(each, TextBlock))


def _call(block: ToolUseBlock) -> dict[str, Any]:
    return {"id": block.id, "type": "function", "function": {"name": block.name, "arguments": block.input}}


def _tool(tool: InputTool) -> dict[str, Any]:
    if tool.type not in (None, "custom"):
        raise InvalidRequest(
            f"tools: {tool.name!r} runs on Anthropic's servers ({tool.type}): send tools of the type custom",
            param="tools",
        )
    return function_tool(
        name=tool.name,
        description=tool.description,
        parameters=tool.input_schema,
        strict=tool.strict,
    )


def _tool_choice(choice: InputToolChoice) -> Fields:
    named = {"type": "function", "function": {"name": choice.name or ""}}
    choices = {"auto": "auto", "any": "required", "tool": named, "none": "none"}
    return {
        "tool_choice": choices[choice.type],
        "parallel_tool_calls": not choice.disable_parallel_tool_use,
    }
