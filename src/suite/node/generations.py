"""Hands generations over to actors, and replies for an actor that dies.

The node hands a generation over with a request to the actor, with the client's reply subject in a header.
Once the actor has accepted, it replies to the client itself, and the node keeps a lease. The lease prevents
eviction; if the actor dies, the node sends the terminal message instead (DESIGN, When something dies).
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, nullcontext
from typing import NamedTuple, TypeAlias, TypeVar

import anyio
import anyio.abc
import msgspec

from suite import telemetry
from suite.bus.action import Call, Commit
from suite.bus.claims import Taken
from suite.bus.connection import Connection
from suite.catalogue import Model
from suite.errors import (
    ActorCrashed,
    Cancelled,
    DraftModelUnfit,
    GenerationExists,
    GenerationNotFound,
    LoadCancelled,
    LoadFailed,
    ModelFileInvalid,
    NoService,
    NotEnoughMemory,
    Overloaded,
    RequestTimeout,
    SuiteError,
    Unavailable,
    error_from_reply,
)
from suite.identity import Clock
from suite.messages.actions.generation import CancelGenerationReply, CancelGenerationRequest
from suite.messages.actions.status import GenerationInfo, GenerationState
from suite.messages.actor import (
    REPLY_HEADER,
    ActorReply,
    AdapterFile,
    AdaptersLoaded,
    Clear,
    Cleared,
    GenerationProgress,
    Handover,
    HandoverReply,
    LoadAdapters,
    Pooled,
    ProgressReply,
)
from suite.messages.signals import HEARTBEAT_SECONDS, AnySignal, Heartbeat, Progress
from suite.messages.subjects import Subjects
from suite.node.admission import Terms
from suite.node.fleet.generation_ids import GenerationIds
from suite.node.instance import Asked, Instance, Lease
from suite.node.supervisor import Supervisor
from suite.tasks import background

logger = logging.getLogger("suite.generations")

R = TypeVar("R", bound=ActorReply)
Send: TypeAlias = Callable[[AnySignal], Awaitable[None]]

HANDOVER_SECONDS = 5.0
CLEAR_SECONDS = 60.0
"""Timeout of a clear, which waits for one engine step: long for a big model and a long prompt."""
ADAPTERS_SECONDS = 60.0
"""Timeout of loading adapters, which waits for one step of the engine too."""
EMBED_SECONDS = 300.0
"""Timeout for the vectors of one request, which are computed between the model's other steps."""
PROGRESS_SECONDS = 0.5
"""How long a model's process may take to say how far its generations are."""
RECONNECT_SECONDS = 2.0
_RECONNECT_PAUSE_SECONDS = 0.1
_ATTEMPTS = 2
_NOT_SERVED = (
    ActorCrashed,
    DraftModelUnfit,
    LoadCancelled,
    LoadFailed,
    ModelFileInvalid,
    NotEnoughMemory,
    Overloaded,
)
"""The errors of requests that were let in and could not be served. Others are about the request."""
_RETRY_SECONDS = 1.0


@asynccontextmanager
async def beating(call: Call | None, stop: Callable[[], None] = lambda: None) -> AsyncIterator[None]:
    """Send the requester a heartbeat every `HEARTBEAT_SECONDS` during the block; none if ``call`` is None.

    ``stop`` is called when nobody receives them any more.
    """

    async def beat(call: Call) -> None:
        while True:
            await anyio.sleep(HEARTBEAT_SECONDS)
            await call.send(Heartbeat())

    async def watch(call: Call) -> None:
        await call.gone.wait()
        stop()

    async with background() as tasks:
        if call is not None:
            tasks.start_soon(beat, call)
            tasks.start_soon(watch, call)
        yield


async def wait_loaded(instance: Instance, send: Send | None) -> None:
    """Wait until an instance is loaded, and report its progress with `send`. Raises the load's failure."""
    if instance.phase == "loading":
        with instance.load_trace.waited_for():
            await _tell_progress(instance, send)
    if instance.phase != "loaded":
        raise failure_of(instance)


