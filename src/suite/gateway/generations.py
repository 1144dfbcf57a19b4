"""The one way on which a request of any dialect becomes a generation of the service.

A dialect makes the fields of a GenerateTextRequest out of its request, and an `Answer` that makes pieces of
the signals. Here is what is the same for all: a client that is gone cancels, a cold model is waited for, an
error keeps its status as long as nothing was sent.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol, TypeAlias, TypeVar

import anyio
import msgspec
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from suite.client import Client
from suite.errors import Cancelled, NotEnoughMemory, SuiteError
from suite.gateway.context import Context, context_of
from suite.gateway.conversations import Conversations
from suite.gateway.errors import bug
from suite.gateway.loading import Loading
from suite.gateway.metrics import Metrics
from suite.gateway.sse import PieceStream, gone
from suite.gateway.work import Work
from suite.identity import Clock
from suite.messages.actions.generation import GenerateTextReply
from suite.messages.logprobs import TokenLogprobs
from suite.messages.signals import Accepted, Chunk, Signal
from suite.tasks import background

logger = logging.getLogger("suite.gateway")

T = TypeVar("T")

Fields: TypeAlias = Mapping[str, object]
"""The fields of a GenerateTextRequest that a client has given; `msgspec.Raw` is sent as it is."""
Hear: TypeAlias = Callable[[Chunk], None]
Put: TypeAlias = Callable[[bytes], None]
"""Has a piece of an answer sent; it does not wait."""


class Form(Protocol):
    """How a dialect writes what is not part of an answer in one that is streamed."""

    media_type: str

    def error(self, error: SuiteError) -> bytes:
        """The last piece of an answer that fails when its status is sent already."""

    def keep_alive(self, told: str) -> bytes:
        """A sign of life, with a line about what is being waited for."""


class Answer(Form, Protocol):
    """Makes the pieces of one streamed answer."""

    def chunk(self, chunk: Chunk) -> bytes:
        """The piece for the next text; empty if there is nothing to send yet."""

    def end(self, reply: GenerateTextReply) -> bytes:
        """The last pieces, with all that is still to be said."""


class Generations:
    """Has the service generate for clients of the gateway."""

    def __init__(
        self, client: Client, metrics: Metrics, work: Work, *, load_seconds: float, clock: Clock
    ) -> None:
        """``load_seconds`` is how long a request waits for a model that is not loaded."""
        self._client = client
        self._metrics = metrics
        self._work = work
        self._load_seconds = load_seconds
        self._clock = clock
        self._conversations = Conversations()

    async def whole(self, request: Request, fields: Fields) -> GenerateTextReply:
        """Generate, and return all of it. Raises Cancelled if the request's client is gone meanwhile."""
        return await while_connected(request, lambda: self.ask_whole(context_of(request.scope), fields))

    def streamed(self, fields: Fields, answer: Answer) -> StreamedAnswer:
        """The response that generates while it is sent."""

        async def work(context: Context, put: Put) -> None:
            put(answer.end(await self.ask(context, fields, lambda chunk: put(answer.chunk(chunk)))))

        return StreamedAnswer(work, answer)

    async def ask_whole(self, context: Context, fields: Fields) -> GenerateTextReply:
        """Generate for a request, and return all of it, with the log probabilities that chunks have."""
        logprobs: dict[int, list[TokenLogprobs]] = {}

        def collect(chunk: Chunk) -> None:
            if chunk.logprobs:
                logprobs.setdefault(chunk.choice, []).extend(chunk.logprobs)

        reply = await self.ask(context, fields, collect)
        return _with_logprobs(reply, logprobs) if logprobs else reply

    async def ask(self, context: Context, fields: Fields, hear: Hear) -> GenerateTextReply:
        """Generate for a request, and call ``hear`` with each chunk.

        Raises the service's error, ModelLoading when the model is not ready after `load_seconds`, and why it
        was ended if its requester may have nothing any more.
        """
        context.model = str(fields["model_id"])
        # One for all prompts of a request, which wait for the same model.
        context.loading = loading = context.loading or Loading(context.model, self._clock)
        operation = "chat" if "messages" in fields else "text_completion"
        until = anyio.current_time() + self._load_seconds

        def hear_all(signal: Signal) -> None:
            context.hear()
            if isinstance(signal, Chunk):
                hear(signal)
                if limit.deadline != math.inf:  # setting it costs more than a chunk
                    limit.deadline = math.inf
            elif isinstance(signal, Accepted):
                context.node = signal.node
            else:
                loading.hear(signal)
                limit.deadline = until if loading.is_cold else math.inf

        if context.requester is not None:
            fields = {**fields, "requester": context.requester}
        with self._in_conversation(context, fields) as fields:
            with self._work.of(context.requester), anyio.CancelScope() as limit:
                try:
                    with self._metrics.generating(operation) as measured:
                        reply = await self._client.answer(fields, hear_all)
                        context.hear()
                        measured.answered(reply.model_id, reply.usage)
                    return reply
                except NotEnoughMemory:
                    if not loading.is_cold:
                        raise
            raise loading.over_limit()

    @contextmanager
    def _in_conversation(self, context: Context, fields: Fields) -> Iterator[Fields]:
        """The fields with the id of the conversation that a chat goes on with, unless they have one."""
        if "messages" not in fields or "conversation_id" in fields or fields.get("n", 1) != 1:
            yield fields
            return
        scope = (str(fields["model_id"]), context.requester or "", context.session or "")
        with self._conversations.taken(scope, fields["messages"]) as id:
            yield fields if id is None else {**fields, "conversation_id": id}


