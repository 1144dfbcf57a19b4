"""Takes a node out of service: others get its models first, then it gets no new work (ADR 59)."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Final

import anyio
import anyio.abc

from suite.domain.placement import Wanted, place
from suite.errors import SuiteError
from suite.identity import Clock
from suite.messages.actions.drain import MovedModel
from suite.messages.actions.residency import LoadModelReply, LoadModelRequest
from suite.messages.events import NodeDraining, NodeResumed
from suite.node.fleet.fleet import Fleet
from suite.node.instance import Instance
from suite.node.journal import Journal
from suite.node.supervisor import Supervisor

logger = logging.getLogger("suite.node")

HOT_SECONDS: Final = 600.0
"""A model that was used within this time is loaded elsewhere before its node gets no more work."""
MOVE_SECONDS: Final = 600.0
"""How long other nodes may take to load all of them. What they have not loaded by then, they do not have."""


class Drain:
    """Whether this node is being drained, and how far that is. It ends with the process, or by `undo`."""

    def __init__(
        self,
        node: str,
        *,
        fleet: Fleet,
        supervisor: Supervisor,
        journal: Journal,
        tasks: anyio.abc.TaskGroup,
        clock: Clock,
    ) -> None:
        self._node = node
        self._fleet = fleet
        self._supervisor = supervisor
        self._journal = journal
        self._tasks = tasks
        self._clock = clock
        self._deciding = anyio.Lock()
        self._moving = anyio.CancelScope()
        self.is_on = False
        self.loading: str | None = None
        """The model that is being loaded elsewhere."""
        self.moved: tuple[MovedModel, ...] = ()

    @property
    def is_moving(self) -> bool:
        """Whether models are still to be loaded elsewhere: until then the node takes work as before."""
        return self.is_on and not self._fleet.own.is_draining

    async def begin(self, requested_by: str) -> int | None:
        """Begin, and go on in the background. Returns the event's sequence; None if it has begun already.

        Raises what `Journal.decide` raises.
        """
        async with self._deciding:
            if self.is_on:
                return None
            draining, resumed = self._facts(requested_by)
            seq = await self._journal.decide(draining, undone=resumed)
            self.is_on, self.moved, self._moving = True, (), anyio.CancelScope()
            self._tasks.start_soon(self._run, self._moving)
            return seq

    async def undo(self, requested_by: str) -> int | None:
        """Take work again. Returns the event's sequence; None if the node was not being drained.

        Raises what `Journal.decide` raises.
        """
        async with self._deciding:
            if not self.is_on:
                return None
            draining, resumed = self._facts(requested_by)
            seq = await self._journal.decide(resumed, undone=draining)
            self._moving.cancel()
            self.is_on = False
            self._fleet.take_work(True)
            return seq

    def _facts(self, requested_by: str) -> tuple[NodeDraining, NodeResumed]:
        epoch = self._journal.epoch
        return (
            NodeDraining(node=self._node, epoch=epoch, requested_by=requested_by),
            NodeResumed(node=self._node, epoch=epoch, requested_by=requested_by),
        )

    async def _run(self, moving: anyio.CancelScope) -> None:
        with moving:
            until = self._clock() + MOVE_SECONDS
            for instance in list(self._hot()):
                self.loading = instance.model.model_id
                seconds = max(0.0, until - self._clock())
                self.moved += (await self._move(instance.model.model_id, seconds),)
            self._fleet.take_work(False)
        self.loading = None

    def _hot(self) -> Iterator[Instance]:
        """The models that are pinned, in use, or were used within `HOT_SECONDS`."""
        for instance in self._supervisor.instances.values():
            was_used = instance.was_used and self._clock() - instance.last_used < HOT_SECONDS
            is_wanted = self._supervisor.stays(instance.model.model_id) or instance.holds or was_used
            if is_wanted and instance.phase in ("loading", "loaded"):
                yield instance

    async def _move(self, model_id: str, seconds: float) -> MovedModel:
        """Have another node load a model, unless one has it. Nothing leaves another node for it."""
        wanted = Wanted(model_id=model_id, excluded=frozenset({self._node}))
        placement = place(wanted, self._fleet.views(), here=self._node)
        if placement is None:
            return MovedModel(model_id=model_id, node=None, problem="no other node has it")
        if placement.node in self._fleet.draining:
            return MovedModel(model_id=model_id, node=None, problem="no other node that takes work has it")
        if placement.reason == "loaded":
            return MovedModel(model_id=model_id, node=placement.node)
        if placement.reason != "fits":
            return MovedModel(model_id=model_id, node=None, problem="no other node has room for it now")
        try:
            request = LoadModelRequest(model_id=model_id, node=placement.node)
            await self._fleet.ask(placement.node, "load_model", request, LoadModelReply, seconds=seconds)
        except SuiteError as error:
            problem = f"{placement.node} does not load it: {error.message}"
            return MovedModel(model_id=model_id, node=None, problem=problem)
        return MovedModel(model_id=model_id, node=placement.node)
