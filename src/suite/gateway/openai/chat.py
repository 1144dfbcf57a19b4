"""``/v1/chat/completions``: its request, and its answer as one object or in chunks.

The messages, tools and formats of the request are those of `GenerateTextRequest`, so they go to the service
as they came, and are checked there.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal, TypeAlias

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from suite.gateway.encoding import Integer, encode
from suite.gateway.fields import MOST_TOKENS
from suite.gateway.generations import Fields
from suite.gateway.openai.form import DONE, OpenAIForm
from suite.gateway.openai.sampling import JsonObject, Sampled
from suite.gateway.openai.usage import Usage, finish_reason, usage_of
from suite.gateway.sse import event
from suite.gateway.tool_text import TextBeforeCalls
from suite.messages.actions.chat import ChatMessage, ResponseFormat, Tool, ToolCall
from suite.messages.actions.generation import Choice, GenerateTextReply
from suite.messages.logprobs import TokenLogprobs
from suite.messages.signals import Chunk

FinishReason: TypeAlias = Literal["stop", "length", "tool_calls"]

Messages = Annotated[
    Raw,
    Meta(extra_json_schema={"type": "array", "items": {"$ref": "#/components/schemas/ChatMessage"}}),
]
Tools = Annotated[
    Raw,
    Meta(extra_json_schema={"type": ["array", "null"], "items": {"$ref": "#/components/schemas/Tool"}}),
]
ToolChoice = Annotated[
    Raw,
    Meta(extra_json_schema={"anyOf": [{"enum": ["auto", "none", "required", None]}, {"type": "object"}]}),
]
Format = Annotated[
    Raw,
    Meta(extra_json_schema={"anyOf": [{"$ref": "#/components/schemas/ResponseFormat"}, {"type": "null"}]}),
]
PARTS: Final = (ChatMessage, Tool, ResponseFormat)
"""The types that the schema of `ChatRequest` refers to."""


class _FunctionName(msgspec.Struct):
    name: str


class _NamedTool(msgspec.Struct):
    function: _FunctionName


_read_tools: Final = msgspec.json.Decoder(tuple[_NamedTool, ...] | None).decode


class ChatRequest(Sampled, frozen=True, kw_only=True):
    """A request to ``/v1/chat/completions``. Unknown parameters are ignored, and null counts as left out."""

    messages: Messages
    max_completion_tokens: Integer | None = None
    """Another name of ``max_tokens``. Default: as many as the context has room for."""
    tools: Tools | UnsetType = UNSET
    tool_choice: ToolChoice | UnsetType = UNSET
    parallel_tool_calls: bool | None = None
    response_format: Format | UnsetType = UNSET
    logprobs: bool | None = None
    top_logprobs: Integer | None = None
    chat_template_kwargs: JsonObject | UnsetType = UNSET
    continue_final_message: bool | None = None

    @property
    def callable_names(self) -> frozenset[str]:
        """The functions that the answer may call. Of tools that are wrong, the service tells what."""
        if self.tools is UNSET or self.tool_choice == Raw(b'"none"'):
            return frozenset()
        try:
            return frozenset(tool.function.name for tool in _read_tools(self.tools) or ())
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return frozenset()

    @property
    def fields(self) -> Fields:
        """The request as the service takes it."""
        limited = self.max_tokens is not None or self.max_completion_tokens is not None
        return {"max_tokens": MOST_TOKENS, **super().fields} if not limited else super().fields


read_chat: Final = msgspec.json.Decoder(ChatRequest).decode


class LogProbs(msgspec.Struct, frozen=True, kw_only=True):
    """The log probabilities of the tokens of a text."""

    content: tuple[TokenLogprobs, ...]
    refusal: None = None


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of the model."""

    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: None = None
    reasoning_content: str | UnsetType = UNSET
    """What the model thought before, between its markers for that."""
    tool_calls: tuple[ToolCall, ...] | UnsetType = UNSET


class ChatChoice(msgspec.Struct, frozen=True, kw_only=True):
    """One of the answers."""

    index: int
    message: Message
    logprobs: LogProbs | None
    finish_reason: FinishReason


