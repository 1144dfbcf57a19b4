"""Starts the processes of instances, and hears what they report until they have ended."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeAlias

import msgspec

from suite.catalogue import Model
from suite.identity import Clock
from suite.messages.actor import ActorSpec, AnyReport
from suite.node.cores import NodeCores
from suite.node.instance import Instance
from suite.node.memory_kills import MemoryKills
from suite.node.process import ActorProcess
from suite.node.standby import Standby

MakeSpec: TypeAlias = Callable[[Model, str], Awaitable[ActorSpec]]
"""Makes the specification of a process, for a model and the id of its instance."""
Heed: TypeAlias = Callable[[Instance, AnyReport], Awaitable[None]]


class Launcher:
    """Launches the processes of one node's instances, each with a seat among those that share the cores."""

    def __init__(
        self,
        make_spec: MakeSpec,
        *,
        standby: Standby,
        cores: NodeCores,
        memory_kills: MemoryKills,
        clock: Clock,
    ) -> None:
        self._standby = standby
        self._make_spec = make_spec
        self._cores = cores
        self._memory_kills = memory_kills
        self._clock = clock

    async def run(self, instance: Instance, heed: Heed) -> int:
        """Run the process of an instance to its end. Returns its exit code.

        `heed` gets each report. Raises OSError if the process cannot be started, and ModelFileInvalid.
        """
        instance.enter("inspect", self._clock())
        spec = await self._make_spec(instance.model, instance.instance_id)
        instance.kills_before = self._memory_kills.count()
        instance.process_started = self._clock()
        instance.signature, instance.sha256 = spec.model_files.signature, spec.model_digest
        with self._cores.seat(instance.model.settings.n_threads) as seat:
            instance.seat = seat
            try:
                return await self._run_process(instance, msgspec.structs.replace(spec, cores=seat), heed)
            finally:
                instance.seat = None

    async def _run_process(self, instance: Instance, spec: ActorSpec, heed: Heed) -> int:
        instance.enter("spawn", instance.process_started)
        async with ActorProcess.start(spec, await self._standby.take()) as process:
            instance.process = process
            if process.is_loading:
                instance.enter("map", self._clock())
            if spec.cores is not None:
                self._cores.watch(spec.cores, process.pid)
            if instance.unloading is not None:
                process.kill()
            async for report in process.reports():
                await heed(instance, report)
            return await process.exit_code()
