"""Takes over benchmarks whose node is lost, where this node has the same model (ADR 72).

Each node looks for itself. Of several that could go on with one, the log takes the first one's word: nobody
has to lead.
"""

from __future__ import annotations

import logging
from typing import Final

from suite.domain.benchmark import UNKNOWN, Benchmark, evolve, move
from suite.errors import SuiteError, UnknownOutcome
from suite.log import Unreadable
from suite.messages.events import BenchmarkMoved, BenchmarkStarted, NodeLost
from suite.node.aggregate import settle
from suite.node.node import Node
from suite.projections.benchmarks import open_elsewhere
from suite.ticks import tick

logger = logging.getLogger("suite.benchmarks")

LOOK_SECONDS: Final = 5.0


class Takeover:
    """The part of a node that looks for benchmarks of lost nodes."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def run(self) -> None:
        """Look every few seconds, until cancelled."""
        while True:
            await tick(LOOK_SECONDS)
            try:
                await self._look()
            except SuiteError as error:
                logger.debug("benchmarks of lost nodes cannot be looked for now: %s", error.message)

    async def _look(self) -> None:
        if self._node.fleet.own.is_draining:
            return
        async with self._node.projections.evaluation.reading() as db:
            found = await open_elsewhere(db, self._node.name)
        for benchmark_id, model_id, other in found:
            if other in self._node.fleet.others or not self._has(model_id) or not await self._is_lost(other):
                continue
            try:
                await self._take(benchmark_id, other)
            except SuiteError as error:  # it must not keep this node from the others
                logger.debug("the benchmark %s is not taken over now: %s", benchmark_id, error.message)

    def _has(self, model_id: str) -> bool:
        catalogue = self._node.catalogue
        return catalogue.canonical(model_id) in catalogue.models

    async def _is_lost(self, node: str) -> bool:
        """Whether the log says so. A node that has stopped in order comes back."""
        last = await self._node.log.last(self._node.subjects.aggregate(NodeLost.aggregate, node))
        return last is not None and not isinstance(last, Unreadable) and isinstance(last.data, NodeLost)

    async def _take(self, benchmark_id: str, lost: str) -> None:
        """Go on with a benchmark, if its model is the same here and no other node was first."""
        node = self._node
        aggregate = node.subjects.aggregate(BenchmarkStarted.aggregate, benchmark_id)
        known = UNKNOWN
        async for recorded in node.log.read(aggregate):
            known = evolve(known, recorded.data)
        settings_key = await self._same_model(known)
        if settings_key is None:
            return
        node.benchmarks.require_room()

        def decide(state: Benchmark) -> BenchmarkMoved | None:
            return move(state, lost, node=node.name, settings_key=settings_key)

        try:
            seq = await settle(
                node.log,
                aggregate,
                f"the benchmark {benchmark_id}",
                UNKNOWN,
                evolve=evolve,
                decide=decide,
                correlation_id=benchmark_id,
            )
        except UnknownOutcome:
            node.benchmarks.add(benchmark_id)  # one that the log does not give to this node is passed over
            raise
        if seq is not None:
            logger.info("the benchmark %s goes on here, as node %s is lost", benchmark_id, lost)
            node.benchmarks.add(benchmark_id)

    async def _same_model(self, known: Benchmark) -> str | None:
        """The digest of the settings with which its model is loaded here; None if it is another version."""
        started = known.started
        if started is None:
            return None
        model = self._node.catalogue.resolve(started.model_id)
        if await self._node.catalogue.digest(model.model_id) != started.content:
            return None
        if started.version:
            is_same = self._node.names.number(started.model_id) == started.version
        else:
            is_same = model.settings_key == started.settings_key
        return model.settings_key if is_same else None
