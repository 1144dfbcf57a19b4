"""A service made by hand on a real nats-server: it answers as a test says, so also wrongly or not at all."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import anyio
import msgspec

from suite.bus.connection import Connection, Message
from suite.messages.actions.base import ErrorReply
from suite.messages.actions.generation import (
    CancelGenerationReply,
    CancelGenerationRequest,
    GenerateTextReply,
    GenerateTextRequest,
    Timings,
    Usage,
)
from suite.messages.actor import NatsAccess
from suite.messages.signals import Chunk
from suite.tasks import background


class Call:
    """One request, and the way back to who sent it."""

    def __init__(self, connection: Connection, message: Message) -> None:
        self._connection = connection
        self._reply = message.reply
        self.headers = message.headers
        self.body: dict[str, Any] = msgspec.json.decode(message.data or b"{}")

    async def send(self, *messages: msgspec.Struct | bytes) -> None:
        for message in messages:
            data = message if isinstance(message, bytes) else msgspec.json.encode(message)
            await self._connection.publish(self._reply, data)

    async def refuse(self, code: str, message: str, event_id: str | None = None) -> None:
        await self.send(ErrorReply(code=code, message=message, event_id=event_id))


Handler: TypeAlias = Callable[[Call], Coroutine[Any, Any, None]]


class Responder:
    """Answers actions, keeps what it was asked, and knows which generations it was told to cancel."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self.cancelled: list[str] = []
        self._news = anyio.Event()

    async def until_cancelled(self, count: int = 1) -> None:
        with anyio.fail_after(10):
            while len(self.cancelled) < count:
                await self._news.wait()

    async def cancel_generation(self, call: Call) -> None:
        request = msgspec.convert(call.body, CancelGenerationRequest)
        self.cancelled.append(request.generation_id)
        await call.send(CancelGenerationReply(generation_id=request.generation_id, cancelled=True))
        self._news.set()
        self._news = anyio.Event()


@asynccontextmanager
async def responding(access: NatsAccess, **handlers: Handler) -> AsyncIterator[Responder]:
    """Serve these actions by name (and cancel_generation), each request in a task of its own."""
    responder = Responder()
    served: Mapping[str, Handler] = {"cancel_generation": responder.cancel_generation, **handlers}
    async with Connection.open(access, name="responder") as connection, background() as tasks:
        for name, handler in served.items():

            async def receive(message: Message, name: str = name, handler: Handler = handler) -> None:
                call = Call(connection, message)
                responder.requests.append((name, call.body))
                tasks.start_soon(handler, call)

            await connection.subscribe(f"suite.action.{name}", receive)
        yield responder


def spoken(request: Mapping[str, Any], text: str) -> GenerateTextReply:
    """The final reply of a generation that said this."""
    asked = msgspec.convert(request, GenerateTextRequest)
    return GenerateTextReply(
        text=text,
        model_id=asked.model_id,
        generation_id=asked.generation_id or "made-by-the-service",
        conversation_id=asked.conversation_id,
        using_kv_cache=False,
        finish_reason="stop",
        seed=1,
        usage=Usage(prompt_tokens=3, reused_tokens=0, completion_tokens=len(text.split())),
        timings=Timings(
            queue_ms=0, prompt_ms=1, time_to_first_token_ms=1, generation_ms=2, tokens_per_second=10
        ),
        seq=7,
    )


async def say(call: Call, *pieces: str) -> None:
    """A whole streamed answer."""
    await call.send(*(Chunk(index=index, text=piece) for index, piece in enumerate(pieces)))
    await call.send(spoken(call.body, "".join(pieces)), b"")