class StreamedAnswer:
    """A response that is sent while it is made."""

    def __init__(self, work: Callable[[Context, Put], Awaitable[None]], form: Form) -> None:
        """``work`` makes the answer, and puts its pieces. What it raises before the first is raised."""
        self._work = work
        self._form = form

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send what the work makes until its end, or until the client is gone or too slow."""
        context = context_of(scope)
        context.is_stream = True
        with anyio.CancelScope() as serving:
            stream = PieceStream(
                send,
                media_type=self._form.media_type,
                keep_alive=lambda: self._form.keep_alive(context.loading.told if context.loading else ""),
                on_overflow=serving.cancel,
            )
            async with background() as tasks:
                tasks.start_soon(_cancel_when_gone, receive, serving)
                tasks.start_soon(self._fill, stream, context)
                await stream.run()

    async def _fill(self, stream: PieceStream, context: Context) -> None:
        try:
            await self._work(context, stream.put)
        except SuiteError as error:
            if not stream.has_begun:
                raise
            context.error = error
            stream.put(self._form.error(error))
        except Exception:
            if not stream.has_begun:
                raise
            logger.exception("an answer failed by a bug amid its stream")
            stream.put(self._form.error(bug()))
        stream.end()


async def while_connected(request: Request, work: Callable[[], Awaitable[T]]) -> T:
    """Do work for a request, whose body has been read, as long as its client waits. Raises Cancelled."""
    with anyio.CancelScope() as serving:
        async with background() as tasks:
            tasks.start_soon(_cancel_when_gone, request.receive, serving)
            return await work()
    raise Cancelled("the client closed the connection")


async def _cancel_when_gone(receive: Receive, serving: anyio.CancelScope) -> None:
    await gone(receive)
    serving.cancel()


def _with_logprobs(
    reply: GenerateTextReply, logprobs: Mapping[int, list[TokenLogprobs]]
) -> GenerateTextReply:
    choices = tuple(
        msgspec.structs.replace(choice, logprobs=tuple(logprobs.get(choice.index, ())))
        for choice in reply.choices
    )
    return msgspec.structs.replace(reply, logprobs=tuple(logprobs.get(0, ())), choices=choices)
