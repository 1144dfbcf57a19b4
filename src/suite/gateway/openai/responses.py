"""Requests of ``/v1/responses``, as the service takes them.

Nothing is stored: each request brings its whole conversation, and none can go on from the id of an answer.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta, Raw

from suite.errors import InvalidRequest, UnsupportedContent
from suite.gateway.fields import MOST_TOKENS, function_tool
from suite.gateway.generations import Fields

_TEXTS: Final = frozenset(("input_text", "output_text", "text", "refusal", "reasoning_text", "summary_text"))
_PICTURE: Final = "input_image"
_LEFT_OUT: Final = frozenset(
    ("item_reference", "custom_tool_call", "custom_tool_call_output", "web_search_call")
)
"""Items of a history that say nothing to a model here."""


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """A part of a content: a text, a picture, or a file, which is refused."""

    type: str
    image_url: str | None = None
    """Of a picture: a data URL with base64."""
    text: str | None = None
    refusal: str | None = None


Content: TypeAlias = str | tuple[Part, ...]


class Item(msgspec.Struct, frozen=True, kw_only=True):
    """One item of the input: a message, a call, the output of a call, or what was thought."""

    type: str = "message"
    role: str | None = None
    """Of a message."""
    content: Content | None = None
    """Of a message, or what was thought."""
    call_id: str | None = None
    """Of a call, and of its output."""
    name: str | None = None
    """Of a call."""
    arguments: str | None = None
    """Of a call."""
    output: Content | None = None
    """Of the output of a call."""
    summary: tuple[Part, ...] = ()
    """Of what was thought."""


class ResponseTool(msgspec.Struct, frozen=True, kw_only=True):
    """A function that the model may call, or a tool of OpenAI's, which is left out."""

    type: str
    name: str | None = None
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Format(msgspec.Struct, frozen=True, kw_only=True):
    """The format of the text."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    name: str | None = None
    schema: dict[str, Any] | None = None
    strict: bool | None = None


class TextConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How the text is written."""

    format: Format | None = None


class Reasoning(msgspec.Struct, frozen=True, kw_only=True):
    """How much the model thinks, if it can be told."""

    effort: str | None = None


