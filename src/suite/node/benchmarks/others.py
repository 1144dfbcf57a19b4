"""Who else uses a node while a benchmark measures there: they go first (ADR 72).

Others are there while they generate, or have vectors or scores computed, by whichever model, as all models
share the cores; while anybody waits for memory, which the benchmark's model may have; and while another model
is loaded, which takes cores and the disk.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from typing import Final

import anyio

from suite.catalogue import Model
from suite.identity import Clock
from suite.node.generations import Generations
from suite.node.supervisor import Supervisor

QUIET_SECONDS: Final = 2.0
"""When nobody has used the node for so long, it is measured: who asks again at once has done so by then."""
MEMORY_QUIET_SECONDS: Final = 30.0
"""The same if models of others would have to leave memory for the one that is measured: each of them would
have to be loaded again for the next request of its user."""
LOOK_SECONDS: Final = 0.05


class Others:
    """Those who use a node besides its benchmarks."""

    def __init__(
        self,
        supervisor: Supervisor,
        generations: Generations,
        *,
        is_own: Callable[[str], bool],
        clock: Clock,
    ) -> None:
        """`is_own`: whether the generation with an id is one of the benchmarks of this node."""
        self._supervisor = supervisor
        self._generations = generations
        self._is_own = is_own
        self._clock = clock
        self._seen_at = -math.inf
        self._came = anyio.Event()
        self.count = 0
        """How often somebody has begun to use this node."""

    def begins(self, generation_id: str) -> None:
        """Note that a generation begins, or that vectors or scores are asked for (without an id)."""
        if not self._is_own(generation_id):
            self._seen_at = self._clock()
            self.count += 1
            self._came.set()

    def are_there(self) -> bool:
        """Whether anybody uses this node now, at a moment in which its benchmark does nothing."""
        admission = self._supervisor.admission
        instances = self._supervisor.instances.values()
        is_used = (
            bool(admission.state.waiting)
            or any(each.waiting or each.phase == "loading" for each in instances)
            or not all(map(self._is_own, self._generations.ids()))
        )
        if is_used:
            self._seen_at = self._clock()
        return is_used

    def are_gone_for(self, model: Model | None) -> bool:
        """Whether nobody was there for long enough for this model to be used; None: one that is elsewhere."""
        return not self.are_there() and self._clock() - self._seen_at >= self._quiet_seconds(model)

    async def come(self, count: int, besides: Collection[str]) -> None:
        """Wait until somebody comes while something is measured with these models.

        `count` is that of the last moment in which it is known that nobody was there.
        """
        while self.count == count and not self._are_kept_out(besides):
            self._came = anyio.Event()
            with anyio.move_on_after(LOOK_SECONDS):
                await self._came.wait()

    def _are_kept_out(self, besides: Collection[str]) -> bool:
        """Whether another model waits for memory, or is being loaded."""
        loading = (id for id, each in self._supervisor.instances.items() if each.phase == "loading")
        return not {*self._supervisor.admission.state.waiting, *loading} <= set(besides)

    def _quiet_seconds(self, model: Model | None) -> float:
        if model is None or model.model_id in self._supervisor.instances:
            return QUIET_SECONDS
        has_room = self._supervisor.need_bytes(model).is_within(self._supervisor.admission.free_bytes)
        return QUIET_SECONDS if has_room else MEMORY_QUIET_SECONDS