async def _tell_progress(instance: Instance, send: Send | None) -> None:
    told = -1.0
    while instance.phase == "loading":
        if send is not None and instance.progress > told:
            told = instance.progress
            await send(Progress(model_id=instance.model.model_id, fraction=told))
        else:
            await instance.wait_change()


def failure_of(instance: Instance) -> SuiteError:
    """The error for one who waited for an instance that has ended."""
    return instance.failure.copy() if instance.failure else ActorCrashed()


class Pending(NamedTuple):
    """A generation that no actor has yet."""

    generation_id: str
    scope: anyio.CancelScope
    model_id: str
    asked: Asked


class Generations:
    """The generations of one node, until they are handed over to an actor."""

    def __init__(
        self,
        connection: Connection,
        subjects: Subjects,
        node: str,
        supervisor: Supervisor,
        tasks: anyio.abc.TaskGroup,
        clock: Clock,
        *,
        ids: GenerationIds,
    ) -> None:
        self._connection = connection
        self._subjects = subjects
        self._node = node
        self._supervisor = supervisor
        self._tasks = tasks
        self._clock = clock
        self._ids = ids
        self._pending: dict[str, Pending] = {}
        self._taken: dict[str, Taken] = {}
        """The ids that clients chose, of generations that have not ended."""
        self.on_begin: Callable[[str], None] = lambda _: None
        """Called with the id of each generation that begins, and with none when vectors or scores are asked
        for."""
        self.on_end: Callable[[str], None] = lambda _: None
        """Called with the id of each generation that has ended, or that no actor gets."""
        supervisor.on_generation_end = self._let_go

    @asynccontextmanager
    async def begun(
        self, generation_id: str, model_id: str, *, conversation_id: str | None, client: str | None
    ) -> AsyncIterator[Pending]:
        """Have a generation known from now on, so that it can be cancelled while the block starts it.

        `client` is how the requester calls itself. Raises GenerationExists, and Cancelled if it was cancelled
        in the block.
        """
        if generation_id in self._pending or self._supervisor.find_generation(generation_id):
            raise GenerationExists
        asked = Asked(since=self._clock(), conversation_id=conversation_id, client=client)
        pending = Pending(generation_id, anyio.CancelScope(), model_id, asked)
        self._pending[generation_id] = pending
        self.on_begin(generation_id)
        try:
            with pending.scope:
                yield pending
        finally:
            del self._pending[generation_id]
            instance = self._supervisor.find_generation(generation_id)
            if instance is None:
                self._let_go(generation_id)
        if pending.scope.cancel_called and instance is not None:
            # The actor may have it, or has it: a cancel that came when nothing was waited for any more has
            # not interrupted the block.
            self._tasks.start_soon(self._settle, instance, generation_id)
        if pending.scope.cancelled_caught:
            raise Cancelled

    async def take_id(self, generation_id: str, reply: str) -> None:
        """Take the id that a client chose for a generation that has begun. Raises GenerationExists.

        `reply`: where the generation's answer goes.
        """
        with anyio.CancelScope(shield=True):  # what is taken is known, and so is let go
            if (taken := await self._ids.take(generation_id, reply)) is not None:
                self._taken[generation_id] = taken

    async def start(
        self,
        pending: Pending,
        model: Model,
        handover: Handover,
        reply: str,
        call: Call | None,
        *,
        terms: Terms,
        commit: Commit | None = None,
    ) -> None:
        """Have an actor accept the generation. The model is loaded first if necessary, on these terms.

        `call` gets the signals, if any are wanted. `commit` is called before the actor gets it. Raises the
        error of the load or the actor's refusal, ActorCrashed, or what `commit` raises.
        """
        async with beating(call, pending.scope.cancel):
            send = call.send if call is not None else None
            await self._start(model, handover, reply, send, pending.asked, terms, commit)

    @property
    def pending(self) -> int:
        """How many generations no actor has yet."""
        return len(self._pending)

    def ids(self) -> Iterator[str]:
        """The ids of all generations that run or wait here; some twice, as they are handed over."""
        yield from self._pending
        for instance in self._supervisor.instances.values():
            yield from instance.leases

    def instance_of(self, model_id: str) -> str:
        """The instance of a model on this node; empty if there is none."""
        instance = self._supervisor.instances.get(model_id)
        return "" if instance is None else instance.instance_id

    async def cancel(self, generation_id: str) -> None:
        """Cancel a generation, whether an actor has it or it still waits. Raises GenerationNotFound."""
        instance = self._supervisor.find_generation(generation_id)
        if instance is not None and instance.leases[generation_id].accepted:
            if not await self._cancel_in(instance, generation_id):
                raise GenerationNotFound
        elif (pending := self._pending.get(generation_id)) is not None:
            pending.scope.cancel()
        else:
            raise GenerationNotFound

    async def running(self, model_id: str | None) -> tuple[GenerationInfo, ...]:
        """The generations of a model (None: of all) that wait or run, the oldest first.

        What a process does not say within `PROGRESS_SECONDS` is left out.
        """
        found: list[GenerationInfo] = []

        async def ask(instance: Instance) -> None:
            known = await self._progress(instance)
            for generation_id, lease in instance.leases.items():
                progress = known.get(generation_id)
                waits = progress is not None and not progress.has_slot
                found.append(
                    self._info(
                        generation_id,
                        instance.model.model_id,
                        lease.asked,
                        state="waiting" if waits or not lease.accepted else "generating",
                        tokens=progress.completion_tokens if progress is not None else None,
                    )
                )

        async with anyio.create_task_group() as tasks:
            for instance in self._supervisor.instances.values():
                if instance.leases and model_id in (None, instance.model.model_id):
                    tasks.start_soon(ask, instance)
        found += [
            self._info(generation_id, pending.model_id, pending.asked, state="loading", tokens=0)
            for generation_id, pending in self._pending.items()
            if model_id in (None, pending.model_id) and not self._supervisor.find_generation(generation_id)
        ]
        return tuple(sorted(found, key=lambda each: -each.elapsed_ms))

    async def clear(self, model_id: str | None, conversation_id: str | None) -> Cleared:
        """Have one loaded model (None: each) forget one conversation (None: all).

        Every model is asked even if one does not answer. Raises the first failure: RequestTimeout,
        NoService or Unavailable.
        """
        cleared: list[Cleared] = []
        failures: list[SuiteError] = []

        async def ask(instance: Instance) -> None:
            try:
                cleared.append(await self._clear_in(instance, conversation_id))
            except SuiteError as error:
                failures.append(error)

        async with anyio.create_task_group() as tasks:
            for instance in self._supervisor.instances.values():
                if instance.phase == "loaded" and model_id in (None, instance.model.model_id):
                    tasks.start_soon(ask, instance)
        if failures:
            raise failures[0]
        return Cleared(
            conversations=sum(each.conversations for each in cleared),
            generating=sum(each.generating for each in cleared),
            tokens=sum(each.tokens for each in cleared),
        )

    async def load_adapters(self, instance: Instance, adapters: tuple[AdapterFile, ...]) -> None:
        """Have the process of a loaded model load adapters.

        Raises GenerationFailed if one of them cannot be loaded, ActorCrashed, RequestTimeout and Unavailable.
        """
        request = msgspec.json.encode(LoadAdapters(adapters=adapters))
        answer = await self._ask(instance, "adapters", request, ADAPTERS_SECONDS)
        if answer is None:
            raise failure_of(instance)
        _accepted(msgspec.json.decode(answer, type=AdaptersLoaded))

    async def ask(
        self,
        model: Model,
        operation: str,
        request: msgspec.Struct,
        kind: type[R],
        *,
        seconds: float,
        terms: Terms,
        correlation_id: str,
    ) -> R:
        """Have a model's process answer a request. It is loaded first if necessary, on these terms.

        Raises the error of the load or the actor's refusal, ActorCrashed, RequestTimeout, Unavailable or
        TooLarge.
        """
        if issubclass(kind, Pooled):
            self.on_begin("")
        with self._measuring(operation, model.model_id, kind):
            async with self._supervisor.hold(model, terms, correlation_id=correlation_id) as instance:
                with self._noting_refusals(model.model_id):
                    await wait_loaded(instance, None)
                data = await self._ask(instance, operation, msgspec.json.encode(request), seconds)
            with self._noting_refusals(model.model_id):
                if data is None:
                    raise failure_of(instance)
                reply = _accepted(msgspec.json.decode(data, type=kind))
        if isinstance(reply, Pooled):
            # The process has grown by a second context, and its status should say so.
            instance.resident_bytes = max(instance.resident_bytes, reply.resident_bytes)
        instance.was_used = True
        return reply

    def _measuring(
        self, operation: str, model_id: str, kind: type[ActorReply]
    ) -> AbstractContextManager[None]:
        """Measures how long vectors and scores take; other requests are not measured."""
        if not issubclass(kind, Pooled):
            return nullcontext()
        return self._supervisor.generation_measurements.pooling(operation, model_id)

    def _let_go(self, generation_id: str) -> None:
        """Let others have the id of a generation that has ended."""
        if generation_id in self._pending:
            return
        self.on_end(generation_id)
        if (taken := self._taken.pop(generation_id, None)) is not None:
            self._tasks.start_soon(self._ids.let_go, taken)

    def _info(
        self, generation_id: str, model_id: str, asked: Asked, *, state: GenerationState, tokens: int | None
    ) -> GenerationInfo:
        return GenerationInfo(
            generation_id=generation_id,
            model_id=model_id,
            state=state,
            elapsed_ms=(self._clock() - asked.since) * 1000,
            completion_tokens=tokens,
            conversation_id=asked.conversation_id,
            client=asked.client,
            node=self._node,
        )

    async def _progress(self, instance: Instance) -> Mapping[str, GenerationProgress]:
        """What the process of an instance says of its generations; nothing if it does not answer soon."""
        try:
            answer = await self._connection.request(
                self._subject(instance, "progress"), timeout=PROGRESS_SECONDS
            )
        except (NoService, RequestTimeout, Unavailable):
            return {}
        return msgspec.json.decode(answer.data, type=ProgressReply).generations

    async def _start(
        self,
        model: Model,
        handover: Handover,
        reply: str,
        send: Send | None,
        asked: Asked,
        terms: Terms,
        commit: Commit | None,
    ) -> None:
        id = handover.generation_id
        for _ in range(_ATTEMPTS):
            async with self._supervisor.hold(model, terms, correlation_id=id, tell=send) as instance:
                with self._noting_refusals(model.model_id):
                    await wait_loaded(instance, send)
                    if commit is not None:
                        await commit(instance.instance_id, id)
                    if await self._hand_over(instance, handover, reply, asked):
                        return
                    await instance.wait_gone()
        with self._noting_refusals(model.model_id):
            raise ActorCrashed

    @contextmanager
    def _noting_refusals(self, model_id: str) -> Iterator[None]:
        """Have the log say that a request was let in and not served. Those that were not let in, it has."""
        try:
            yield
        except _NOT_SERVED as error:
            self._supervisor.admission.note_refusal(model_id, error)
            raise

    async def _hand_over(self, instance: Instance, handover: Handover, reply: str, asked: Asked) -> bool:
        """Offer a generation to the actor. Returns whether the actor has it; raises its refusal.

        An actor that does not answer counts as dead, and is killed to be sure.
        """
        generation_id = handover.generation_id
        lease = Lease(reply=reply, stream=handover.request.stream, asked=asked)
        instance.leases[generation_id] = lease
        try:
            waited_ms = round((self._clock() - asked.since) * 1000, 3)
            version = self._supervisor.note_version(instance)
            handover = msgspec.structs.replace(handover, waited_ms=waited_ms, version=version)
            offer = msgspec.json.encode(handover)
            with self._sending(instance, "generate"):
                lease.traceparent = telemetry.traceparent()
                headers = {REPLY_HEADER: reply, **telemetry.trace_headers()}
                reply_data = await self._insist(instance, "generate", offer, HANDOVER_SECONDS, headers)
            answer = msgspec.json.decode(reply_data, type=HandoverReply)
        except (NoService, RequestTimeout) as error:
            logger.warning("%s does not take a generation: %s", instance.model.model_id, error.message)
            self._supervisor.release(instance, generation_id)
            if instance.process is not None:
                instance.process.kill()
            return False
        except Unavailable:
            self._tasks.start_soon(self._settle, instance, generation_id)
            raise
        except anyio.get_cancelled_exc_class():
            raise  # `begun` calls `_settle`
        except BaseException:
            self._supervisor.release(instance, generation_id)
            raise
        if answer.code:
            self._supervisor.release(instance, generation_id)
        _accepted(answer)
        if instance.phase != "loaded":
            raise failure_of(instance)
        lease.accepted = True
        return True

    def _sending(self, instance: Instance, operation: str) -> AbstractContextManager[None]:
        """The span of a request to an actor."""
        return telemetry.sending(
            "hand over" if operation == "generate" else "send",
            self._subjects.each_actor(operation),
            self._subject(instance, operation),
        )

    async def _insist(
        self,
        instance: Instance,
        operation: str,
        data: bytes,
        seconds: float,
        headers: Mapping[str, str] | None = None,
    ) -> bytes:
        """Send the actor a request. Retried while the actor may be reconnecting to NATS."""
        deadline = self._clock() + RECONNECT_SECONDS
        while True:
            try:
                answer = await self._connection.request(
                    self._subject(instance, operation), data, headers=headers, timeout=seconds
                )
                return answer.data
            except NoService:
                if instance.phase != "loaded" or self._clock() > deadline:
                    raise
                await anyio.sleep(_RECONNECT_PAUSE_SECONDS)

    async def _settle(self, instance: Instance, generation_id: str) -> None:
        """Cancel a generation that the actor may have; release the lease if the actor does not have it."""
        while generation_id in instance.leases:
            try:
                if not await self._cancel_in(instance, generation_id):
                    self._supervisor.release(instance, generation_id)
                return
            except (Unavailable, RequestTimeout, NoService):
                await anyio.sleep(_RETRY_SECONDS)

    async def _cancel_in(self, instance: Instance, generation_id: str) -> bool:
        answer = await self._connection.request(
            self._subject(instance, "cancel"),
            msgspec.json.encode(CancelGenerationRequest(generation_id=generation_id)),
            timeout=HANDOVER_SECONDS,
        )
        return msgspec.json.decode(answer.data, type=CancelGenerationReply).cancelled

    async def _clear_in(self, instance: Instance, conversation_id: str | None) -> Cleared:
        """Have one actor forget. Zero counts if the actor dies meanwhile, since nothing is left then."""
        request = msgspec.json.encode(Clear(conversation_id=conversation_id))
        answer = await self._ask(instance, "clear", request, CLEAR_SECONDS)
        return Cleared() if answer is None else _accepted(msgspec.json.decode(answer, type=Cleared))

    async def _ask(self, instance: Instance, operation: str, data: bytes, seconds: float) -> bytes | None:
        """Send the actor a request. Returns its reply, or None if the actor dies meanwhile."""

        async def stop_when_gone() -> None:
            while instance.phase == "loaded":
                await instance.wait_change()
            asking.cancel()

        with anyio.CancelScope() as asking:
            async with background() as tasks:
                tasks.start_soon(stop_when_gone)
                try:
                    with self._sending(instance, operation):
                        headers = telemetry.trace_headers()
                        return await self._insist(instance, operation, data, seconds, headers)
                except NoService:
                    if instance.phase == "loaded":
                        raise
                    # Its process has ended: `stop_when_gone` would say so a moment later.
        return None

    def _subject(self, instance: Instance, operation: str) -> str:
        return self._subjects.actor(self._node, instance.instance_id, operation)


def _accepted(reply: R) -> R:
    """Return an actor's reply, or raise its refusal."""
    if reply.code:
        raise error_from_reply(reply.code, reply.message, retry_after_ms=reply.retry_after_ms)
    return reply