class ToolChoice(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The function that the model has to call; a choice of another type counts as ``auto``."""

    type: str
    name: str | None = None
    """Of a function."""

    def __post_init__(self) -> None:
        if self.type == "function" and not self.name:
            raise ValueError("tool_choice: name is missing: send that of a function")


class ResponsesRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request to ``/v1/responses``. Unknown parameters are ignored."""

    model: Annotated[str, Meta(min_length=1)]
    input: str | Annotated[tuple[Item, ...], Meta(min_length=1)]
    instructions: str | None = None
    stream: bool | None = None
    tools: tuple[ResponseTool, ...] | None = None
    tool_choice: Literal["auto", "none", "required"] | ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    max_output_tokens: Annotated[int, Meta(ge=1, le=2**31 - 1)] | None = None
    temperature: float | None = None
    top_p: float | None = None
    text: TextConfig | None = None
    reasoning: Reasoning | None = None
    metadata: dict[str, Any] | None = None
    user: str | None = None
    """This and ``prompt_cache_key`` tell conversations apart that begin alike."""
    prompt_cache_key: str | None = None
    background: bool | None = None
    previous_response_id: str | None = None
    conversation: Raw | None = None

    def __post_init__(self) -> None:
        if self.previous_response_id is not None:
            raise ValueError(
                "previous_response_id: no answer is stored: send the whole conversation as input"
            )
        if self.conversation not in (None, Raw(b"null")):
            raise ValueError("conversation: none is stored: send the whole conversation as input")
        if self.background:
            raise ValueError("background: no answer is stored: leave it out, or send stream: true")

    @property
    def functions(self) -> tuple[ResponseTool, ...]:
        """The tools that are functions."""
        return tuple(each for each in self.tools or () if each.type == "function")

    @property
    def callable_names(self) -> tuple[str, ...]:
        """The functions that the answer may call."""
        if self.tool_choice == "none":
            return ()
        return tuple(each.name for each in self.functions if each.name)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What of the request cannot be done here, and is left out."""
        tools = sorted({each.type for each in self.tools or ()} - {"function"})
        items = sorted({each.type for each in self._items if each.type in _LEFT_OUT})
        choices = [choice.type] if isinstance(choice := self.tool_choice, ToolChoice) else []
        return (
            *(f"tools of the type {each} run on OpenAI's servers: left out" for each in tools),
            *(f"items of the type {each} are not supported: left out" for each in items),
            *(f"tool_choice of the type {each} counts as auto" for each in choices if each != "function"),
        )

    @property
    def known_tool_choice(self) -> Literal["auto", "none", "required"] | ToolChoice:
        """Whether the model may or has to call a function, as it is done here."""
        choice = self.tool_choice
        if choice is None or (isinstance(choice, ToolChoice) and choice.type != "function"):
            return "auto"
        return choice

    @property
    def fields(self) -> Fields:
        """The request as the service takes it. Raises InvalidRequest and UnsupportedContent."""
        given = {
            "max_tokens": self.max_output_tokens or MOST_TOKENS,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "tools": [_tool(each) for each in self.functions] or None,
            "tool_choice": self._tool_choice,
            "parallel_tool_calls": self.parallel_tool_calls,
            "response_format": self._response_format,
            "chat_template_kwargs": self._template_variables,
        }
        return {
            "model_id": self.model,
            "messages": self._messages,
            **{name: value for name, value in given.items() if value is not None},
        }

    @property
    def _messages(self) -> list[dict[str, Any]]:
        first = [{"role": "system", "content": self.instructions}] if self.instructions else []
        if isinstance(self.input, str):
            return [*first, {"role": "user", "content": self.input}]
        return [*first, *_messages(each for each in self._items if each.type not in _LEFT_OUT)]

    @property
    def _items(self) -> tuple[Item, ...]:
        return () if isinstance(self.input, str) else self.input

    @property
    def _tool_choice(self) -> object:
        if not self.functions:
            return None
        choice = self.known_tool_choice
        if isinstance(choice, ToolChoice):
            return {"type": "function", "function": {"name": choice.name}}
        return choice

    @property
    def _response_format(self) -> dict[str, Any] | None:
        format = self.text.format if self.text else None
        if format is None or format.type == "text":
            return None
        if format.type == "json_object":
            return {"type": "json_object"}
        schema = {"schema": format.schema, "name": format.name, "strict": format.strict}
        return {"type": "json_schema", "json_schema": schema}

    @property
    def _template_variables(self) -> dict[str, Any] | None:
        if self.reasoning is None or self.reasoning.effort is None:
            return None
        effort = self.reasoning.effort
        return {"reasoning_effort": effort, "enable_thinking": effort not in ("none", "minimal")}


read_responses: Final = msgspec.json.Decoder(ResponsesRequest).decode


def _messages(items: Iterable[Item]) -> list[dict[str, Any]]:
    """Messages of items: what was thought, a text and calls that follow each other are one answer."""
    messages: list[dict[str, Any]] = []
    for item in items:
        message = _message(item)
        last = messages[-1] if messages else None
        if last is not None and _goes_on(last, message, item):
            messages[-1] = _joined(last, message)
        else:
            messages.append(message)
    return messages


def _message(item: Item) -> dict[str, Any]:
    match item.type:
        case "message":
            return {"role": item.role or "user", "content": _content(item.content)}
        case "function_call":
            function = {"name": item.name, "arguments": item.arguments or "{}"}
            call = {"id": item.call_id, "type": "function", "function": function}
            return {"role": "assistant", "content": "", "tool_calls": [call]}
        case "function_call_output":
            return {"role": "tool", "tool_call_id": item.call_id, "content": _content(item.output)}
        case "reasoning":
            thoughts = _text(item.content) or _text(item.summary)
            return {"role": "assistant", "content": "", "reasoning_content": thoughts}
        case _:
            raise InvalidRequest(
                f"input: items of the type {item.type!r} are not supported: send messages, function calls "
                "and their outputs",
                param="input",
            )


def _goes_on(last: dict[str, Any], message: dict[str, Any], item: Item) -> bool:
    if last["role"] != "assistant" or message["role"] != "assistant":
        return False
    is_new_text = item.type == "message" and (last["content"] or last.get("tool_calls"))
    return not is_new_text and not (item.type == "reasoning" and (last["content"] or last.get("tool_calls")))


def _joined(last: dict[str, Any], message: dict[str, Any]) -> dict[str, Any]:
    calls = [*last.get("tool_calls", ()), *message.get("tool_calls", ())]
    return {
        **last,
        **message,
        "content": last["content"] or message["content"],
        **({"tool_calls": calls} if calls else {}),
    }


def _content(content: Content | None) -> str | list[dict[str, Any]]:
    """A text, or its parts where there are pictures among them."""
    if not isinstance(content, tuple) or all(each.type != _PICTURE for each in content):
        return _text(content)
    return [_part(each) for each in content]


def _part(part: Part) -> dict[str, Any]:
    if part.type != _PICTURE:
        return {"type": "text", "text": _text((part,))}
    if part.image_url is None:
        raise UnsupportedContent("a picture without image_url: send it as a data URL, as no files are kept")
    return {"type": "image_url", "image_url": part.image_url}


def _text(content: Content | None) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    if not all(each.type in _TEXTS for each in content):
        raise UnsupportedContent
    return "\n".join(each.text or each.refusal or "" for each in content)


def _tool(tool: ResponseTool) -> dict[str, Any]:
    return function_tool(
        name=tool.name, description=tool.description, parameters=tool.parameters, strict=tool.strict
    )
