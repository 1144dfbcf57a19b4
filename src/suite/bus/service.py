"""Serves actions as a NATS micro service (NATS ADR-32): discovery, statistics, limits, errors, draining.

    async with Service.serve(connection, ACTIONS, node, subjects=subjects, version="1.0.0", ...):
        await stopped.wait()

Each action has a limit of concurrent requests and a limit of queued ones; requests beyond both are refused
with `overloaded`. Leaving the block lets running requests finish.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager
from functools import partial
from itertools import count
from typing import Any, Generic, TypeVar

import anyio
import msgspec
from anyio.abc import TaskGroup, TaskStatus
from msgspec.structs import replace

from suite import telemetry
from suite.bus.absence import NO_RESPONDERS
from suite.bus.action import Action, Call, Commit, HandedOver, action
from suite.bus.arrival import Arrival, Router
from suite.bus.connection import Connection, Message, Subscription
from suite.bus.decoding import parse
from suite.bus.endpoint import QUEUE_GROUP, Endpoint, Endpoints
from suite.bus.refusal import terminate
from suite.errors import (
    AdapterNotFound,
    Disabled,
    InvalidRequest,
    LoadFailed,
    NodeStopping,
    Overloaded,
    Quarantined,
    SuiteError,
    TooLarge,
    Unavailable,
)
from suite.identity import NewId, Now, utc_now
from suite.messages.actions.base import Reply, brief
from suite.messages.subjects import Subjects
from suite.tasks import background
from suite.telemetry import instruments

__all__ = ["Action", "Call", "HandedOver", "Service", "action", "terminate"]

log = logging.getLogger("suite.bus")

T = TypeVar("T")

NAME = "suite"
DRAIN_SECONDS = 10.0
LAST_WORDS_SECONDS = 1.0
RESTING_LIMIT = 64
"""How many idle tasks are kept for the next requests."""

_ELSEWHERE = (AdapterNotFound, Disabled, LoadFailed, NodeStopping, Quarantined)
"""The errors of requests that another node may serve all the same."""
_encode = msgspec.json.Encoder().encode


def _is_for_another_node(endpoint: Endpoint[Any], message: Message) -> bool:
    """Whether another node gathers the answer. It would wait for a node that waits for it, if both were full:
    how many of these come at once, the limits of the other nodes say.
    """
    return endpoint.action.route == "each" and isinstance(message, Arrival)


def _processing(endpoint: Endpoint[Any], message: Message) -> AbstractContextManager[None]:
    """The span of a request, which continues the trace of its sender."""
    begins_none = endpoint.action.is_lookup and "traceparent" not in message.headers
    if begins_none or not telemetry.recording.is_on:
        return telemetry.continuing(message.headers)
    return telemetry.processing(
        endpoint.subject,
        headers=message.headers,
        attributes={"messaging.message.body.size": len(message.data)},
    )


class Service(Generic[T]):
    """Serves the actions of one node until its block is left."""

    def __init__(
        self,
        connection: Connection,
        actions: Sequence[Action[T]],
        context: T,
        *,
        subjects: Subjects,
        version: str,
        metadata: Mapping[str, str],
        new_id: NewId,
        now: Now,
        disabled: Mapping[str, str],
        router: Router | None,
    ) -> None:
        self._connection = connection
        self._context = context
        self._subjects = subjects
        self._prefix = subjects.action("")
        # The sender chooses the reply subject, but the service publishes the answer with its own rights.
        self._not_to_answer = (f"{subjects.root}.", "$")
        self._endpoints = Endpoints(actions, subjects, disabled)
        self._router = router
        self._new_id = new_id
        self._node = metadata.get("node", "")
        self._identity = {"name": NAME, "id": new_id(), "version": version, "metadata": dict(metadata)}
        self._started = now()
        self._handlers: TaskGroup
        self._running = 0
        self._resting: list[asyncio.Future[tuple[Endpoint[T], Message]]] = []
        self._idle = anyio.Event()
        self._over = anyio.Event()
        self._requests: Subscription
        self._discovery: list[Subscription] = []
        self._receipts = connection.new_inbox()
        self._numbers = count()
        self._duration = instruments.PROCESS_DURATION.create()
        self._streaming: dict[str, Call] = {}
        """The requests whose senders get signals, by the subject that says that nobody does."""
        self.commands_processed = 0
        """How many requests were answered or refused since the start."""

    @classmethod
    @asynccontextmanager
    async def serve(
        cls,
        connection: Connection,
        actions: Sequence[Action[T]],
        context: T,
        *,
        subjects: Subjects,
        version: str,
        metadata: Mapping[str, str],
        new_id: NewId,
        now: Now = utc_now,
        drain_seconds: float = DRAIN_SECONDS,
        disabled: Mapping[str, str] = {},
        router: Router | None = None,
    ) -> AsyncIterator[Service[T]]:
        """Serve until the block is left, then give running requests ``drain_seconds`` to finish.

        Requests that have not finished by then are cancelled, and their senders get `node_stopping`.
        ``node`` of the ``metadata`` is the name that stands in every answer.
        ``disabled`` maps the name of an action that is switched off to the setting that switches it on;
        the refusal names that setting. ``router`` finds the node that serves a request; without one it is
        always this.
        """
        service = cls(
            connection,
            actions,
            context,
            subjects=subjects,
            version=version,
            metadata=metadata,
            new_id=new_id,
            now=now,
            disabled=disabled,
            router=router,
        )
        async with background() as tasks:
            await tasks.start(service._run_handlers)
            try:
                await service._listen()
                yield service
            finally:
                with anyio.CancelScope(shield=True):
                    await service._stop(drain_seconds)

    @property
    def running(self) -> int:
        """How many requests are being answered."""
        return self._running

    # --- its life -----------------------------------------------------------------------------------------

    async def _run_handlers(self, *, task_status: TaskStatus[None]) -> None:
        """Hold the task group of the handlers. It is shielded, so that handlers end when they have answered
        and are not cancelled together with the block around the service.
        """
        with anyio.CancelScope(shield=True):
            async with anyio.create_task_group() as self._handlers:
                task_status.started()
                await self._over.wait()

    async def _listen(self) -> None:
        # One subscription for all actions, so that unknown actions get an answer and no message comes twice.
        self._requests = await self._connection.listen(
            self._subjects.action(">"), self.receive, queue=QUEUE_GROUP
        )
        await self._connection.listen(f"{self._receipts}.*", self._on_receipt)
        await self._connection.flush()
        for verb in ("PING", "INFO", "STATS"):
            for place in ("", f".{NAME}", f".{NAME}.{self._identity['id']}"):
                self._discovery.append(await self._connection.listen(f"$SRV.{verb}{place}", self._discover))
        await self._connection.flush()

    async def drain(self) -> None:
        """Accept no new requests, and wait until the running ones have finished."""
        if hasattr(self, "_requests"):
            await self._requests.drain()
        while self._running:
            self._idle = anyio.Event()
            await self._idle.wait()

    async def _stop(self, drain_seconds: float) -> None:
        with anyio.move_on_after(drain_seconds):
            await self.drain()
        self._handlers.cancel_scope.cancel()
        for endpoint in self._endpoints.all:
            while endpoint.waiting:
                await self._pass_on(endpoint.waiting.popleft())
        self._over.set()
        for subscription in self._discovery:
            await subscription.unsubscribe()

    # --- requests -----------------------------------------------------------------------------------------

    async def receive(self, message: Message) -> None:
        """Answer a request, now or when it is its turn."""
        if message.reply.startswith(self._not_to_answer):
            log.warning("a request on %s wants its answer on %s: dropped", message.subject, message.reply)
            await self._end(message)
            return
        name = message.subject[len(self._prefix) :]
        endpoint = self._endpoints.enabled.get(name)
        if endpoint is None and self._router is not None:
            endpoint = self._endpoints.disabled.get(name)  # another node may have it switched on
        if endpoint is None:
            known, error = self._endpoints.refusal(name)
            await self._turn_away(known, message, error)
        elif endpoint.running < endpoint.action.limit or _is_for_another_node(endpoint, message):
            endpoint.running += 1
            self._running += 1
            while self._resting:
                if not (given := self._resting.pop()).done():
                    given.set_result((endpoint, message))
                    return
            self._handlers.start_soon(self._work, endpoint, message)
        elif len(endpoint.waiting) < endpoint.action.queue:
            endpoint.waiting.append(message)
        else:
            waiting = len(endpoint.waiting)
            full = f"{endpoint.running} requests of {name} run and {waiting} wait: try again in about 1 s"
            await self._turn_away(endpoint, message, Overloaded(full))

    async def _turn_away(self, endpoint: Endpoint[T] | None, message: Message, error: SuiteError) -> None:
        """Refuse a request that nobody works on."""
        self._count(endpoint, 0, error.code)
        await self._refuse(message, error)
        await self._end(message)

    async def _work(self, endpoint: Endpoint[T], message: Message) -> None:
        """Answer a request, then those queued for its action, then wait for more.

        The task is reused because starting a new one costs more than most requests do.
        """
        loop = asyncio.get_running_loop()
        while True:
            try:
                await self._answer(endpoint, message)
                while endpoint.waiting:
                    await self._answer(endpoint, endpoint.waiting.popleft())
            finally:
                endpoint.running -= 1
                self._running -= 1
                if not self._running:
                    self._idle.set()
            if len(self._resting) >= RESTING_LIMIT:
                return
            given: asyncio.Future[tuple[Endpoint[T], Message]] = loop.create_future()
            self._resting.append(given)
            endpoint, message = await given

    async def _answer(self, endpoint: Endpoint[T], message: Message) -> None:
        began = time.perf_counter_ns()
        warnings: tuple[str, ...] = ()
        stream = False
        error: SuiteError | None = None
        receipt = ""
        request: msgspec.Struct | None = None
        reply: msgspec.Struct | None = None
        try:
            with _processing(endpoint, message):
                fields, clash = endpoint.action.shape.flattened(parse(message.data))
                stream = fields.get("stream") is True
                warnings = endpoint.action.shape.warnings(fields)
                if clash is not None:
                    raise clash
                request = self._resolved(endpoint, endpoint.action.shape.read(fields), message)
                if self._router is not None and await self._router.route(endpoint.action, request, message):
                    self._count(endpoint, time.perf_counter_ns() - began, "")
                    return
                self._endpoints.check_enabled(endpoint)
                receipt = f"{self._receipts}.{next(self._numbers)}" if stream else ""
                call = Call(
                    self._connection,
                    message.reply,
                    message.headers,
                    warnings,
                    self._new_id,
                    given=fields.keys(),
                    receipt=receipt,
                    commit=self._commit(message),
                    is_of_node=isinstance(message, Arrival) and not message.is_for_client,
                )
                if stream:
                    self._streaming[receipt] = call
                reply = await self._handle(endpoint, request, call, message)
            if not isinstance(reply, HandedOver):
                await self._reply(message, self._completed(reply, warnings), stream=stream)
        except SuiteError as refused:
            error = refused
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                with anyio.move_on_after(LAST_WORDS_SECONDS, shield=True):
                    await self._break_off(message, warnings, stream=stream)
                raise
            log.exception("the handler of %s gave up", endpoint.subject)
            error = SuiteError("the service failed on this request: its log has the cause")
        except Exception:
            log.exception("the handler of %s failed", endpoint.subject)
            error = SuiteError("the service failed on this request: its log has the cause")
        finally:
            self._streaming.pop(receipt, None)
        if error is not None:
            if isinstance(error, _ELSEWHERE) and await self._is_rescued(endpoint, request, message, error):
                return
            await self._refuse(message, error, warnings, stream=stream)
        await self._end(message, is_handed_over=isinstance(reply, HandedOver))
        self._count(endpoint, time.perf_counter_ns() - began, error.code if error else "")

    def _resolved(self, endpoint: Endpoint[T], request: msgspec.Struct, message: Message) -> msgspec.Struct:
        """The request with the model that it means: as the first node that had it has found."""
        if not isinstance(message, Arrival):
            return request if self._router is None else self._router.resolve(endpoint.action, request)
        if message.model_id and hasattr(request, "model_id"):
            return replace(request, model_id=message.model_id)
        return request

    async def _handle(
        self, endpoint: Endpoint[T], request: msgspec.Struct, call: Call, message: Message
    ) -> msgspec.Struct:
        """Have the handler work on a request. One of another node can be withdrawn until it is answered."""
        handler = endpoint.action.handler
        if self._router is None or not isinstance(message, Arrival):
            return await handler(self._context, request, call)
        with self._router.serving(message):
            reply = await handler(self._context, request, call)
            if not isinstance(reply, HandedOver):
                await self._router.commit(message)
        return reply

    def _commit(self, message: Message) -> Commit | None:
        if self._router is None or not isinstance(message, Arrival):
            return None
        return partial(self._router.commit, message)

    async def _is_rescued(
        self, endpoint: Endpoint[T], request: msgspec.Struct | None, message: Message, error: SuiteError
    ) -> bool:
        """Whether another node serves a request that this one cannot serve."""
        if self._router is None or request is None:
            return False
        return await self._router.rescue(endpoint.action, request, message, error)

    async def _pass_on(self, message: Message) -> None:
        """Have a request that nobody has begun served elsewhere, because the service stops."""
        if self._router is None or not await self._router.pass_on(message):
            await self._break_off(message)

    async def _break_off(
        self, message: Message, warnings: tuple[str, ...] = (), *, stream: bool = False
    ) -> None:
        """End a request because the service stops. One of another node is served elsewhere."""
        if self._router is not None and await self._router.give_back(message):
            return
        await self._refuse(message, NodeStopping(), warnings, stream=stream)
        await self._end(message)

    async def _end(self, message: Message, *, is_handed_over: bool = False) -> None:
        if self._router is not None:
            await self._router.end(message, is_handed_over=is_handed_over)

    def _count(self, endpoint: Endpoint[T] | None, busy_ns: int, error: str) -> None:
        self.commands_processed += 1
        if endpoint is None:
            return
        self._duration.record(busy_ns / 1e9, endpoint.attributes(error))
        endpoint.requests += 1
        endpoint.busy_ns += busy_ns
        if error:
            endpoint.errors += 1
            endpoint.last_error = error

    async def _on_receipt(self, message: Message) -> None:
        """Tell a request when the server says that nobody received its signal."""
        call = self._streaming.get(message.subject)
        if call is not None and message.headers.get("Status") == NO_RESPONDERS:
            call.note_unheard(anyio.current_time())

    # --- answers ------------------------------------------------------------------------------------------

    def _completed(self, reply: msgspec.Struct, warnings: tuple[str, ...]) -> msgspec.Struct:
        """The reply with the node that gives it, and the warnings of its request."""
        if not isinstance(reply, Reply):
            return reply
        return replace(reply, node=reply.node or self._node, warnings=brief((*reply.warnings, *warnings)))

    async def _reply(self, message: Message, reply: msgspec.Struct, *, stream: bool) -> None:
        """Send the answer. Raises TooLarge if it does not fit."""
        if not message.reply:
            log.debug("nobody waits for the answer to a request on %s", message.subject)
            return
        try:
            await self._connection.publish(message.reply, _encode(reply))
            if stream:
                await self._connection.publish(message.reply)
        except (Unavailable, InvalidRequest) as error:
            log.debug("an answer on %s is lost: %s", message.reply, error)

    async def _refuse(
        self, message: Message, error: SuiteError, warnings: tuple[str, ...] = (), *, stream: bool = False
    ) -> None:
        await terminate(
            self._connection, message.reply, error, stream=stream, node=self._node, warnings=warnings
        )

    async def _discover(self, message: Message) -> None:
        if not message.reply or message.reply.startswith(self._not_to_answer):
            return
        verb = message.subject.split(".")[1]
        answer: dict[str, Any] = {"type": f"io.nats.micro.v1.{verb.lower()}_response"} | self._identity
        if verb == "INFO":
            answer["description"] = "Loads, runs and watches local GGUF models."
            answer["endpoints"] = [endpoint.info() for endpoint in self._endpoints.all]
        elif verb == "STATS":
            answer["started"] = self._started.isoformat().replace("+00:00", "Z")
            answer["endpoints"] = [endpoint.stats() for endpoint in self._endpoints.all]
        try:
            await self._connection.publish(message.reply, _encode(answer))
        except (Unavailable, InvalidRequest, TooLarge) as error:
            log.debug("an answer to $SRV.%s is lost: %s", verb, error)
