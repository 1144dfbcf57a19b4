"""Asks the model of a benchmark, on this node, and the model that judges, on any."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from itertools import count
from typing import Final, NamedTuple

import anyio
import msgspec

from suite.bus.connection import Connection
from suite.client.replies import read_reply
from suite.domain.benchmark import Timed, speed_prompt
from suite.domain.judging import VERDICT_TOKENS, judge_prompt
from suite.errors import (
    Cancelled,
    GenerationFailed,
    GenerationNotFound,
    NodeStopping,
    RequestTimeout,
    SuiteError,
)
from suite.identity import NewId
from suite.messages.actions.base import CLIENT_HEADER
from suite.messages.actions.chat import ChatMessage
from suite.messages.actions.generation import GenerateTextReply, GenerateTextRequest
from suite.messages.actions.residency import LoadModelReply, LoadModelRequest
from suite.messages.actions.tokens import TokenizeReply, TokenizeRequest
from suite.messages.benchmarks import LoadSample, Question
from suite.messages.subjects import Subjects
from suite.node.fleet.fleet import Fleet
from suite.node.generations import Generations

LOAD_WAIT_MS: Final = 600_000
"""How long a benchmark waits for memory."""
LOAD_SECONDS: Final = 3600.0
GENERATION_SECONDS: Final = 1200.0
"""For one generation, with the wait for memory and the load that it may need."""
DEADLINE_MS: Final = 300_000
"""After this time an answer ends where it is."""
CANCEL_SECONDS: Final = 2.0
CANCEL_ATTEMPTS: Final = 4
_ON_ITS_WAY_SECONDS: Final = 0.05
REQUESTER: Final = "benchmark"
"""What stands in the events of the uses."""
PRIORITY: Final = -6
"""Requests of others that come up to a minute later go first (`GenerateTextRequest.priority`)."""

_HEADERS: Final = {CLIENT_HEADER: REQUESTER}


class Answer(NamedTuple):
    """What a model answered, and how long that took."""

    text: str
    timed: Timed


class Asking:
    """Asks models for the benchmarks of a node."""

    def __init__(
        self,
        node: str,
        *,
        connection: Connection,
        subjects: Subjects,
        fleet: Fleet,
        generations: Generations,
        new_id: NewId,
    ) -> None:
        self._node = node
        self._connection = connection
        self._subjects = subjects
        self._fleet = fleet
        self._generations = generations
        self._prefix = f"{REQUESTER}-{new_id()}-"
        """With it begin the ids of the generations that benchmarks of this node ask for, and no others."""
        self._numbers = count(1)

    def require_service(self) -> None:
        """Check that this node takes new work. Raises NodeStopping while it is drained, or stops."""
        if self._fleet.own.is_draining:
            raise NodeStopping

    def is_own(self, generation_id: str) -> bool:
        """Whether a generation is one that a benchmark of this node has asked for."""
        return generation_id.startswith(self._prefix)

    def instance_of(self, model_id: str) -> str:
        """The instance of a model on this node; empty if there is none."""
        return self._generations.instance_of(model_id)

    async def load(self, model_id: str) -> LoadSample:
        """Have the model loaded. Raises what `load_model` raises."""
        request = LoadModelRequest(model_id=model_id, load_wait_ms=LOAD_WAIT_MS)
        reply = await self._fleet.ask(
            self._node, "load_model", request, LoadModelReply, headers=_HEADERS, seconds=LOAD_SECONDS
        )
        return LoadSample(load_ms=reply.load_ms, resident_bytes=reply.resident_bytes)

    async def speed_tokens(
        self, model_id: str, count: int, *, streams: int, number: int, stream: int
    ) -> tuple[int, ...]:
        """The tokens of a prompt to measure the speed with, which no other generation has."""
        request = TokenizeRequest(
            model_id=model_id,
            text=speed_prompt(count, streams, number, stream),
            pieces=False,
            load_wait_ms=LOAD_WAIT_MS,
        )
        reply = await self._fleet.ask(
            self._node, "tokenize", request, TokenizeReply, headers=_HEADERS, seconds=GENERATION_SECONDS
        )
        return reply.tokens[:count]

    async def timed(self, model_id: str, tokens: tuple[int, ...], answer_tokens: int) -> Timed:
        """Generate after a prompt of tokens, and say how long that took."""
        reply = await self._here(
            self._request(model_id, prompt=tokens, max_tokens=answer_tokens, reuse=False, temperature=0.0)
        )
        return _timed(reply)

    async def answer(self, model_id: str, question: Question) -> Answer:
        """Ask a question."""
        reply = await self._here(
            self._request(
                model_id,
                messages=_messages(question.system, question.prompt),
                max_tokens=question.max_tokens,
                temperature=0.0,
            )
        )
        return Answer(reply.text, _timed(reply))

    async def judgement(self, judge: str, question: Question, answer: str) -> str:
        """What a model says of an answer. It may be on any node. Raises Cancelled and GenerationFailed."""
        request = self._request(
            judge,
            messages=_messages(*judge_prompt(question, answer)),
            max_tokens=VERDICT_TOKENS,
            temperature=0.0,
        )
        async with self._cancelling(request):
            message = await self._connection.request(
                self._subjects.action("generate_text"),
                msgspec.json.encode(request),
                headers=_HEADERS,
                timeout=GENERATION_SECONDS,
            )
        return _whole(read_reply(message.data, GenerateTextReply)).text

    def _request(self, model_id: str, **fields: object) -> GenerateTextRequest:
        return msgspec.convert(
            {
                "model_id": model_id,
                "generation_id": f"{self._prefix}{next(self._numbers)}",
                "seed": 0,
                "priority": PRIORITY,
                "load_wait_ms": LOAD_WAIT_MS,
                "deadline_ms": DEADLINE_MS,
                "requester": REQUESTER,
                **fields,
            },
            GenerateTextRequest,
        )

    async def _here(self, request: GenerateTextRequest) -> GenerateTextReply:
        """Generate on this node. Raises Cancelled and GenerationFailed."""
        async with self._cancelling(request):
            reply = await self._fleet.ask(
                self._node,
                "generate_text",
                request,
                GenerateTextReply,
                headers=_HEADERS,
                seconds=GENERATION_SECONDS,
            )
        return _whole(reply)

    @asynccontextmanager
    async def _cancelling(self, request: GenerateTextRequest) -> AsyncIterator[None]:
        """Who is cancelled in the block, or gives up, takes the generation along if it is on this node.

        On another one, it is that of a judge, which says a few words.
        """
        assert request.generation_id is not None, "each has one of its own"
        try:
            yield
        except (anyio.get_cancelled_exc_class(), RequestTimeout):
            await self._cancel(request.generation_id)
            raise

    async def _cancel(self, generation_id: str) -> None:
        """Cancel a generation, also one that was asked for so lately that this node does not know it yet."""
        with anyio.move_on_after(CANCEL_SECONDS, shield=True), suppress(SuiteError):
            for _ in range(CANCEL_ATTEMPTS):
                try:
                    await self._generations.cancel(generation_id)
                except GenerationNotFound:
                    await anyio.sleep(_ON_ITS_WAY_SECONDS)
                else:
                    break


def _whole(reply: GenerateTextReply) -> GenerateTextReply:
    """A reply that says what the model had to say. Raises Cancelled and GenerationFailed for any other."""
    match reply.finish_reason:
        case "cancelled" | "client_gone":
            raise Cancelled
        case "failed":
            raise GenerationFailed
        case _:
            return reply


def _messages(system: str | None, prompt: str) -> tuple[ChatMessage, ...]:
    asked = ChatMessage(role="user", content=prompt)
    return (asked,) if system is None else (ChatMessage(role="system", content=system), asked)


def _timed(reply: GenerateTextReply) -> Timed:
    timings = reply.timings
    first = timings.queue_ms + timings.prompt_ms
    return Timed(
        prompt_tokens=reply.usage.prompt_tokens - reply.usage.reused_tokens,
        completion_tokens=reply.usage.completion_tokens,
        prompt_ms=timings.prompt_ms,
        first_token_ms=first,
        latency_ms=first + timings.generation_ms,
        tokens_per_second=timings.tokens_per_second,
    )
