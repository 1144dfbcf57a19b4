"""One generation as its client sees it: chunks and heartbeats, then one final message, then nothing more.

One task sends all chunks in order. The text comes from the engine's thread through a `Feed`; text that
arrives while a message is being sent goes into the next one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, AsyncExitStack
from uuid import NAMESPACE_OID, uuid5

import anyio
import msgspec
from msgspec import UNSET
from opentelemetry.trace import SpanKind

from suite import telemetry
from suite.actors.feed import Feed
from suite.actors.metrics import timings, usage
from suite.actors.preparation import engine_request, prepare
from suite.bus.connection import Connection
from suite.bus.service import terminate
from suite.engine.generation import EngineRequest, Generation
from suite.engine.grammar.grammar import Grammars
from suite.engine.prompts.prompt import Prompter
from suite.engine.prompts.tool_calls import extract_tool_calls
from suite.engine.sampler import SamplingParams
from suite.engine.thread import EngineThread
from suite.errors import SuiteError, TooLarge
from suite.identity import Clock
from suite.log import Log
from suite.messages.actions.generation import GenerateTextReply, Timings, Usage
from suite.messages.actor import ActorSpec, Finished, GenerationProgress, Handover
from suite.messages.events import Generated, Outcome
from suite.messages.logprobs import TokenLogprobs
from suite.messages.signals import HEARTBEAT_SECONDS, Chunk, Heartbeat, Signal
from suite.tasks import background

logger = logging.getLogger("suite.actor")

_NOTHING = Usage(prompt_tokens=0, reused_tokens=0, completion_tokens=0)
_INTERNAL_ERROR = "an internal error ended the generation: see the node's log"

_encode = msgspec.json.Encoder().encode


class GenerationResources(msgspec.Struct, frozen=True, kw_only=True):
    """What all generations of one actor share."""

    spec: ActorSpec
    connection: Connection
    log: Log
    engine: EngineThread
    prompter: Prompter
    grammars: Grammars
    clock: Clock
    new_seed: Callable[[], int]


class ClientGeneration:
    """One accepted generation, from its prompt to its final message."""

    def __init__(
        self, handover: Handover, *, reply: str, receipt: str, resources: GenerationResources
    ) -> None:
        """`reply` is the client's subject; on `receipt` the actor hears when nobody receives a message."""
        self._id = handover.generation_id
        self._request = handover.request
        self._warnings = handover.warnings
        self._waited_ms = handover.waited_ms
        self._reply = reply
        self._receipt = receipt
        self._resources = resources
        self._accepted = resources.clock()
        seed = handover.request.seed
        self._seed = resources.new_seed() if seed is None or seed < 0 else seed
        self._generation: Generation | None = None
        self._cancelled: Outcome | None = None
        self._feed = Feed(stream=handover.request.stream)
        self._preparing = anyio.CancelScope()
        self._truncated_tokens = 0
        self._parts: list[str] = []
        self._logprobs: list[TokenLogprobs] = []
        self._chunks = 0
        self._last_sent = self._accepted

    # --- from outside ---------------------------------------------------------------------------------------

    @property
    def seconds_in_slot(self) -> float | None:
        """How long it had a slot; None if it never had one, or still has it."""
        generation = self._generation
        if generation is None or generation.started_at is None or generation.ended_at is None:
            return None
        return generation.ended_at - generation.started_at

    @property
    def progress(self) -> GenerationProgress:
        """How far it is."""
        generation = self._generation
        if generation is None:
            return GenerationProgress(has_slot=False, completion_tokens=0)
        has_slot = generation.started_at is not None
        return GenerationProgress(has_slot=has_slot, completion_tokens=generation.completion_tokens)

    def cancel(self, outcome: Outcome) -> None:
        """End it before its next step; the client gets the text so far."""
        self._cancelled = self._cancelled or outcome
        self._preparing.cancel()
        if self._generation is not None:
            self._generation.cancel(self._cancelled)

    def abort(self, error: SuiteError, outcome: Outcome) -> None:
        """End it now, without waiting for the engine; the client gets the error."""
        self._feed.end(error)
        self.cancel(outcome)

    # --- the way to the client ------------------------------------------------------------------------------

    async def run(self, headers: Mapping[str, str]) -> Finished:
        """Generate, append the event, and send the final message. Raises nothing except cancellation."""
        failure: SuiteError | None = None
        seq: int | None = None
        try:
            with self._span(headers):
                async with background() as tasks:
                    if self._request.stream:
                        tasks.start_soon(self._beat)
                    try:
                        await self._generate()
                    except SuiteError as error:
                        self._feed.end(error)
                    seq = await self._append()
                if self._feed.failure is not None:
                    raise self._feed.failure
        except SuiteError as error:
            failure = error
        except Exception:
            logger.exception("generation %s failed unexpectedly", self._id)
            self.cancel("failed")  # the engine must not go on: nobody gets the text
            failure = SuiteError(_INTERNAL_ERROR)
        await self._conclude(failure, seq)
        tokens = usage(self._generation) if self._generation else _NOTHING
        return Finished(
            generation_id=self._id,
            prompt_tokens=tokens.prompt_tokens,
            reused_tokens=tokens.reused_tokens,
            completion_tokens=tokens.completion_tokens,
            outcome=self._outcome,
            seq=seq,
            unsaved_tokens=self._generation.unsaved_tokens if self._generation else 0,
        )

    async def _generate(self) -> None:
        async with AsyncExitStack() as session:
            request = await self._prepare(session)
            if request is not None:
                self._generation = Generation(request, self._resources.clock)
                self._resources.engine.submit(self._generation, self._feed)
                if self._cancelled is not None:
                    self.cancel(self._cancelled)
                await self._forward()
        if self._feed.failure is not None:
            raise self._feed.failure

    async def _prepare(self, session: AsyncExitStack) -> EngineRequest | None:
        """Prepare the request for the engine; None: it was cancelled, or its deadline passed, meanwhile."""
        request, resources = self._request, self._resources
        deadline = None if request.deadline_ms is None else self._accepted + request.deadline_ms / 1000
        with self._preparing as preparing:
            if deadline is not None:
                preparing.deadline = anyio.current_time() + deadline - resources.clock()
            prepared = await prepare(
                request, resources.prompter, resources.grammars, session, seed=self._seed, deadline=deadline
            )
            self._truncated_tokens = prepared.truncated_tokens
            self._warnings += prepared.warnings
            return prepared.request
        # It ends like a generation that never got a slot.
        self._generation = Generation(
            engine_request(request, [], SamplingParams(), deadline), resources.clock
        )
        self._generation.end(self._cancelled or "deadline")
        return None

    async def _forward(self) -> None:
        """Send the text as it comes, until the engine has ended the generation."""
        over = False
        while not over:
            text, logprobs, over = await self._feed.next()
            if not text and not logprobs:
                continue
            self._parts.append(text)
            if not self._request.stream:
                self._logprobs += logprobs
                continue
            await self._send(Chunk(index=self._chunks, text=text, logprobs=logprobs or None))
            self._chunks += 1

    async def _beat(self) -> None:
        """Send heartbeats while nothing else is sent; they also show whether the client is still there."""
        while True:
            pause = self._last_sent + HEARTBEAT_SECONDS - self._resources.clock()
            if pause > 0:
                await anyio.sleep(pause)
                continue
            try:
                await self._send(Heartbeat())
            except SuiteError:
                return

    async def _send(self, signal: Signal) -> None:
        try:
            await self._resources.connection.publish(self._reply, _encode(signal), reply=self._receipt)
        except SuiteError as error:
            self.abort(error, "failed")
            raise
        self._last_sent = self._resources.clock()

    # --- the end --------------------------------------------------------------------------------------------

    @property
    def _outcome(self) -> Outcome:
        if self._generation is None:
            return self._cancelled or "failed"
        if self._feed.failure is not None and self._cancelled is None:
            return "failed"
        return self._generation.outcome or self._cancelled or "failed"

    async def _append(self) -> int | None:
        """Append the event and return its seq; None if the prompt was refused and nothing was generated."""
        generation = self._generation
        if generation is None:
            return None
        spec, tokens, times = self._resources.spec, usage(generation), self._timings(generation)
        telemetry.annotate(
            gen_ai__usage__input_tokens=tokens.prompt_tokens,
            gen_ai__usage__output_tokens=tokens.completion_tokens,
            gen_ai__response__finish_reasons=self._outcome,
            suite__reused_tokens=tokens.reused_tokens,
        )
        try:
            return await self._resources.log.append(
                Generated(
                    model_id=spec.model_id,
                    node=spec.node,
                    instance_id=spec.instance_id,
                    generation_id=self._id,
                    conversation_id=self._request.conversation_id,
                    prompt_tokens=tokens.prompt_tokens,
                    reused_tokens=tokens.reused_tokens,
                    completion_tokens=tokens.completion_tokens,
                    queue_ms=times.queue_ms,
                    time_to_first_token_ms=times.time_to_first_token_ms,
                    generation_ms=times.generation_ms,
                    outcome=self._outcome,
                    waited_ms=self._waited_ms,
                    requester=UNSET if self._request.requester is None else self._request.requester,
                ),
                # A generation repeated under the same id, because its outcome was unknown, counts once.
                id=str(uuid5(NAMESPACE_OID, f"{spec.model_id}\n{self._id}")),
                correlation_id=self._id,
            )
        except SuiteError as error:
            logger.warning("generation %s is not in the log: %s", self._id, error.message)
            self._feed.end(error)
            return None

    async def _conclude(self, failure: SuiteError | None, seq: int | None) -> None:
        """Send the final message and, after a stream, the empty one. The client may be gone by now."""
        try:
            failure = failure or await self._deliver(seq)
            if failure is not None:
                await terminate(
                    self._resources.connection,
                    self._reply,
                    failure,
                    stream=self._request.stream,
                    warnings=self._warnings,
                )
        except Exception:
            logger.exception("the end of generation %s is lost", self._id)

    async def _deliver(self, seq: int | None) -> SuiteError | None:
        """Send the reply; returns the error to send instead if the reply cannot be sent."""
        try:
            message = self._success(seq)
        except Exception:
            logger.exception("generation %s failed unexpectedly", self._id)
            return SuiteError(_INTERNAL_ERROR)
        connection = self._resources.connection
        try:
            try:
                await connection.publish(self._reply, _encode(message))
            except TooLarge:
                if message.logprobs is None:
                    raise
                await connection.publish(self._reply, _encode(_without_logprobs(message)))
            if self._request.stream:
                await connection.publish(self._reply)
        except TooLarge as error:
            return error
        except SuiteError as error:
            logger.warning("the end of generation %s is lost: %s", self._id, error.message)
        return None

    def _success(self, seq: int | None) -> GenerateTextReply:
        generation, asked = self._generation, self._request
        assert generation is not None
        assert seq is not None
        text, calls = "".join(self._parts), None
        if asked.tools and asked.tool_choice != "none":
            names = {tool.function.name for tool in asked.tools}
            text, calls = extract_tool_calls(text, names, self._id)
        return GenerateTextReply(
            text=text,
            tool_calls=calls or None,
            truncated_tokens=self._truncated_tokens,
            # A stream had them in its chunks, and all of them may not fit into one message.
            logprobs=None if asked.stream or asked.alternatives is None else tuple(self._logprobs),
            model_id=self._resources.spec.model_id,
            generation_id=self._id,
            conversation_id=asked.conversation_id,
            using_kv_cache=generation.reused_tokens > 0,
            finish_reason=self._outcome,
            seed=self._seed,
            usage=usage(generation),
            timings=self._timings(generation),
            seq=seq,
            warnings=self._warnings,
        )

    def _timings(self, generation: Generation) -> Timings:
        return timings(generation, accepted=self._accepted, now=self._resources.clock())

    def _span(self, headers: Mapping[str, str]) -> AbstractContextManager[None]:
        model_id = self._resources.spec.model_id
        return telemetry.span(
            f"generate_text {model_id}",
            kind=SpanKind.CONSUMER,
            headers=headers,
            gen_ai__operation__name="chat" if self._request.messages is not None else "text_completion",
            gen_ai__provider__name="llama.cpp",
            gen_ai__request__model=model_id,
            gen_ai__request__max_tokens=self._request.max_tokens,
            gen_ai__request__temperature=self._request.temperature,
            suite__generation_id=self._id,
        )


def _without_logprobs(reply: GenerateTextReply) -> GenerateTextReply:
    """The reply without logprobs, for when it would be too large otherwise."""
    warning = "logprobs are left out because the reply would be too large: send stream to get them in chunks"
    return msgspec.structs.replace(reply, logprobs=None, warnings=(*reply.warnings, warning))
