"""Gives hot models copies on more nodes, and takes them away again (`suite.domain.replicas`, ADR 62)."""

from __future__ import annotations

import logging
from typing import Final

import anyio
import anyio.abc

from suite.domain.replicas import Add, Decision, Replicas, Rule
from suite.errors import SuiteError
from suite.messages.actions.residency import (
    LoadModelReply,
    LoadModelRequest,
    UnloadModelReply,
    UnloadModelRequest,
)
from suite.node.fleet.leadership import Leadership
from suite.node.node import Node
from suite.ticks import tick

logger = logging.getLogger("suite.fleet")

LOOK_SECONDS: Final = 1.0


class Copies:
    """The part of a node that decides about copies for all nodes, while it is the one that does."""

    def __init__(self, node: Node, leadership: Leadership) -> None:
        settings = node.settings.copies
        self._node = node
        self._leadership = leadership
        self._rule = Rule(
            max_copies=settings.max_copies,
            waiting=settings.waiting,
            add_seconds=settings.add_seconds,
            remove_seconds=settings.remove_seconds,
        )
        self._replicas = Replicas(self._rule)

    async def run(self) -> None:
        """Look every second, until cancelled."""
        async with anyio.create_task_group() as tasks:
            while True:
                await tick(LOOK_SECONDS)
                if self._node.fleet.others and self._leadership.is_held:
                    self._look(tasks)
                else:
                    self._replicas = Replicas(self._rule)

    def _look(self, tasks: anyio.abc.TaskGroup) -> None:
        node = self._node
        for decision in self._replicas.decide(node.fleet.views(), here=node.name, now=node.clock()):
            tasks.start_soon(self._carry_out, decision)

    async def _carry_out(self, decision: Decision) -> None:
        try:
            await (self._add(decision) if isinstance(decision, Add) else self._remove(decision))
        except SuiteError as error:
            what = "gets no copy" if isinstance(decision, Add) else "keeps its copy"
            logger.warning("%s %s on %s: %s", decision.model_id, what, decision.node, error.message)

    async def _add(self, decision: Add) -> None:
        logger.info("%s gets a copy on %s: requests for it wait", decision.model_id, decision.node)
        request = LoadModelRequest(
            model_id=decision.model_id,
            wait=False,
            load_wait_ms=0,
            purpose="replica",
            only_evicting=decision.evicting,
        )
        try:
            await self._node.fleet.ask(decision.node, "load_model", request, LoadModelReply)
        except SuiteError:
            self._replicas.note_refused(decision.model_id, decision.node, now=self._node.clock())
            raise

    async def _remove(self, decision: Decision) -> None:
        logger.info("the copy of %s on %s goes: others are enough", decision.model_id, decision.node)
        request = UnloadModelRequest(model_id=decision.model_id, reason="spare")
        await self._node.fleet.ask(decision.node, "unload_model", request, UnloadModelReply, seconds=60.0)
