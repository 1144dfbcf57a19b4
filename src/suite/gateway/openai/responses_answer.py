"""Answers of ``/v1/responses``: one response, or the events that build it up."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final, Literal, TypeAlias

import msgspec
from msgspec import UNSET, UnsetType

from suite.errors import SuiteError
from suite.gateway.encoding import encode
from suite.gateway.errors import openai_error
from suite.gateway.openai.responses import ResponsesRequest
from suite.gateway.sse import EVENT_STREAM, named_event
from suite.gateway.tool_text import TextBeforeCalls
from suite.messages.actions.chat import ToolCall
from suite.messages.actions.generation import GenerateTextReply
from suite.messages.signals import Chunk

State: TypeAlias = Literal["in_progress", "completed", "incomplete", "failed"]


class OutputText(msgspec.Struct, frozen=True, kw_only=True, tag="output_text"):
    """The text of a message."""

    text: str
    annotations: tuple[()] = ()


class ReasoningText(msgspec.Struct, frozen=True, kw_only=True, tag="reasoning_text"):
    """What the model thought."""

    text: str


PartKind: TypeAlias = type[OutputText] | type[ReasoningText]


class OutputItem(msgspec.Struct, frozen=True, kw_only=True):
    """The base of the items of an answer."""

    id: str
    status: State


class ReasoningItem(OutputItem, frozen=True, kw_only=True, tag="reasoning"):
    """What the model thought before its answer."""

    summary: tuple[()] = ()
    content: tuple[ReasoningText, ...]


class MessageItem(OutputItem, frozen=True, kw_only=True, tag="message"):
    """The text of the answer."""

    role: Literal["assistant"] = "assistant"
    content: tuple[OutputText, ...]


class CallItem(OutputItem, frozen=True, kw_only=True, tag="function_call"):
    """A call of a function."""

    call_id: str
    name: str
    arguments: str


AnyItem: TypeAlias = ReasoningItem | MessageItem | CallItem


class InputDetails(msgspec.Struct, frozen=True, kw_only=True):
    """Of the prompt's tokens: those that were in memory, and were not decoded again."""

    cached_tokens: int


class OutputDetails(msgspec.Struct, frozen=True, kw_only=True):
    """Of the answer's tokens: those of what was thought."""

    reasoning_tokens: int


class ResponseUsage(msgspec.Struct, frozen=True, kw_only=True):
    """The tokens of a response."""

    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: OutputDetails
    total_tokens: int

    @classmethod
    def of(cls, reply: GenerateTextReply) -> ResponseUsage:
        """The usage of a reply."""
        tokens = reply.usage
        return cls(
            input_tokens=tokens.prompt_tokens,
            input_tokens_details=InputDetails(cached_tokens=tokens.reused_tokens),
            output_tokens=tokens.completion_tokens,
            output_tokens_details=OutputDetails(reasoning_tokens=tokens.reasoning_tokens),
            total_tokens=tokens.prompt_tokens + tokens.completion_tokens,
        )


