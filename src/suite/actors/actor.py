"""The actor of one loaded model: connects to NATS, announces the model, serves requests, ends in order."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext, suppress
from typing import TypeVar

import anyio
import anyio.abc
import anyio.to_thread
import msgspec

from suite import telemetry
from suite.actors.attachments import Attachments
from suite.actors.embeddings import Embeddings
from suite.actors.generation import ClientGeneration, GenerationResources
from suite.actors.metrics import SlotTurnover, StepReports
from suite.actors.moving import Moving
from suite.actors.pictures import Pictures
from suite.actors.pipe import NodePipe, resident_bytes
from suite.actors.tokens import Tokens
from suite.bus.absence import NO_RESPONDERS
from suite.bus.bucket import store_breaker
from suite.bus.connection import Connection, Message
from suite.conversation_store import ConversationStore
from suite.engine.adapters import Adapter, adapter_set
from suite.engine.grammar.grammar import Grammars
from suite.engine.prompts.prompt import Prompter
from suite.engine.thread import EngineThread
from suite.errors import GenerationExists, InvalidRequest, Overloaded, SuiteError
from suite.identity import Clock, new_id, utc_now
from suite.log import Log
from suite.messages.actions.generation import CancelGenerationReply, CancelGenerationRequest
from suite.messages.actions.status import Confinement
from suite.messages.actor import (
    REPLY_HEADER,
    ActorReply,
    ActorSpec,
    AdaptersLoaded,
    ApplyTemplate,
    Buffer,
    Clear,
    Cleared,
    ConversationStored,
    Detokenize,
    Detokenized,
    Embed,
    Embedded,
    Failed,
    GetConversation,
    Handover,
    HandoverReply,
    LoadAdapters,
    ProgressReply,
    Rank,
    Ranked,
    Ready,
    TemplateApplied,
    Tokenize,
    Tokenized,
)
from suite.messages.events import Generated
from suite.messages.subjects import Subjects
from suite.tasks import background

Q = TypeVar("Q", bound=msgspec.Struct)
R = TypeVar("R", bound=ActorReply)

logger = logging.getLogger("suite.actor")

END_SECONDS = 1.0
"""How long the last messages may take after SIGTERM; less than the node waits before it kills the process."""
FLUSH_SECONDS = 0.5
"""How long sending them to NATS may take."""
SNAPSHOT_SECONDS = 1.5
"""How long writing the snapshots of conversations may take at the end."""

_UNCONFINED = Confinement()

_encode = msgspec.json.Encoder().encode
_decode_handover = msgspec.json.Decoder(Handover).decode
_decode_cancel = msgspec.json.Decoder(CancelGenerationRequest).decode
_decode_clear = msgspec.json.Decoder(Clear).decode


async def serve(
    spec: ActorSpec,
    engine: EngineThread,
    pipe: NodePipe,
    clock: Clock,
    new_seed: Callable[[], int],
    *,
    confinement: Confinement = _UNCONFINED,
) -> int:
    """Serve until told to end; returns the exit code. Reports errors of the start to the node.

    `confinement`: how this process is confined, as it is told to the node.
    """
    subjects = Subjects(spec.subject_root)
    source = f"/node/{spec.node}/{spec.model_id}"
    try:
        # The node exports to the same collector, and one line for an outage is enough.
        with telemetry.tracing(
            spec.tracing, node=spec.node, process=f"model {spec.model_id}", tell_outages=False
        ):
            async with (
                Connection.open(spec.nats, name=f"{spec.node} {spec.model_id}") as connection,
                Log.open(
                    connection,
                    subjects,
                    source=source,
                    new_id=new_id,
                    now=utc_now,
                    retention={Generated.aggregate: spec.usage_retention_seconds},
                    create=False,
                ) as log,
            ):
                model = await asyncio.wrap_future(engine.loaded)
                leave_core = nullcontext if engine.cores is None else engine.cores.leave_one
                prompter = Prompter(
                    model.vocabulary,
                    spec.context_tokens,
                    utc_now,
                    new_id,
                    chat_template=spec.chat_template,
                    leave_core=leave_core,
                    confined=spec.confinement is not None,
                )
                moving: Moving | None = None
                if spec.moving is not None:
                    store = ConversationStore(
                        connection,
                        spec.moving,
                        breaker=store_breaker(spec.moving.bucket, node=spec.node, clock=clock),
                        new_id=new_id,
                        clock=clock,
                    )
                    moving = Moving(spec, store, connection=connection, engine=engine, clock=clock)
                resources = GenerationResources(
                    spec=spec,
                    connection=connection,
                    log=log,
                    engine=engine,
                    prompter=prompter,
                    pictures=Pictures(
                        engine,
                        Attachments(connection, subjects, new_id),
                        new_id,
                        context_tokens=spec.context_tokens,
                    ),
                    grammars=Grammars(
                        spec.model_path, leave_core=leave_core, confined=spec.confinement is not None
                    ),
                    clock=clock,
                    new_seed=new_seed,
                    moving=moving,
                )
                actor = ModelActor(resources, subjects, pipe, buffers=model.buffers, confinement=confinement)
                await actor.run()
    except SuiteError as error:
        pipe.report(Failed(code=error.code, message=error.message))
        return 1
    return 0


class ModelActor:
    """Accepts generations and embeddings from its node, up to its queue limit, and runs each to its end."""

    def __init__(
        self,
        resources: GenerationResources,
        subjects: Subjects,
        pipe: NodePipe,
        *,
        buffers: tuple[Buffer, ...] = (),
        confinement: Confinement = _UNCONFINED,
    ) -> None:
        """`buffers`: what the engine has allocated for the model. `confinement`: of this process."""
        self._resources = resources
        self._subjects = subjects
        self._pipe = pipe
        self._buffers = buffers
        self._confinement = confinement
        self._generations: dict[str, ClientGeneration] = {}
        self._receipts: dict[str, ClientGeneration] = {}
        self._inbox = resources.connection.new_inbox()
        self._end_reason: SuiteError | None = None
        """Why what is not done is ended and nothing more is accepted; None while it serves."""
        self._embeddings = Embeddings(resources)
        self._turnover = SlotTurnover(resources.spec.slots)
        self._tasks: anyio.abc.TaskGroup

    async def run(self) -> None:
        """Announce the model and serve until it is told to end; then send every client its final message."""
        connection, spec = self._resources.connection, self._resources.spec
        tokens = Tokens(self._resources.prompter)
        with anyio.open_signal_receiver(signal.SIGTERM) as signals, anyio.CancelScope() as limit:
            async with anyio.create_task_group() as self._tasks:
                await connection.listen(f"{self._inbox}.*", self._on_receipt)
                await connection.subscribe(
                    self._subjects.actor(spec.node, spec.instance_id, "cancel"), self._on_cancel
                )
                await connection.subscribe(
                    self._subjects.actor(spec.node, spec.instance_id, "clear"), self._on_clear
                )
                await self._serve("adapters", LoadAdapters, AdaptersLoaded, self._load_adapters)
                await self._serve("embed", Embed, Embedded, self._embeddings.embed)
                await self._serve("rank", Rank, Ranked, self._embeddings.rank)
                await self._serve("tokenize", Tokenize, Tokenized, tokens.tokenize)
                await self._serve("detokenize", Detokenize, Detokenized, tokens.detokenize)
                await self._serve("template", ApplyTemplate, TemplateApplied, tokens.apply_template)
                if (moving := self._resources.moving) is not None:
                    await self._serve("export", GetConversation, ConversationStored, moving.export)
                await connection.subscribe(
                    self._subjects.actor(spec.node, spec.instance_id, "progress"), self._on_progress
                )
                await connection.subscribe(
                    self._subjects.actor(spec.node, spec.instance_id, "generate"), self._on_generate
                )
                self._pipe.report(
                    Ready(
                        resident_bytes=resident_bytes(), buffers=self._buffers, confinement=self._confinement
                    )
                )
                self._tasks.start_soon(self._warm_up)
                async with self._reporting_steps():
                    async for _ in signals:
                        break
                self._end_reason = self._pipe.end_reason
                limit.deadline = anyio.current_time() + END_SECONDS
                for generation in list(self._generations.values()):
                    generation.abort(self._end_reason, "cancelled")
                self._embeddings.end(self._end_reason)
        try:
            await connection.flush(FLUSH_SECONDS)
        except SuiteError as error:
            logger.warning("the last messages may be lost: %s", error.message)
            await connection.give_up()  # or it would be waited for at every step from here on
        with anyio.move_on_after(2 * SNAPSHOT_SECONDS):
            await asyncio.wrap_future(self._resources.engine.snapshot_all(SNAPSHOT_SECONDS))

    async def _warm_up(self) -> None:
        try:
            await anyio.to_thread.run_sync(self._resources.prompter.warm_up, abandon_on_cancel=True)
        except SuiteError as error:
            logger.warning("%s", error.message)

    @asynccontextmanager
    async def _reporting_steps(self) -> AsyncIterator[None]:
        """Tell the node of the engine's steps during the block, if it wants to know."""
        if not self._resources.spec.measures:
            yield
            return
        steps = StepReports(self._pipe)
        self._resources.engine.observe(steps)
        async with background() as tasks:
            tasks.start_soon(steps.run)
            yield

    # --- messages -------------------------------------------------------------------------------------------

    async def _on_receipt(self, message: Message) -> None:
        """Tell a generation when the server says that nobody received its chunk or heartbeat."""
        generation = self._receipts.get(message.subject)
        if generation is not None and message.headers.get("Status") == NO_RESPONDERS:
            generation.note_unheard()

    async def _on_cancel(self, message: Message) -> None:
        generation_id = _decode_cancel(message.data).generation_id
        generation = self._generations.get(generation_id)
        if generation is not None:
            generation.cancel("cancelled")
        reply = CancelGenerationReply(generation_id=generation_id, cancelled=generation is not None)
        await self._resources.connection.publish(message.reply, _encode(reply))

    async def _on_clear(self, message: Message) -> None:
        # Without a task of its own: the next request would wait for the same step of the engine anyway.
        await self._respond(message, Cleared, self._clear)

    async def _clear(self, data: bytes) -> Cleared:
        return await asyncio.wrap_future(self._resources.engine.clear(_decode_clear(data).conversation_id))

    async def _load_adapters(self, asked: LoadAdapters) -> AdaptersLoaded:
        wanted = adapter_set(Adapter(each.sha256, each.path, each.scale) for each in asked.adapters)
        await asyncio.wrap_future(self._resources.engine.load_adapters(wanted))
        return AdaptersLoaded()

    async def _on_progress(self, message: Message) -> None:
        generations = {id: generation.progress for id, generation in self._generations.items()}
        await self._reply(message, ProgressReply(generations=generations))

    async def _serve(
        self, operation: str, asked: type[Q], kind: type[R], answer: Callable[[Q], Awaitable[R]]
    ) -> None:
        """Answer the requests of one kind from now on, each in a task of its own."""
        decode = msgspec.json.Decoder(asked).decode

        async def decoded(data: bytes) -> R:
            return await answer(decode(data))

        async def on_message(message: Message) -> None:
            self._tasks.start_soon(self._respond, message, kind, decoded)

        spec = self._resources.spec
        await self._resources.connection.subscribe(
            self._subjects.actor(spec.node, spec.instance_id, operation), on_message
        )

    async def _respond(
        self, message: Message, kind: type[R], answer: Callable[[bytes], Awaitable[R]]
    ) -> None:
        """Send the answer to a request, or its error. Generations go on, whatever fails."""
        try:
            with self._processing(message):
                reply = await answer(message.data)
        except SuiteError as error:
            reply = _refusal(kind, error)
        except Exception:
            logger.exception("a request on %s failed unexpectedly", message.subject)
            reply = _refusal(kind, SuiteError("the model's process failed on this: see the node's log"))
        try:
            await self._reply(message, reply)
        except SuiteError as error:
            logger.warning("an answer to the node is lost: %s", error.message)
            with suppress(SuiteError):
                await self._reply(message, _refusal(kind, error))

    def _processing(self, message: Message) -> AbstractContextManager[None]:
        if not telemetry.recording.is_on:
            return telemetry.continuing(message.headers)
        operation = message.subject.rpartition(".")[2]
        return telemetry.processing(self._subjects.each_actor(operation), headers=message.headers)

    async def _on_generate(self, message: Message) -> None:
        try:
            handover = self._admit(message)
        except SuiteError as error:
            await self._reply(message, _refusal(HandoverReply, error))
            return
        receipt = f"{self._inbox}.{new_id()}"
        generation = ClientGeneration(
            handover, reply=message.headers[REPLY_HEADER], receipt=receipt, resources=self._resources
        )
        self._generations[handover.generation_id] = self._receipts[receipt] = generation
        self._tasks.start_soon(self._generate, generation, handover.generation_id, receipt, message)

    def _admit(self, message: Message) -> Handover:
        if self._end_reason is not None:
            raise self._end_reason
        try:
            handover = _decode_handover(message.data)
        except msgspec.MsgspecError as error:
            raise InvalidRequest(f"the hand-over cannot be read: {error}") from None
        if REPLY_HEADER not in message.headers:
            raise InvalidRequest(f"the hand-over has no {REPLY_HEADER} header")
        if handover.generation_id in self._generations:
            raise GenerationExists
        spec = self._resources.spec
        count = sum(generation.size for generation in self._generations.values())
        if count >= spec.slots + spec.queue_limit:
            raise self._turnover.refusal(f"{count} generations run or wait in {spec.model_id}")
        return handover

    async def _generate(
        self, generation: ClientGeneration, generation_id: str, receipt: str, message: Message
    ) -> None:
        try:
            await self._reply(message, HandoverReply())
            self._pipe.report(await generation.run(message.headers))
            for seconds in generation.seconds_in_slots:
                self._turnover.freed(seconds)
        except SuiteError as error:
            logger.warning("a hand-over could not be accepted: %s", error.message)
        finally:
            del self._generations[generation_id]
            del self._receipts[receipt]

    async def _reply(self, message: Message, reply: ActorReply) -> None:
        if message.reply:
            await self._resources.connection.publish(message.reply, _encode(reply))


def _refusal(kind: type[R], error: SuiteError) -> R:
    retry_after_ms = error.retry_after_ms if isinstance(error, Overloaded) else None
    return kind(code=error.code, message=error.message, retry_after_ms=retry_after_ms)
