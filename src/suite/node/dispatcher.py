"""Has models serve requests: each is loaded first if necessary, then its process gets the request.

A generation is handed over with a request to the actor, with the client's reply subject in a header. Once the
actor has accepted, it replies to the client itself, and the node keeps a lease. The lease prevents eviction;
if the actor dies, the node sends the terminal message instead (DESIGN, When something dies). Whatever else an
actor is asked, it answers to the node.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TypeVar

import anyio
import msgspec

from suite.bus.action import Call, Commit
from suite.catalogue import Model
from suite.errors import (
    ActorCrashed,
    DraftModelUnfit,
    LoadCancelled,
    LoadFailed,
    ModelFileInvalid,
    NoService,
    NotEnoughMemory,
    Overloaded,
    Quarantined,
    RequestTimeout,
    Unavailable,
)
from suite.identity import Clock
from suite.messages.actor import ActorReply, Handover, Pooled
from suite.node.actor_client import ActorClient, accepted
from suite.node.admission import Terms
from suite.node.generations import Generations, Pending
from suite.node.heartbeats import beating
from suite.node.instance import Asked, Instance, Lease, Tell
from suite.node.supervisor import Supervisor

logger = logging.getLogger("suite.generations")

R = TypeVar("R", bound=ActorReply)

_ATTEMPTS = 2
_NOT_SERVED = (
    ActorCrashed,
    DraftModelUnfit,
    LoadCancelled,
    LoadFailed,
    ModelFileInvalid,
    NotEnoughMemory,
    Overloaded,
    Quarantined,
)
"""The errors of requests that were let in and could not be served. Others are about the request."""


class Dispatcher:
    """Brings requests to the processes of one node's models."""

    def __init__(
        self, supervisor: Supervisor, actors: ActorClient, generations: Generations, clock: Clock
    ) -> None:
        self._supervisor = supervisor
        self._actors = actors
        self._generations = generations
        self._clock = clock

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
            tell = call.send if call is not None else None
            await self._start(model, handover, reply, tell, pending.asked, terms, commit)

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
            self._generations.on_begin("")
        with self._measuring(operation, model.model_id, kind):
            async with self._supervisor.hold(model, terms, correlation_id=correlation_id) as instance:
                with self._noting_refusals(model.model_id):
                    await instance.wait_loaded()
                    reply = await self._actors.ask(instance, operation, request, kind, seconds)
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
        return self._supervisor.lifecycle.generation_measurements.pooling(operation, model_id)

    @contextmanager
    def _noting_refusals(self, model_id: str) -> Iterator[None]:
        """Have the log say that a request was let in and not served. Those that were not let in, it has."""
        try:
            yield
        except _NOT_SERVED as error:
            self._supervisor.admission.note_refusal(model_id, error)
            raise

    async def _start(
        self,
        model: Model,
        handover: Handover,
        reply: str,
        tell: Tell | None,
        asked: Asked,
        terms: Terms,
        commit: Commit | None,
    ) -> None:
        id = handover.generation_id
        for _ in range(_ATTEMPTS):
            async with self._supervisor.hold(model, terms, correlation_id=id, tell=tell) as instance:
                with self._noting_refusals(model.model_id):
                    await instance.wait_loaded(tell)
                    if handover.variant:  # it may have crashed the model meanwhile
                        self._supervisor.quarantine.check_name(handover.variant)
                    if commit is not None:
                        await commit(instance.instance_id, id)
                    if await self._hand_over(instance, handover, reply, asked):
                        return
                    await instance.wait_gone()
        with self._noting_refusals(model.model_id):
            raise ActorCrashed

    async def _hand_over(self, instance: Instance, handover: Handover, reply: str, asked: Asked) -> bool:
        """Offer a generation to the actor. Returns whether the actor has it; raises its refusal.

        An actor that does not answer counts as dead, and is killed to be sure.
        """
        leases, generation_id = self._supervisor.leases, handover.generation_id
        lease = Lease(
            reply=reply,
            stream=handover.request.stream,
            asked=asked,
            variant=handover.variant,
            adapters=handover.adapters,
        )
        instance.leases[generation_id] = lease
        try:
            waited_ms = round((self._clock() - asked.since) * 1000, 3)
            version = self._supervisor.note_version(instance)
            handover = msgspec.structs.replace(handover, waited_ms=waited_ms, version=version)
            answer = await self._actors.hand_over(instance, handover, lease)
        except (NoService, RequestTimeout) as error:
            logger.warning("%s does not take a generation: %s", instance.model.model_id, error.message)
            leases.release(instance, generation_id)
            if instance.process is not None:
                instance.process.kill()
            return False
        except Unavailable:
            self._generations.settle_soon(instance, generation_id)
            raise
        except anyio.get_cancelled_exc_class():
            raise  # `Generations.begun` settles it
        except BaseException:
            leases.release(instance, generation_id)
            raise
        if answer.code:
            leases.release(instance, generation_id)
        accepted(answer)
        if instance.phase != "loaded":
            raise instance.end_error
        lease.accepted = True
        return True