class ResponseDocument(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of ``/v1/responses``."""

    id: str
    object: Literal["response"] = "response"
    created_at: int
    status: State
    error: dict[str, Any] | None = None
    incomplete_details: dict[str, str] | None = None
    instructions: str | None
    max_output_tokens: int | None
    metadata: dict[str, Any]
    model: str
    output: tuple[AnyItem, ...]
    parallel_tool_calls: bool
    previous_response_id: None = None
    store: Literal[False] = False
    temperature: float | None
    text: dict[str, Any]
    tool_choice: Any
    tools: tuple[Any, ...]
    top_p: float | None
    truncation: Literal["disabled"] = "disabled"
    usage: ResponseUsage | None = None
    warnings: tuple[str, ...] | UnsetType = UNSET
    """Not in OpenAI's API: what of the request could not be done as asked."""


class ResponseEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An event of a streamed response; what else it has depends on its type."""

    type: str
    sequence_number: int


class Responses:
    """Makes the response to one request, at each of its states."""

    def __init__(self, asked: ResponsesRequest, *, id: str, created_at: int) -> None:
        self._asked = asked
        self.id = id
        self._created_at = created_at

    def begun(self) -> ResponseDocument:
        """The response before there is anything."""
        return self._response("in_progress", ())

    def failed(self, error: SuiteError, output: tuple[AnyItem, ...]) -> ResponseDocument:
        """The response that ended with an error."""
        body = openai_error(error)["error"]
        return msgspec.structs.replace(
            self._response("failed", output), error={"code": body["code"], "message": body["message"]}
        )

    def whole(self, reply: GenerateTextReply) -> ResponseDocument:
        """The response with all of a reply."""
        return self.ended(reply, self._items(reply))

    def ended(self, reply: GenerateTextReply, output: tuple[AnyItem, ...]) -> ResponseDocument:
        """The response with the items that a reply has become."""
        reason = _incomplete_reason(reply)
        warnings = (*self._asked.warnings, *reply.warnings)
        return msgspec.structs.replace(
            self._response(end_of(reply), output),
            model=reply.model_id,
            incomplete_details=None if reason is None else {"reason": reason},
            usage=ResponseUsage.of(reply),
            warnings=warnings or UNSET,
        )

    def thought(self, index: int, text: str | None, status: State) -> ReasoningItem:
        """What was thought, as the item of this number; None: not yet anything."""
        content = () if text is None else (ReasoningText(text=text),)
        return ReasoningItem(id=f"rs_{self.id}_{index}", status=status, content=content)

    def message(self, index: int, text: str | None, status: State) -> MessageItem:
        """The text, as the item of this number; None: not yet any."""
        content = () if text is None else (OutputText(text=text),)
        return MessageItem(id=f"msg_{self.id}_{index}", status=status, content=content)

    def call(self, call: ToolCall) -> CallItem:
        """A call."""
        function = call.function
        return CallItem(
            id=f"fc_{call.id}",
            status="completed",
            call_id=call.id,
            name=function.name,
            arguments=function.arguments,
        )

    def _items(self, reply: GenerateTextReply) -> tuple[AnyItem, ...]:
        items: list[AnyItem] = []
        if reply.reasoning:
            goes_on = bool(reply.text or reply.tool_calls)
            items.append(self.thought(0, reply.reasoning, "completed" if goes_on else end_of(reply)))
        if reply.text or not (items or reply.tool_calls):
            items.append(self.message(len(items), reply.text, end_of(reply)))
        return (*items, *map(self.call, reply.tool_calls or ()))

    def _response(self, status: State, output: tuple[AnyItem, ...]) -> ResponseDocument:
        asked = self._asked
        format = asked.text.format if asked.text and asked.text.format else None
        return ResponseDocument(
            id=f"resp_{self.id}",
            created_at=self._created_at,
            status=status,
            instructions=asked.instructions,
            max_output_tokens=asked.max_output_tokens,
            metadata=asked.metadata or {},
            model=asked.model,
            output=output,
            parallel_tool_calls=asked.parallel_tool_calls is not False,
            temperature=asked.temperature,
            text={"format": format or {"type": "text"}},
            tool_choice=asked.known_tool_choice,
            tools=asked.functions,
            top_p=asked.top_p,
        )


def end_of(reply: GenerateTextReply) -> State:
    """The state of a response, and of its last text, at the end of a reply."""
    return "completed" if reply.finish_reason == "stop" else "incomplete"


def _incomplete_reason(reply: GenerateTextReply) -> str | None:
    """Why there is no more of an answer; None: it is whole."""
    if reply.finish_reason in ("length", "context_full"):
        return "max_output_tokens"
    return None if reply.finish_reason == "stop" else reply.finish_reason


class _OpenItem:
    """An item that grows while it is streamed: how its events are called, and its text so far."""

    def __init__(
        self, index: int, make: Callable[[int, str | None, State], AnyItem], *, part: PartKind
    ) -> None:
        self.index = index
        self.item = partial(make, index)
        self.part = part
        self.text = ""

    @property
    def id(self) -> str:
        return self.item(None, "in_progress").id

    @property
    def place(self) -> dict[str, Any]:
        """The fields by which all its events say where they belong."""
        return {"item_id": self.id, "output_index": self.index, "content_index": 0}


_NAMES: Final[dict[PartKind, str]] = {
    OutputText: "response.output_text",
    ReasoningText: "response.reasoning_text",
}


class ResponseAnswer:
    """The events of a streamed response."""

    media_type = EVENT_STREAM

    def __init__(self, asked: ResponsesRequest, *, id: str, created_at: int) -> None:
        self._responses = Responses(asked, id=id, created_at=created_at)
        self._text = TextBeforeCalls(asked.callable_names)
        self._number = 0
        self._has_begun = False
        self._items: list[AnyItem] = []
        self._open: _OpenItem | None = None

    def error(self, error: SuiteError) -> bytes:
        """The event that the response failed; it is the last."""
        response = self._responses.failed(error, tuple(self._items))
        return self._begin() + self._event("response.failed", response=response)

    def keep_alive(self, told: str) -> bytes:
        """The event that it goes on: some clients hear events only, no comments."""
        del told
        return self._begin() + self._event("response.in_progress", response=self._responses.begun())

    def chunk(self, chunk: Chunk) -> bytes:
        """The events for the next text or thought."""
        events = self._piece(ReasoningText, chunk.reasoning) if chunk.reasoning else b""
        text = self._text.feed(chunk.text)
        return events + (self._piece(OutputText, text) if text else b"")

    def end(self, reply: GenerateTextReply) -> bytes:
        """The events with what was held back, the calls, and the whole response."""
        calls = reply.tool_calls or ()
        rest = self._text.rest(reply.text if calls else None)
        events = self._piece(OutputText, rest) if rest or not (calls or self._open) else b""
        events = self._begin() + events + self._close(end_of(reply)) + b"".join(map(self._call, calls))
        response = self._responses.ended(reply, tuple(self._items))
        return events + self._event(f"response.{response.status}", response=response)

    def _begin(self) -> bytes:
        if self._has_begun:
            return b""
        self._has_begun = True
        begun = self._responses.begun()
        return self._event("response.created", response=begun) + self._event(
            "response.in_progress", response=begun
        )

    def _piece(self, part: PartKind, text: str) -> bytes:
        """A piece of the text or of what is thought; its item begins if another is open."""
        events = self._begin()
        if self._open is None or self._open.part is not part:
            events += self._close("completed") + self._start(part)
        assert self._open is not None
        self._open.text += text
        return events + self._event(f"{_NAMES[part]}.delta", **self._open.place, delta=text)

    def _start(self, part: PartKind) -> bytes:
        make = self._responses.message if part is OutputText else self._responses.thought
        self._open = begun = _OpenItem(len(self._items), make, part=part)
        item = begun.item(None, "in_progress")
        added = self._event("response.output_item.added", output_index=begun.index, item=item)
        return added + self._event("response.content_part.added", **begun.place, part=part(text=""))

    def _close(self, status: State) -> bytes:
        """The end of the open item, if there is one."""
        if self._open is None:
            return b""
        ended, self._open = self._open, None
        item = ended.item(ended.text, status)
        self._items.append(item)
        events = self._event(f"{_NAMES[ended.part]}.done", **ended.place, text=ended.text)
        events += self._event("response.content_part.done", **ended.place, part=ended.part(text=ended.text))
        return events + self._event("response.output_item.done", output_index=ended.index, item=item)

    def _call(self, call: ToolCall) -> bytes:
        item, index = self._responses.call(call), len(self._items)
        self._items.append(item)
        begun = msgspec.structs.replace(item, arguments="", status="in_progress")
        place = {"item_id": item.id, "output_index": index}
        events = self._event("response.output_item.added", output_index=index, item=begun)
        events += self._event("response.function_call_arguments.delta", **place, delta=item.arguments)
        events += self._event(
            "response.function_call_arguments.done", **place, name=item.name, arguments=item.arguments
        )
        return events + self._event("response.output_item.done", output_index=index, item=item)

    def _event(self, type: str, **data: object) -> bytes:
        number, self._number = self._number, self._number + 1
        body = encode({"type": type, "sequence_number": number, **data})
        return named_event(type, body)
