"""Answers of Anthropic's Messages API: one message, or the events that build it up."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final, Literal, TypeAlias

import msgspec
from msgspec import UNSET, UnsetType

from suite.errors import SuiteError
from suite.gateway.encoding import encode
from suite.gateway.errors import status_of
from suite.gateway.sse import EVENT_STREAM, named_event
from suite.gateway.tool_text import TextBeforeCalls
from suite.messages.actions.chat import ToolCall
from suite.messages.actions.generation import GenerateTextReply
from suite.messages.actions.generation import Usage as Tokens
from suite.messages.signals import Chunk

StopReason: TypeAlias = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"]
BlockKind: TypeAlias = Literal["thinking", "text"]

_ERROR_TYPES: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}


class Text(msgspec.Struct, frozen=True, kw_only=True, tag="text"):
    """Text of an answer."""

    text: str


class Thought(msgspec.Struct, frozen=True, kw_only=True, tag="thinking"):
    """What the model thought before its answer."""

    thinking: str
    signature: str = ""


class ToolUse(msgspec.Struct, frozen=True, kw_only=True, tag="tool_use"):
    """A call of a function."""

    id: str
    name: str
    input: dict[str, Any]


OutputBlock: TypeAlias = Text | Thought | ToolUse


class MessageUsage(msgspec.Struct, frozen=True, kw_only=True):
    """The tokens of a message. Those of the prompt that were in memory are counted apart."""

    input_tokens: int
    cache_creation_input_tokens: int = 0
    cache_read_input_tokens: int
    output_tokens: int

    @classmethod
    def of(cls, tokens: Tokens) -> MessageUsage:
        """The usage of a generation."""
        return cls(
            input_tokens=tokens.prompt_tokens - tokens.reused_tokens,
            cache_read_input_tokens=tokens.reused_tokens,
            output_tokens=tokens.completion_tokens,
        )


class OutputMessage(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of ``/v1/messages``."""

    id: str
    type: Literal["message"] = "message"
    role: Literal["assistant"] = "assistant"
    model: str
    content: tuple[OutputBlock, ...]
    stop_reason: StopReason | None
    stop_sequence: str | None = None
    usage: MessageUsage
    warnings: tuple[str, ...] | UnsetType = UNSET
    """Not in Anthropic's API: what of the request could not be done as asked."""


class MessageEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An event of a streamed message; what else it has depends on its type."""

    type: str


class CountedTokens(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of ``/v1/messages/count_tokens``."""

    input_tokens: int


class MessageErrorObject(msgspec.Struct, frozen=True, kw_only=True):
    """What went wrong, and what to do about it."""

    type: str
    message: str
    code: str
    """Not in Anthropic's API: the code of the service."""


class MessageError(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a request that is refused or has failed."""

    type: Literal["error"] = "error"
    error: MessageErrorObject


def anthropic_error(error: SuiteError) -> dict[str, Any]:
    """The body of an error."""
    return {
        "type": "error",
        "error": {
            "type": _ERROR_TYPES.get(status_of(error), "api_error"),
            "message": error.message,
            "code": error.code,
        },
    }


def output_message(reply: GenerateTextReply, *, id: str) -> OutputMessage:
    """The answer to a request that is not streamed."""
    thoughts = (Thought(thinking=reply.reasoning),) if reply.reasoning else ()
    texts = (Text(text=reply.text),) if reply.text or not reply.tool_calls else ()
    return OutputMessage(
        id=id,
        model=reply.model_id,
        content=(*thoughts, *texts, *map(_tool_use, reply.tool_calls or ())),
        stop_reason=_stop_reason(reply),
        stop_sequence=_stop_sequence(reply),
        usage=MessageUsage.of(reply.usage),
        warnings=reply.warnings or UNSET,
    )


class MessageAnswer:
    """The events of a streamed message."""

    media_type = EVENT_STREAM

    def __init__(self, *, id: str, model: str, callable_names: Collection[str]) -> None:
        self._id = id
        self._model = model
        self._text = TextBeforeCalls(callable_names)
        self._has_begun = False
        self._blocks = 0
        self._open: BlockKind | None = None

    def error(self, error: SuiteError) -> bytes:
        """An event with the error; no `message_stop` follows it."""
        return _event(**anthropic_error(error))

    def keep_alive(self, told: str) -> bytes:
        """A ping."""
        del told
        return _event("ping")

    def chunk(self, chunk: Chunk) -> bytes:
        """The events for the next text or thought."""
        thought = self._piece("thinking", chunk.reasoning) if chunk.reasoning else b""
        text = self._text.feed(chunk.text)
        return thought + (self._piece("text", text) if text else b"")

    def end(self, reply: GenerateTextReply) -> bytes:
        """The events with what was held back, the calls, the reason of the end, and the usage."""
        calls = reply.tool_calls or ()
        rest = self._text.rest(reply.text if calls else None)
        events = self._piece("text", rest) if rest or not (calls or self._blocks) else b""
        events += self._close() + b"".join(map(self._call, calls))
        delta = {"stop_reason": _stop_reason(reply), "stop_sequence": _stop_sequence(reply)}
        usage = MessageUsage.of(reply.usage)
        return (
            self._begin()
            + events
            + _event("message_delta", delta=delta, usage=usage)
            + _event("message_stop")
        )

    def _begin(self) -> bytes:
        if self._has_begun:
            return b""
        self._has_begun = True
        usage = MessageUsage(input_tokens=0, cache_read_input_tokens=0, output_tokens=0)
        message = OutputMessage(id=self._id, model=self._model, content=(), stop_reason=None, usage=usage)
        return _event("message_start", message=message)

    def _piece(self, kind: BlockKind, text: str) -> bytes:
        """A piece of a block, which begins if another kind is open."""
        begun = self._begin()
        if self._open != kind:
            begun += self._close()
            self._open = kind
            begun += self._start(Text(text="") if kind == "text" else Thought(thinking=""))
        delta = {"type": f"{kind}_delta", kind: text}
        return begun + _event("content_block_delta", index=self._blocks, delta=delta)

    def _call(self, call: ToolCall) -> bytes:
        """A call, whose arguments are one piece."""
        delta = {"type": "input_json_delta", "partial_json": call.function.arguments}
        events = self._begin() + self._start(ToolUse(id=call.id, name=call.function.name, input={}))
        events += _event("content_block_delta", index=self._blocks, delta=delta)
        return events + self._stop()

    def _start(self, block: OutputBlock) -> bytes:
        return _event("content_block_start", index=self._blocks, content_block=block)

    def _close(self) -> bytes:
        if self._open is None:
            return b""
        self._open = None
        return self._stop()

    def _stop(self) -> bytes:
        self._blocks += 1
        return _event("content_block_stop", index=self._blocks - 1)


def _event(type: str, **data: object) -> bytes:
    return named_event(type, encode({"type": type, **data}))


def _tool_use(call: ToolCall) -> ToolUse:
    return ToolUse(id=call.id, name=call.function.name, input=msgspec.json.decode(call.function.arguments))


def _stop_reason(reply: GenerateTextReply) -> StopReason:
    if reply.tool_calls:
        return "tool_use"
    if reply.stop_text is not None:
        return "stop_sequence"
    return "end_turn" if reply.finish_reason == "stop" else "max_tokens"


def _stop_sequence(reply: GenerateTextReply) -> str | None:
    """The stop sequence that is the reason of the end."""
    return None if reply.tool_calls else reply.stop_text
