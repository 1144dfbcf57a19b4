"""The generations of one node that wait for an actor or run in one: known by their ids, listed, cancelled."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import NamedTuple

import anyio
import anyio.abc

from suite.bus.claims import Taken
from suite.errors import (
    Cancelled,
    GenerationExists,
    GenerationNotFound,
    NoService,
    RequestTimeout,
    Unavailable,
)
from suite.identity import Clock
from suite.messages.actions.status import GenerationInfo, GenerationState
from suite.node.actor_client import ActorClient
from suite.node.fleet.generation_ids import GenerationIds
from suite.node.instance import Asked, Instance
from suite.node.supervisor import Supervisor

_RETRY_SECONDS = 1.0


class Pending(NamedTuple):
    """A generation that no actor has yet."""

    generation_id: str
    scope: anyio.CancelScope
    model_id: str
    asked: Asked


class Generations:
    """The generations of one node, from their request to their end."""

    def __init__(
        self,
        node: str,
        supervisor: Supervisor,
        actors: ActorClient,
        tasks: anyio.abc.TaskGroup,
        clock: Clock,
        *,
        ids: GenerationIds,
    ) -> None:
        self._node = node
        self._supervisor = supervisor
        self._actors = actors
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
        supervisor.leases.on_end = self._let_go

    @asynccontextmanager
    async def begun(
        self, generation_id: str, model_id: str, *, conversation_id: str | None, client: str | None
    ) -> AsyncIterator[Pending]:
        """Have a generation known from now on, so that it can be cancelled while the block starts it.

        `client` is how the requester calls itself. Raises GenerationExists, and Cancelled if it was cancelled
        in the block.
        """
        if generation_id in self._pending or self._supervisor.leases.find(generation_id):
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
            instance = self._supervisor.leases.find(generation_id)
            if instance is None:
                self._let_go(generation_id)
        if pending.scope.cancel_called and instance is not None:
            # The actor may have it, or has it: a cancel that came when nothing was waited for any more has
            # not interrupted the block.
            self.settle_soon(instance, generation_id)
        if pending.scope.cancelled_caught:
            raise Cancelled

    async def take_id(self, generation_id: str, reply: str) -> None:
        """Take the id that a client chose for a generation that has begun. Raises GenerationExists.

        `reply`: where the generation's answer goes.
        """
        with anyio.CancelScope(shield=True):  # what is taken is known, and so is let go
            if (taken := await self._ids.take(generation_id, reply)) is not None:
                self._taken[generation_id] = taken

    def settle_soon(self, instance: Instance, generation_id: str) -> None:
        """Cancel a generation of which it is not known whether the actor has it, without waiting for that."""
        self._tasks.start_soon(self._settle, instance, generation_id)

    async def _settle(self, instance: Instance, generation_id: str) -> None:
        """Cancel a generation that the actor may have; release the lease if the actor does not have it."""
        while generation_id in instance.leases:
            try:
                if not await self._actors.cancel(instance, generation_id):
                    self._supervisor.leases.release(instance, generation_id)
                return
            except (Unavailable, RequestTimeout, NoService):
                await anyio.sleep(_RETRY_SECONDS)

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
        instance = self._supervisor.leases.find(generation_id)
        if instance is not None and instance.leases[generation_id].accepted:
            if not await self._actors.cancel(instance, generation_id):
                raise GenerationNotFound
        elif (pending := self._pending.get(generation_id)) is not None:
            pending.scope.cancel()
        else:
            raise GenerationNotFound

    async def running(self, model_id: str | None) -> tuple[GenerationInfo, ...]:
        """The generations of a model (None: of all) that wait or run, the oldest first.

        What a process does not say soon is left out.
        """
        found: list[GenerationInfo] = []

        async def ask(instance: Instance) -> None:
            known = await self._actors.progress(instance)
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
            if model_id in (None, pending.model_id) and not self._supervisor.leases.find(generation_id)
        ]
        return tuple(sorted(found, key=lambda each: -each.elapsed_ms))

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