class ChatCompletion(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of ``/v1/chat/completions``."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: tuple[ChatChoice, ...]
    usage: Usage


class FunctionDelta(msgspec.Struct, frozen=True, kw_only=True):
    """A piece of a function's call."""

    name: str | UnsetType = UNSET
    arguments: str


class ToolCallDelta(msgspec.Struct, frozen=True, kw_only=True):
    """A piece of a tool call; the first of each has its id, type and name."""

    index: int
    id: str | UnsetType = UNSET
    type: Literal["function"] | UnsetType = UNSET
    function: FunctionDelta


class Delta(msgspec.Struct, frozen=True, kw_only=True):
    """What a chunk adds to an answer."""

    role: Literal["assistant"] | UnsetType = UNSET
    content: str | UnsetType = UNSET
    reasoning_content: str | UnsetType = UNSET
    tool_calls: tuple[ToolCallDelta, ...] | UnsetType = UNSET


class ChunkChoice(msgspec.Struct, frozen=True, kw_only=True):
    """What a chunk adds to one of the answers."""

    index: int
    delta: Delta
    logprobs: LogProbs | None = None
    finish_reason: FinishReason | None = None


class ChatChunk(msgspec.Struct, frozen=True, kw_only=True):
    """One event of a streamed answer."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: tuple[ChunkChoice, ...]
    usage: Usage | UnsetType | None = UNSET
    """Only if ``include_usage`` is asked for: of the last chunk, and null in the others."""


def chat_completion(reply: GenerateTextReply, *, id: str, created: int) -> ChatCompletion:
    """The answer to a request that is not streamed."""
    return ChatCompletion(
        id=id,
        created=created,
        model=reply.model_id,
        choices=tuple(map(_choice, choices_of(reply))),
        usage=usage_of((reply.usage,)),
    )


def choices_of(reply: GenerateTextReply) -> tuple[Choice, ...]:
    """The answers of a reply, also if it is only one."""
    return reply.choices or (
        Choice(
            index=0,
            text=reply.text,
            reasoning=reply.reasoning,
            tool_calls=reply.tool_calls,
            finish_reason=reply.finish_reason,
            logprobs=reply.logprobs,
        ),
    )


def _choice(choice: Choice) -> ChatChoice:
    calls = choice.tool_calls
    return ChatChoice(
        index=choice.index,
        message=Message(
            content=choice.text or (None if calls else ""),
            reasoning_content=choice.reasoning or UNSET,
            tool_calls=calls or UNSET,
        ),
        logprobs=None if choice.logprobs is None else LogProbs(content=choice.logprobs),
        finish_reason="tool_calls" if calls else finish_reason(choice.finish_reason),
    )


class ChatAnswer(OpenAIForm):
    """The events of a streamed chat completion."""

    def __init__(self, request: ChatRequest, *, id: str, created: int) -> None:
        self._id = id
        self._created = created
        self._model = request.model
        self._includes_usage = request.includes_usage
        names = request.callable_names
        self._texts = {index: TextBeforeCalls(names) for index in range(request.n or 1)}
        self._begun: set[int] = set()

    def chunk(self, chunk: Chunk) -> bytes:
        """The event for the next text."""
        text = self._texts[chunk.choice].feed(chunk.text)
        if not text and not chunk.reasoning and not chunk.logprobs:
            return b""
        delta = Delta(content=text or UNSET, reasoning_content=chunk.reasoning or UNSET)
        logprobs = None if chunk.logprobs is None else LogProbs(content=chunk.logprobs)
        return self._event(ChunkChoice(index=chunk.choice, delta=delta, logprobs=logprobs))

    def end(self, reply: GenerateTextReply) -> bytes:
        """The events with what was held back, the calls, the reasons of the end, and the usage."""
        events = [each for choice in choices_of(reply) for each in self._last_events(choice)]
        if self._includes_usage:
            events.append(self._encoded((), usage_of((reply.usage,))))
        return b"".join((*events, DONE))

    def _last_events(self, choice: Choice) -> list[bytes]:
        index, calls = choice.index, choice.tool_calls or ()
        rest = self._texts[index].rest(choice.text if calls else None)
        deltas = [Delta(content=rest)] if rest or (not calls and index not in self._begun) else []
        for number, call in enumerate(calls):
            deltas += _deltas(number, call)
        reason: FinishReason = "tool_calls" if calls else finish_reason(choice.finish_reason)
        return [
            *(self._event(ChunkChoice(index=index, delta=delta)) for delta in deltas),
            self._event(ChunkChoice(index=index, delta=Delta(), finish_reason=reason)),
        ]

    def _event(self, choice: ChunkChoice) -> bytes:
        if choice.index not in self._begun:
            self._begun.add(choice.index)
            choice = msgspec.structs.replace(
                choice, delta=msgspec.structs.replace(choice.delta, role="assistant")
            )
        return self._encoded((choice,), None if self._includes_usage else UNSET)

    def _encoded(self, choices: tuple[ChunkChoice, ...], usage: Usage | UnsetType | None) -> bytes:
        chunk = ChatChunk(id=self._id, created=self._created, model=self._model, choices=choices, usage=usage)
        return event(encode(chunk))


def _deltas(index: int, call: ToolCall) -> tuple[Delta, Delta]:
    """A call in two pieces: what it is, then its arguments."""
    begun = ToolCallDelta(
        index=index,
        id=call.id,
        type="function",
        function=FunctionDelta(name=call.function.name, arguments=""),
    )
    rest = ToolCallDelta(index=index, function=FunctionDelta(arguments=call.function.arguments))
    return Delta(tool_calls=(begun,)), Delta(tool_calls=(rest,))
