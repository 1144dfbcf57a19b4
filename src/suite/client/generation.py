"""One generation as its requester sees it: chunks of text, then the whole reply with usage and timings."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, TypeAlias, TypedDict

import anyio
import msgspec
from anyio.abc import TaskGroup

from suite.errors import InvalidRequest, SuiteError, Unavailable
from suite.messages.actions.base import AdapterChoice, KeepAlive
from suite.messages.actions.chat import ChatMessage, ResponseFormat, Tool, ToolChoice
from suite.messages.actions.generation import GenerateTextReply, GenerateTextRequest
from suite.messages.logprobs import TokenLogprobs
from suite.messages.signals import Chunk, Progress, Signal, Waiting

OnProgress: TypeAlias = Callable[[float], None]
"""Called with the progress of a load, 0 to 1."""

OnWaiting: TypeAlias = Callable[[Waiting], None]
"""Called with each new place in the line of those who wait for memory."""

Exchange: TypeAlias = Callable[[GenerateTextRequest, Callable[[Signal], None]], Awaitable[GenerateTextReply]]
Cancel: TypeAlias = Callable[[str], Awaitable[None]]


class GenerationOptions(TypedDict, total=False):
    """The options of a generation; GenerateTextRequest documents them and has the defaults."""

    adapters: str | tuple[str | AdapterChoice, ...]
    system_prompt: str | None
    tools: tuple[Tool, ...]
    tool_choice: ToolChoice
    parallel_tool_calls: bool
    continue_final_message: bool | None
    chat_template_kwargs: dict[str, Any]
    suffix: str | None
    truncate: Literal["left"] | None
    max_tokens: int
    max_completion_tokens: int | None
    n: int
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    typical_p: float
    repeat_penalty: float
    presence_penalty: float
    frequency_penalty: float
    logit_bias: dict[str, float]
    logprobs: bool | int | None
    top_logprobs: int | None
    prompt_logprobs: int | None
    grammar: str | None
    json_schema: dict[str, Any] | None
    response_format: ResponseFormat | None
    priority: int
    deadline_ms: int | None
    load_wait_ms: int | None
    keep_alive: KeepAlive
    context_length: int | None
    continue_: bool
    reuse: bool
    speculation: bool
    seed: int | None
    stop: str | tuple[str, ...]
    conversation_id: str | None
    generation_id: str | None
    requester: str | None


class Pieces:
    """Counts the chunks of one answer: what is lost with a connection shows by their indexes."""

    def __init__(self) -> None:
        self._due = 0
        self.are_lost = False

    def check(self, chunk: Chunk) -> None:
        """Count the next chunk. Raises Unavailable if others were lost before it."""
        if chunk.index != self._due:
            self.are_lost = True
            raise Unavailable(
                f"pieces {self._due} to {chunk.index - 1} of the answer were lost with the connection: "
                "send the request again"
            )
        self._due += 1


class Generation:
    """A generation. It starts when it is first iterated, and can be iterated only once.

    Leaving the loop early, in any way, cancels it on the server::

        async for chunk in (generation := client.generate("SmolLM2-135M-Instruct.Q4_1", "Hello")):
            if enough(chunk.text):
                break

    Use it as a context manager, or call `aclose`, to be sure that the server was told before going on.
    """

    def __init__(
        self,
        request: GenerateTextRequest,
        *,
        exchange: Exchange,
        cancel: Cancel,
        tasks: TaskGroup,
        on_progress: OnProgress | None = None,
        on_waiting: OnWaiting | None = None,
    ) -> None:
        self._request = request
        self._exchange = exchange
        self._cancel = cancel
        self._tasks = tasks
        self._on_progress = on_progress
        self._on_waiting = on_waiting
        # At most one chunk for each token: the service limits the answer by the model's context.
        self._pending: deque[Chunk] = deque()
        self._logprobs: dict[int, list[TokenLogprobs]] = {}
        """By choice."""
        self._news = anyio.Event()
        self._ended = anyio.Event()
        self._scope = anyio.CancelScope()
        self._started = False
        self._reply: GenerateTextReply | None = None
        self._error: Exception | None = None

    @property
    def generation_id(self) -> str:
        """The id for `cancel_generation`; made by this client unless it was given."""
        return self._request.generation_id or ""

    @property
    def reply(self) -> GenerateTextReply:
        """The whole text with usage and timings, after the loop. Raises RuntimeError when there is none.

        Its ``logprobs`` are collected from the chunks; None if some were lost.
        """
        if self._reply is None:
            raise RuntimeError("the generation has no reply: it has not been read to its end")
        return self._reply

    def __aiter__(self) -> AsyncIterator[Chunk]:
        """Iterate over the chunks of the text, in order.

        Raises the service's error, NodeLost when it is silent for too long or the connection is lost, and
        Unavailable when chunks were lost.
        """
        # A separate generator that only the caller's loop references: a `break` finalizes it.
        return self._pieces()

    async def _pieces(self) -> AsyncGenerator[Chunk, None]:
        self._start()
        pieces = Pieces()
        try:
            while True:
                while self._pending:
                    chunk = self._pending.popleft()
                    pieces.check(chunk)
                    yield chunk
                if self._ended.is_set():
                    break
                await self._news.wait()
                self._news = anyio.Event()
            if self._error is not None:
                raise self._error
        finally:
            self._scope.cancel()

    async def finish(self) -> GenerateTextReply:
        """Wait for the reply, without the chunks. Raises the errors of iteration.

        Cancelling this call cancels the generation on the server.
        """
        self._start()
        try:
            await self._ended.wait()
        finally:
            self._scope.cancel()
        if self._error is not None:
            raise self._error
        return self.reply

    async def aclose(self) -> None:
        """End it, and return when the server was told (or could not be told within seconds)."""
        self._scope.cancel()
        if self._started:
            await self._ended.wait()

    async def __aenter__(self) -> Generation:
        """Nothing starts yet."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it."""
        await self.aclose()

    def _start(self) -> None:
        if self._started:
            raise RuntimeError("a generation can be read once: call generate again")
        try:
            self._tasks.start_soon(self._run, name=f"generation {self.generation_id}")
        except RuntimeError:
            raise Unavailable("this client is closed: connect again") from None
        self._started = True

    async def _run(self) -> None:
        """Receive the service's messages in a task of the client: the caller's loop may stop anywhere."""
        settled = False
        try:
            with self._scope:
                self._reply = self._whole(await self._exchange(self._request, self._hear))
                settled = True
        except SuiteError as error:
            self._error = error
            settled = True
        except Exception as error:  # from the caller's on_progress, so it is raised to the caller
            self._error = error
        finally:
            if not settled:
                self._error = self._error or Unavailable("the generation was ended by its requester")
                await self._cancel(self.generation_id)
            self._ended.set()
            self._news.set()

    def _whole(self, reply: GenerateTextReply) -> GenerateTextReply:
        """The final message, completed with the log probabilities that only the chunks have."""
        came = sum(map(len, self._logprobs.values()))
        if self._request.alternatives is None or came != reply.usage.completion_tokens:
            return reply
        return msgspec.structs.replace(
            reply,
            logprobs=tuple(self._logprobs.get(0, ())),
            choices=tuple(
                msgspec.structs.replace(choice, logprobs=tuple(self._logprobs.get(choice.index, ())))
                for choice in reply.choices
            ),
        )

    def _hear(self, signal: Signal) -> None:
        if isinstance(signal, Chunk):
            self._pending.append(signal)
            self._logprobs.setdefault(signal.choice, []).extend(signal.logprobs or ())
            self._news.set()
        elif isinstance(signal, Progress) and self._on_progress is not None:
            self._on_progress(signal.fraction)
        elif isinstance(signal, Waiting) and self._on_waiting is not None:
            self._on_waiting(signal)


def chat_messages(
    messages: Sequence[ChatMessage | Mapping[str, Any]] | None,
) -> tuple[ChatMessage, ...] | None:
    """Convert messages to their type. Raises InvalidRequest for one that is not a message."""
    if messages is None:
        return None
    try:
        return msgspec.convert(tuple(messages), tuple[ChatMessage, ...], from_attributes=True)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"messages: {error}") from None
