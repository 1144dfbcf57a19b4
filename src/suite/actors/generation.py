"""One generation as its client sees it: chunks and heartbeats, then one final message, then nothing more.

One task sends all chunks in order. The text comes from the engine's thread through a `Feed`; text that
arrives while a message is being sent goes into the next one. A generation of several choices is as many
generations for the engine, and one for all others: it has one id, one final message and one event.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, AsyncExitStack
from uuid import NAMESPACE_OID, uuid5

import anyio
import msgspec
from msgspec import UNSET

from suite import telemetry
from suite.actors.choice import PendingChoice
from suite.actors.feed import Feed, TextDelta
from suite.actors.metrics import timings, usage
from suite.actors.moving import Moving
from suite.actors.pictures import Pictures
from suite.actors.preparation import engine_request, prepare
from suite.actors.tracing import generating, note_answer, note_text, operation_of
from suite.bus.absence import Absence
from suite.bus.connection import Connection
from suite.bus.service import terminate
from suite.engine.adapters import Adapter, adapter_set
from suite.engine.generation import EngineRequest, Generation
from suite.engine.grammar.grammar import Grammars
from suite.engine.prompts.prompt import Prompter
from suite.engine.sampler import SamplingParams
from suite.engine.thread import EngineThread
from suite.errors import SuiteError, TooLarge
from suite.identity import Clock
from suite.log import Log
from suite.messages.actions.base import AdapterChoice, brief
from suite.messages.actions.generation import Choice, GenerateTextReply, Timings, Usage
from suite.messages.actor import ActorSpec, Finished, GenerationProgress, Handover
from suite.messages.events import AppliedAdapter, Generated, Outcome
from suite.messages.logprobs import PromptToken
from suite.messages.signals import HEARTBEAT_SECONDS, Chunk, Heartbeat, Signal
from suite.messages.subjects import Subjects
from suite.tasks import background

logger = logging.getLogger("suite.actor")

_NOTHING = Usage(prompt_tokens=0, reused_tokens=0, completion_tokens=0)
_LEAST_SCORE_BYTES = 48
"""A message has no fewer for a token with its log probability."""
_FORGOTTEN = (
    "the conversation is not kept: the model has one slot, which the other answers take; send n: 1 to keep it"
)
_INTERNAL_ERROR = "an internal error ended the generation: see the node's log"

_encode = msgspec.json.Encoder().encode


class GenerationResources(msgspec.Struct, frozen=True, kw_only=True):
    """What all generations of one actor share."""

    spec: ActorSpec
    connection: Connection
    log: Log
    engine: EngineThread
    prompter: Prompter
    pictures: Pictures
    grammars: Grammars
    clock: Clock
    new_seed: Callable[[], int]
    moving: Moving | None
    """None: conversations stay on their node."""


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
        self._former_node = handover.former_node
        self._adapters = handover.adapters
        self._version = handover.version
        self._fetched = handover.fetched
        self._variant, self._variant_version = handover.variant, handover.variant_version
        self._reply = reply
        self._receipt = receipt
        self._resources = resources
        self._accepted = resources.clock()
        seed = handover.request.seed
        self._seed = resources.new_seed() if seed is None or seed < 0 else seed
        self._choices: list[PendingChoice] = []
        self._cancelled: Outcome | None = None
        self._absence = Absence()
        self._feed = Feed(stream=handover.request.stream, choices=handover.request.n)
        self._preparing = anyio.CancelScope()
        self._truncated_tokens = 0
        self._chunks = 0
        self._last_sent = self._accepted

    # --- from outside ---------------------------------------------------------------------------------------

    @property
    def size(self) -> int:
        """How many answers are generated, each of which takes a slot."""
        return self._request.n

    @property
    def seconds_in_slots(self) -> list[float]:
        """How long each of its choices had a slot that has given it back."""
        return [
            each.ended_at - each.started_at
            for each in self._generations
            if each.started_at is not None and each.ended_at is not None
        ]

    @property
    def progress(self) -> GenerationProgress:
        """How far it is."""
        return GenerationProgress(
            has_slot=any(each.started_at is not None for each in self._generations),
            completion_tokens=sum(each.completion_tokens for each in self._generations),
        )

    @property
    def _generations(self) -> list[Generation]:
        return [choice.generation for choice in self._choices]

    def cancel(self, outcome: Outcome) -> None:
        """End it before its next step; the client gets the text so far."""
        self._cancelled = self._cancelled or outcome
        self._preparing.cancel()
        self._cancel_in_engine(self._cancelled)

    def note_unheard(self) -> None:
        """Note that nobody received a signal. A client that stays away ends it."""
        if self._absence.note_unheard(self._resources.clock()):
            self.cancel("client_gone")

    def abort(self, error: SuiteError, outcome: Outcome) -> None:
        """End it now, without waiting for the engine; the client gets the error."""
        self._feed.end(error)
        self.cancel(outcome)

    def _cancel_in_engine(self, outcome: Outcome) -> None:
        for generation in self._generations:
            generation.cancel(outcome)

    # --- the way to the client ------------------------------------------------------------------------------

    async def run(self, headers: Mapping[str, str]) -> Finished:
        """Generate, append the event, and send the final message. Raises nothing except cancellation."""
        with self._processing(headers):
            failure, seq = await self._answered()
            if failure is not None:
                telemetry.fail(failure)
            with telemetry.sending("reply", "_INBOX", attributes={"messaging.destination.temporary": True}):
                await self._conclude(failure, seq)
        tokens = usage(self._generations) if self._choices else _NOTHING
        return Finished(
            generation_id=self._id,
            prompt_tokens=tokens.prompt_tokens,
            reused_tokens=tokens.reused_tokens,
            completion_tokens=tokens.completion_tokens,
            drafted_tokens=tokens.drafted_tokens,
            accepted_tokens=tokens.accepted_tokens,
            outcome=self._outcome,
            seq=seq,
            unsaved_tokens=_unsaved_tokens(self._generations),
            operation=operation_of(self._request),
            error="" if failure is None else failure.code,
            waited_ms=self._waited_ms,
            seconds=self._resources.clock() - self._accepted,
            timings=self._timings() if self._choices and self._resources.spec.measures else None,
        )

    async def _answered(self) -> tuple[SuiteError | None, int | None]:
        """Generate and append. Returns the error that the client gets, if any, and the seq of the event."""
        seq: int | None = None
        try:
            with generating(self._request, self._resources.spec.model_id):
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
            return error, seq
        except Exception:
            logger.exception("generation %s failed unexpectedly", self._id)
            self.cancel("failed")  # the engine must not go on: nobody gets the text
            return SuiteError(_INTERNAL_ERROR), seq
        return None, seq

    async def _generate(self) -> None:
        async with AsyncExitStack() as session:
            requests = await self._prepare(session)
            if requests:
                self._begin(requests)
                for choice in self._choices:
                    self._resources.engine.submit(choice.generation, self._feed.listener(choice.index))
                if self._cancelled is not None:
                    self.cancel(self._cancelled)
                await self._forward()
            if self._feed.failure is not None:
                self._cancel_in_engine("failed")  # one that failed ends the others
                raise self._feed.failure

    def _begin(self, requests: Sequence[EngineRequest]) -> None:
        self._choices = [
            PendingChoice(index, Generation(request, self._resources.clock))
            for index, request in enumerate(requests)
        ]

    async def _prepare(self, session: AsyncExitStack) -> Sequence[EngineRequest]:
        """Prepare a request for each choice; none: it was cancelled, or its deadline passed, meanwhile."""
        request, resources = self._request, self._resources
        await self._supersede_conversation()
        deadline = None if request.deadline_ms is None else self._accepted + request.deadline_ms / 1000
        with self._preparing as preparing:
            if deadline is not None:
                preparing.deadline = anyio.current_time() + deadline - resources.clock()
            request = await resources.pictures.placed(request, self._fetched)
            prepared = await prepare(
                request,
                resources.prompter,
                resources.grammars,
                session,
                seed=self._seed,
                deadline=deadline,
                adapters=adapter_set(Adapter(each.sha256, each.path, each.scale) for each in self._adapters),
            )
            self._check_scores(len(prepared.requests[0].prompt))
            self._truncated_tokens = prepared.truncated_tokens
            self._warnings = brief((*self._warnings, *prepared.warnings, *self._forgets()))
            await self._bring_conversation(prepared.requests[0])
            return prepared.requests
        # It ends like a generation that never got a slot.
        self._begin([engine_request(request, [], SamplingParams(), deadline)] * request.n)
        for generation in self._generations:
            generation.end(self._cancelled or "deadline")
        return ()

    async def _supersede_conversation(self) -> None:
        """Have nothing go on from what is here of a conversation that was on another node since.

        That holds also if this generation ends before it has brought the conversation from there.
        """
        id = self._request.conversation_id
        if self._former_node and id is not None:
            await asyncio.wrap_future(
                self._resources.engine.run_between_steps(lambda _, engine: engine.supersede(id))
            )

    async def _bring_conversation(self, request: EngineRequest) -> None:
        """Take over the conversation from the node that has had it, if that is another one."""
        moving, node, id = self._resources.moving, self._former_node, request.conversation_id
        if moving is not None and node and id is not None and request.reuse:
            await moving.bring(node, id, request.prompt, request.adapters, is_needed=request.continues)

    def _forgets(self) -> tuple[str, ...]:
        """A warning if the other answers take the only slot from the conversation."""
        asked, spec = self._request, self._resources.spec
        is_kept = spec.slots > 1 or spec.snapshots is not None
        return () if is_kept or asked.n == 1 or asked.conversation_id is None else (_FORGOTTEN,)

    def _check_scores(self, tokens: int) -> None:
        """Raise TooLarge if the log probabilities of so many tokens of a prompt fit into no message."""
        alternatives, limit = self._request.prompt_logprobs, self._resources.connection.max_payload
        if alternatives is None:
            return
        if (tokens + (tokens - 1) * alternatives) * _LEAST_SCORE_BYTES > limit:
            raise TooLarge(
                f"prompt_logprobs of {tokens} tokens with {alternatives} alternatives each are over the "
                f"{limit} bytes that a message can have: ask for fewer alternatives, or send a shorter prompt"
            )

    async def _forward(self) -> None:
        """Send the text as it comes, until the engine has ended the generation."""
        over = False
        while not over:
            deltas, over = await self._feed.next()
            for delta in deltas:
                if not delta.text and not delta.reasoning and not delta.logprobs:
                    continue
                # A stream has its log probabilities in its chunks.
                logprobs = () if self._request.stream else delta.logprobs
                self._choices[delta.choice].add(delta.text, delta.reasoning, logprobs)
                if self._request.stream:
                    await self._send(self._chunk(delta))

    def _chunk(self, delta: TextDelta) -> Chunk:
        index, self._chunks = self._chunks, self._chunks + 1
        return Chunk(
            index=index,
            choice=delta.choice,
            text=delta.text,
            reasoning=delta.reasoning or None,
            logprobs=delta.logprobs or None,
        )

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
        if not self._choices:
            return self._cancelled or "failed"
        if self._feed.failure is not None and self._cancelled is None:
            return "failed"
        if self._cancelled is not None and any(each.outcome == self._cancelled for each in self._generations):
            return self._cancelled  # also where the first choice had ended before
        return self._choices[0].generation.outcome or self._cancelled or "failed"

    async def _append(self) -> int | None:
        """Append the event and return its seq; None if the prompt was refused and nothing was generated."""
        if not self._choices:
            return None
        spec, tokens, times = self._resources.spec, usage(self._generations), self._timings()
        note_answer(self._id, spec.model_id, tokens, times, self._finish_reasons)
        note_text(self._finished_choices)
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
                    drafted_tokens=tokens.drafted_tokens or UNSET,
                    accepted_tokens=tokens.accepted_tokens if tokens.drafted_tokens else UNSET,
                    queue_ms=times.queue_ms,
                    time_to_first_token_ms=times.time_to_first_token_ms,
                    generation_ms=times.generation_ms,
                    outcome=self._outcome,
                    waited_ms=self._waited_ms,
                    requester=UNSET if self._request.requester is None else self._request.requester,
                    adapters=self._applied or UNSET,
                    version=self._version or UNSET,
                    variant=self._variant or UNSET,
                    variant_version=self._variant_version or UNSET,
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
                    node=self._resources.spec.node,
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
                if not _has_logprobs(message):
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
        asked, tokens = self._request, usage(self._generations)
        assert seq is not None
        choices = self._finished_choices()
        first = choices[0]
        return GenerateTextReply(
            node=self._resources.spec.node,
            text=first.text,
            reasoning=first.reasoning,
            tool_calls=first.tool_calls,
            choices=choices if asked.n > 1 else (),
            truncated_tokens=self._truncated_tokens,
            logprobs=first.logprobs,
            prompt_logprobs=self._prompt_logprobs,
            model_id=self._resources.spec.model_id,
            adapters=tuple(AdapterChoice(id=each.id, scale=each.scale) for each in self._adapters),
            version=self._version or None,
            variant=self._variant or None,
            variant_version=self._variant_version or None,
            generation_id=self._id,
            conversation_id=asked.conversation_id,
            using_kv_cache=tokens.reused_tokens > 0,
            finish_reason=first.finish_reason,
            stop_text=first.stop_text,
            seed=self._seed,
            usage=tokens,
            timings=self._timings(),
            seq=seq,
            warnings=self._warnings,
        )

    @property
    def _prompt_logprobs(self) -> tuple[PromptToken, ...] | None:
        if self._request.prompt_logprobs is None:
            return None
        return tuple(self._choices[0].generation.prompt_logprobs)

    def _timings(self) -> Timings:
        return timings(self._generations, accepted=self._accepted, now=self._resources.clock())

    def _finished_choices(self) -> tuple[Choice, ...]:
        return tuple(choice.finished(self._request, self._id, self._outcome) for choice in self._choices)

    @property
    def _applied(self) -> tuple[AppliedAdapter, ...]:
        return tuple(
            AppliedAdapter(id=each.id, sha256=each.sha256, scale=each.scale) for each in self._adapters
        )

    @property
    def _finish_reasons(self) -> list[str]:
        """Why each choice has ended."""
        return [each.outcome or self._outcome for each in self._generations]

    def _processing(self, headers: Mapping[str, str]) -> AbstractContextManager[None]:
        if not telemetry.recording.is_on:
            return telemetry.continuing(headers)
        return telemetry.processing(
            Subjects(self._resources.spec.subject_root).each_actor("generate"),
            headers=headers,
            attributes={"messaging.message.conversation_id": self._id},
        )


def _unsaved_tokens(generations: Sequence[Generation]) -> int:
    """What the engine said when the last of them ended."""
    ended = [each for each in generations if each.ended_at is not None]
    return max(ended, key=lambda each: each.ended_at or 0.0).unsaved_tokens if ended else 0


def _has_logprobs(reply: GenerateTextReply) -> bool:
    return reply.prompt_logprobs is not None or reply.logprobs is not None


def _without_logprobs(reply: GenerateTextReply) -> GenerateTextReply:
    """The reply without log probabilities, for when it would be too large otherwise."""
    warning = "logprobs are left out because the reply would be too large: send stream to get them in chunks"
    if reply.prompt_logprobs is not None:
        warning = "log probabilities are left out because the reply would be too large: send shorter prompts"
    return msgspec.structs.replace(
        reply,
        logprobs=None,
        prompt_logprobs=None,
        choices=tuple(msgspec.structs.replace(choice, logprobs=None) for choice in reply.choices),
        warnings=(*reply.warnings, warning),
    )
