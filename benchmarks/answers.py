"""Streamed answers as their client sees them, of ours and of other servers: when text came, and how much.

All clients run in one process and one event loop. Ours come through `suite.connect`; those of the others over
HTTP, by a reader that does no more than it must, so that the client does not slow them down.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Protocol
from urllib.parse import urlsplit

import anyio
import msgspec

from suite.client import Client

_encode = msgspec.json.Encoder().encode


class Answer(ABC):
    """One answer: asked for when it is read. Times are `time.perf_counter`'s, taken when text is in hand."""

    def __init__(self) -> None:
        self.asked = 0.0
        self.times: list[float] = []
        """When each piece of text came. Ours may be of several tokens (ADR 9), those of others are of one."""
        self.ended = 0.0
        """When the last word of the server was in hand: of ours, that the answer is in the log."""
        self.begun = anyio.Event()
        self.text = ""
        self._lengths: list[int] = []
        self.prompt_tokens = self.reused_tokens = self.tokens = 0
        """As the server says at the end; `llama_cpp.server` says only `tokens`, and only in effect."""

    async def read(self) -> Answer:
        self.asked = time.perf_counter()
        async with aclosing(self._pieces()) as pieces:
            async for piece in pieces:
                if piece:
                    self.times.append(time.perf_counter())
                    self._lengths.append(len(piece))
                    self.begun.set()
                    self.text += piece
        self.ended = time.perf_counter()
        return self

    @property
    def first_token_ms(self) -> float:
        """To its end, if the model has nothing to say."""
        return ((self.times[0] if self.times else self.ended) - self.asked) * 1000

    def tokens_per_second(self, begin: float, end: float) -> float:
        """Between two times, after the first text; of its tokens those that the text came of in between."""
        text = sum(
            length for time, length in zip(self.times, self._lengths, strict=True) if begin < time <= end
        )
        return self.tokens * text / len(self.text) / (end - begin)

    @abstractmethod
    def _pieces(self) -> AsyncGenerator[str, None]: ...


class Server(Protocol):
    """Answers greedily."""

    def __call__(self, prompt: str, max_tokens: int, conversation_id: str | None = None) -> Answer: ...


# --- ours ---------------------------------------------------------------------------------------------------


class _OurAnswer(Answer):
    def __init__(
        self, client: Client, model_id: str, prompt: str, max_tokens: int, conversation_id: str | None
    ) -> None:
        super().__init__()
        self._generation = client.generate(
            model_id, prompt, max_tokens=max_tokens, temperature=0, conversation_id=conversation_id
        )

    async def _pieces(self) -> AsyncGenerator[str, None]:
        async for chunk in self._generation:
            yield chunk.text
        usage = self._generation.reply.usage
        self.prompt_tokens, self.tokens = usage.prompt_tokens, usage.completion_tokens
        self.reused_tokens = usage.reused_tokens


def ours(client: Client, model_id: str) -> Server:
    def ask(prompt: str, max_tokens: int, conversation_id: str | None = None) -> Answer:
        return _OurAnswer(client, model_id, prompt, max_tokens, conversation_id)

    return ask


# --- llama.cpp's server -------------------------------------------------------------------------------------


class _CacheFigures(msgspec.Struct):
    cache_n: int = 0


class _Completion(msgspec.Struct):
    content: str = ""
    stop: bool = False
    tokens_predicted: int = 0
    tokens_evaluated: int = 0
    timings: _CacheFigures | None = None


class _LlamaServerAnswer(Answer):
    def __init__(self, url: str, model_id: str | None, prompt: str, max_tokens: int) -> None:
        super().__init__()
        self._url = url
        self._body = {
            "model": model_id,
            "prompt": prompt,
            "n_predict": max_tokens,
            "temperature": 0,
            "stream": True,
        }

    async def _pieces(self) -> AsyncGenerator[str, None]:
        decode = msgspec.json.Decoder(_Completion).decode
        async with aclosing(_events(f"{self._url}/completion", self._body)) as events:
            async for event in events:
                completion = decode(event)
                if completion.stop:
                    self.prompt_tokens = completion.tokens_evaluated
                    self.tokens = completion.tokens_predicted
                    self.reused_tokens = completion.timings.cache_n if completion.timings else 0
                yield completion.content


