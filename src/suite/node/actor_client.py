"""What a node asks the processes of its models over NATS, and how it reads their answers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from typing import TypeVar

import anyio
import msgspec

from suite import telemetry
from suite.bus.connection import Connection
from suite.errors import NoService, RequestTimeout, SuiteError, Unavailable, error_from_reply
from suite.identity import Clock
from suite.messages.actions.generation import CancelGenerationReply, CancelGenerationRequest
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
    ProgressReply,
)
from suite.messages.subjects import Subjects
from suite.node.instance import Instance, Lease
from suite.tasks import background

R = TypeVar("R", bound=ActorReply)

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


class ActorClient:
    """Asks the actors of one node, each the process of an instance."""

    def __init__(self, connection: Connection, subjects: Subjects, node: str, clock: Clock) -> None:
        self._connection = connection
        self._subjects = subjects
        self._node = node
        self._clock = clock

    async def hand_over(self, instance: Instance, handover: Handover, lease: Lease) -> HandoverReply:
        """Offer a generation to an actor, which may refuse it, and note its trace in the lease.

        Raises NoService, RequestTimeout, Unavailable and TooLarge.
        """
        offer = msgspec.json.encode(handover)
        with self._sending(instance, "generate"):
            lease.traceparent = telemetry.traceparent()
            headers = {REPLY_HEADER: lease.reply, **telemetry.trace_headers()}
            answer = await self._insist(instance, "generate", offer, HANDOVER_SECONDS, headers)
        return msgspec.json.decode(answer, type=HandoverReply)

    async def cancel(self, instance: Instance, generation_id: str) -> bool:
        """Cancel a generation. Returns whether the actor has it.

        Raises NoService, RequestTimeout and Unavailable.
        """
        answer = await self._connection.request(
            self._subject(instance, "cancel"),
            msgspec.json.encode(CancelGenerationRequest(generation_id=generation_id)),
            timeout=HANDOVER_SECONDS,
        )
        return msgspec.json.decode(answer.data, type=CancelGenerationReply).cancelled

    async def progress(self, instance: Instance) -> Mapping[str, GenerationProgress]:
        """What an actor says of its generations, by id; nothing if it does not answer soon."""
        try:
            answer = await self._connection.request(
                self._subject(instance, "progress"), timeout=PROGRESS_SECONDS
            )
        except (NoService, RequestTimeout, Unavailable):
            return {}
        return msgspec.json.decode(answer.data, type=ProgressReply).generations

    async def clear(self, instances: Iterable[Instance], conversation_id: str | None) -> Cleared:
        """Have loaded instances forget one conversation (None: all).

        Every one is asked even if another does not answer. Raises the first failure: RequestTimeout,
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
            for instance in instances:
                tasks.start_soon(ask, instance)
        if failures:
            raise failures[0]
        return Cleared(
            conversations=sum(each.conversations for each in cleared),
            generating=sum(each.generating for each in cleared),
            tokens=sum(each.tokens for each in cleared),
        )

    async def _clear_in(self, instance: Instance, conversation_id: str | None) -> Cleared:
        """Have one actor forget. Zero counts if the actor dies meanwhile, since nothing is left then."""
        answer = await self._ask(instance, "clear", Clear(conversation_id=conversation_id), CLEAR_SECONDS)
        return Cleared() if answer is None else accepted(msgspec.json.decode(answer, type=Cleared))

    async def load_adapters(self, instance: Instance, adapters: tuple[AdapterFile, ...]) -> None:
        """Have the process of a loaded model load adapters.

        Raises GenerationFailed if one of them cannot be loaded, ActorCrashed, RequestTimeout and Unavailable.
        """
        request = LoadAdapters(adapters=adapters)
        await self.ask(instance, "adapters", request, AdaptersLoaded, ADAPTERS_SECONDS)

    async def ask(
        self, instance: Instance, operation: str, request: msgspec.Struct, kind: type[R], seconds: float
    ) -> R:
        """Have the process of a loaded model answer a request.

        Raises the actor's refusal, why its instance has ended if it does so meanwhile, RequestTimeout,
        NoService, Unavailable or TooLarge.
        """
        answer = await self._ask(instance, operation, request, seconds)
        if answer is None:
            raise instance.end_error
        return accepted(msgspec.json.decode(answer, type=kind))

    async def _ask(
        self, instance: Instance, operation: str, request: msgspec.Struct, seconds: float
    ) -> bytes | None:
        """Send the actor a request. Returns its reply, or None if the actor dies meanwhile."""
        data = msgspec.json.encode(request)

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

    def _sending(self, instance: Instance, operation: str) -> AbstractContextManager[None]:
        """The span of a request to an actor."""
        return telemetry.sending(
            "hand over" if operation == "generate" else "send",
            self._subjects.each_actor(operation),
            self._subject(instance, operation),
        )

    async def _insist(
        self, instance: Instance, operation: str, data: bytes, seconds: float, headers: Mapping[str, str]
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

    def _subject(self, instance: Instance, operation: str) -> str:
        return self._subjects.actor(self._node, instance.instance_id, operation)


def accepted(reply: R) -> R:
    """Return an actor's reply, or raise its refusal."""
    if reply.code:
        raise error_from_reply(reply.code, reply.message, retry_after_ms=reply.retry_after_ms)
    return reply
