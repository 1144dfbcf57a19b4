"""Answers of ``/api/chat`` and ``/api/generate``: lines of JSON, or one object."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, Final, Literal, TypeAlias

import msgspec
from msgspec import UNSET, UnsetType

from suite.errors import SuiteError
from suite.gateway.encoding import encode
from suite.gateway.ollama.chat import OllamaFunctionCall, OllamaToolCall
from suite.gateway.tool_text import TextBeforeCalls
from suite.messages.actions.chat import ToolCall
from suite.messages.actions.generation import GenerateTextReply
from suite.messages.signals import Chunk

NDJSON: Final = "application/x-ndjson"
_NANOSECONDS: Final = 1_000_000

DoneReason: TypeAlias = Literal["stop", "length", "load", "unload"]


class Piece(msgspec.Struct, frozen=True, kw_only=True):
    """What one line has of an answer."""

    content: str = ""
    thinking: str | UnsetType = UNSET
    tool_calls: tuple[OllamaToolCall, ...] | UnsetType = UNSET


class ChatPiece(Piece, frozen=True, kw_only=True):
    """The message of a line of ``/api/chat``."""

    role: Literal["assistant"] = "assistant"


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """The tokens of a generation, and the time that it took, in nanoseconds."""

    done_reason: DoneReason
    total_duration: int
    load_duration: int
    prompt_eval_count: int
    prompt_eval_duration: int
    eval_count: int
    eval_duration: int

    @classmethod
    def of(cls, reply: GenerateTextReply, *, seconds: float) -> Counts:
        """The counts of a reply that took so long in all."""
        timings, total = reply.timings, round(seconds * 1e9)
        known = timings.queue_ms + timings.prompt_ms + timings.generation_ms
        return cls(
            done_reason="stop" if reply.finish_reason == "stop" else "length",
            total_duration=total,
            load_duration=max(0, total - round(known * _NANOSECONDS)),
            prompt_eval_count=reply.usage.prompt_tokens,
            prompt_eval_duration=round(timings.prompt_ms * _NANOSECONDS),
            eval_count=reply.usage.completion_tokens,
            eval_duration=round(timings.generation_ms * _NANOSECONDS),
        )


class AnswerLine(msgspec.Struct, frozen=True, kw_only=True):
    """What lines of both endpoints have in common; times in nanoseconds. Counts come only with the last."""

    model: str
    created_at: str
    done: bool
    done_reason: DoneReason | UnsetType = UNSET
    total_duration: int | UnsetType = UNSET
    load_duration: int | UnsetType = UNSET
    prompt_eval_count: int | UnsetType = UNSET
    prompt_eval_duration: int | UnsetType = UNSET
    eval_count: int | UnsetType = UNSET
    eval_duration: int | UnsetType = UNSET
    warnings: tuple[str, ...] | UnsetType = UNSET
    """Not in Ollama's API: what of the request could not be done as asked."""


class ChatLine(AnswerLine, frozen=True, kw_only=True):
    """A line of ``/api/chat``, and the whole of an answer that is not streamed."""

    message: ChatPiece


class GenerateLine(AnswerLine, frozen=True, kw_only=True):
    """A line of ``/api/generate``, and the whole of an answer that is not streamed."""

    response: str
    thinking: str | UnsetType = UNSET


class OllamaError(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a request that is refused or has failed, and the last line of an answer that fails."""

    error: str
    code: str
    """Not in Ollama's API: the code of the service."""


Write: TypeAlias = Callable[[Piece], dict[str, Any]]
"""The fields by which a line has a piece of the answer: they differ between the two endpoints."""


def in_message(piece: Piece) -> dict[str, Any]:
    """A piece as ``/api/chat`` writes it."""
    fields = {name: getattr(piece, name) for name in piece.__struct_fields__}
    return {"message": ChatPiece(**fields)}


def in_response(piece: Piece) -> dict[str, Any]:
    """A piece as ``/api/generate`` writes it."""
    return {"response": piece.content, **({} if piece.thinking is UNSET else {"thinking": piece.thinking})}


def ollama_error(error: SuiteError) -> dict[str, Any]:
    """The body of an error."""
    return {"error": error.message, "code": error.code}


class Lines:
    """Writes the lines of one answer."""

    def __init__(self, model: str, write: Write, *, created_at: str, elapsed: Callable[[], float]) -> None:
        """``elapsed`` is the time since the request came, in seconds."""
        self._begin = {"model": model, "created_at": created_at}
        self._write = write
        self._elapsed = elapsed

    def piece(self, piece: Piece) -> dict[str, Any]:
        """A line with a piece of the answer."""
        return {**self._begin, **self._write(piece), "done": False}

    def last(self, piece: Piece, reply: GenerateTextReply) -> dict[str, Any]:
        """The last line: what is still to be said, and the counts."""
        counts = msgspec.structs.asdict(Counts.of(reply, seconds=self._elapsed()))
        warnings = {"warnings": reply.warnings} if reply.warnings else {}
        return {**self._begin, **self._write(piece), "done": True, **counts, **warnings}

    def without_text(self, reason: DoneReason) -> dict[str, Any]:
        """The only line of an answer that loads or unloads a model."""
        return {**self._begin, **self._write(Piece()), "done": True, "done_reason": reason}


class OllamaAnswer:
    """The lines of a streamed answer."""

    media_type = NDJSON

    def __init__(self, lines: Lines, *, callable_names: Collection[str]) -> None:
        self._lines = lines
        self._text = TextBeforeCalls(callable_names)

    def error(self, error: SuiteError) -> bytes:
        """A line with the error; it is the last."""
        return _line(ollama_error(error))

    def keep_alive(self, told: str) -> bytes:
        """A line without text: this form has no comments."""
        del told
        return _line(self._lines.piece(Piece()))

    def chunk(self, chunk: Chunk) -> bytes:
        """The line for the next text or thought."""
        text = self._text.feed(chunk.text)
        if not text and not chunk.reasoning:
            return b""
        return _line(self._lines.piece(Piece(content=text, thinking=chunk.reasoning or UNSET)))

    def end(self, reply: GenerateTextReply) -> bytes:
        """The lines with what was held back and the calls, then the counts."""
        calls = reply.tool_calls or ()
        rest = self._text.rest(reply.text if calls else None)
        piece = Piece(content=rest, tool_calls=tool_calls(calls) or UNSET)
        before = _line(self._lines.piece(piece)) if rest or calls else b""
        return before + _line(self._lines.last(Piece(), reply))


def whole(lines: Lines, reply: GenerateTextReply) -> dict[str, Any]:
    """The answer to a request that is not streamed."""
    calls = tool_calls(reply.tool_calls or ())
    piece = Piece(content=reply.text, thinking=reply.reasoning or UNSET, tool_calls=calls or UNSET)
    return lines.last(piece, reply)


def tool_calls(calls: tuple[ToolCall, ...]) -> tuple[OllamaToolCall, ...]:
    """Calls with their arguments as objects."""
    return tuple(
        OllamaToolCall(
            id=call.id,
            function=OllamaFunctionCall(
                name=call.function.name, arguments=msgspec.json.decode(call.function.arguments)
            ),
        )
        for call in calls
    )


def _line(fields: dict[str, Any]) -> bytes:
    return encode(fields) + b"\n"