def llama_server(url: str, model_id: str | None = None) -> Server:
    """Its own endpoint, which sends less than the OpenAI one. Slots are found by what they hold.

    A router takes the model's id; a server of one model has no need of it.
    """

    def ask(prompt: str, max_tokens: int, conversation_id: str | None = None) -> Answer:  # noqa: ARG001
        return _LlamaServerAnswer(url, model_id, prompt, max_tokens)

    return ask


# --- llama_cpp.server ---------------------------------------------------------------------------------------


class _Choice(msgspec.Struct):
    text: str = ""
    finish_reason: str | None = None


class _OpenAICompletion(msgspec.Struct):
    choices: list[_Choice] = []


class _PythonServerAnswer(Answer):
    def __init__(self, url: str, prompt: str, max_tokens: int) -> None:
        super().__init__()
        self._url = url
        self._max_tokens = max_tokens
        self._body = {"prompt": prompt, "max_tokens": max_tokens, "temperature": 0, "stream": True}

    async def _pieces(self) -> AsyncGenerator[str, None]:
        decode = msgspec.json.Decoder(_OpenAICompletion).decode
        events_seen = 0
        async with aclosing(_events(f"{self._url}/v1/completions", self._body)) as events:
            async for event in events:
                if event == b"[DONE]":
                    break
                (choice,) = decode(event).choices
                events_seen += bool(choice.text)
                # It does not tell: an answer that was cut at its length has as many as were asked for.
                self.tokens = self._max_tokens if choice.finish_reason == "length" else events_seen
                yield choice.text


def python_server(url: str) -> Server:
    def ask(prompt: str, max_tokens: int, conversation_id: str | None = None) -> Answer:  # noqa: ARG001
        return _PythonServerAnswer(url, prompt, max_tokens)

    return ask


# --- OpenAI's API, of whoever has it ---------------------------------------------------------------------


class _PromptDetails(msgspec.Struct):
    cached_tokens: int = 0


class _Usage(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int
    prompt_tokens_details: _PromptDetails | None = None


class _CompletionEvent(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None


class _CompletionAnswer(Answer):
    def __init__(self, url: str, model_id: str, prompt: str, max_tokens: int) -> None:
        super().__init__()
        self._url = url
        self._body = {
            "model": model_id,
            "prompt": prompt,
            "max_tokens": max_tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }

    async def _pieces(self) -> AsyncGenerator[str, None]:
        decode = msgspec.json.Decoder(_CompletionEvent).decode
        async with aclosing(_events(f"{self._url}/v1/completions", self._body)) as events:
            async for event in events:
                if event == b"[DONE]":
                    break
                completion = decode(event)
                if (usage := completion.usage) is not None:
                    self.prompt_tokens, self.tokens = usage.prompt_tokens, usage.completion_tokens
                    details = usage.prompt_tokens_details
                    self.reused_tokens = 0 if details is None else details.cached_tokens
                yield "".join(choice.text for choice in completion.choices)


def completions(url: str, model_id: str) -> Server:
    """`/v1/completions`, which tells its usage at the end."""

    def ask(prompt: str, max_tokens: int, conversation_id: str | None = None) -> Answer:  # noqa: ARG001
        return _CompletionAnswer(url, model_id, prompt, max_tokens)

    return ask


# --- HTTP ---------------------------------------------------------------------------------------------------


async def _events(url: str, body: Mapping[str, object]) -> AsyncGenerator[bytes, None]:
    """The data of each event of a stream that comes in chunks."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        content = _encode(body)
        head = f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
        status = await reader.readline()
        if b" 200 " not in status:
            headers = await reader.readuntil(b"\r\n\r\n")
            raise AssertionError(status + headers + await reader.read(1000))
        while (await reader.readline()).strip():
            pass
        rest = b""
        while size := int(await reader.readline(), 16):
            rest += await reader.readexactly(size)
            await reader.readexactly(2)
            *lines, rest = rest.split(b"\n")
            for line in lines:
                if line.startswith(b"data: "):
                    yield line[6:].strip()
    finally:
        writer.close()
