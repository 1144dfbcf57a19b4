"""Has the log say what happens to the instances of one node, and tells those who decide by it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from suite.domain.footprint import Footprint
from suite.domain.turns import Start
from suite.errors import LogNotWritable, UnknownOutcome
from suite.messages.events import (
    InstanceEvent,
    InstanceGrew,
    InstanceLoaded,
    InstanceLoadFailed,
    InstanceLoadStarted,
)
from suite.node.admission import Admission
from suite.node.instance import Instance
from suite.node.instance_end import InstanceEnd
from suite.node.journal import Journal
from suite.node.quarantine import Quarantine
from suite.node.sizes import ModelSizes


class InstanceLog:
    """The events of one node's instances: decisions before they are carried out, facts when they happen."""

    def __init__(
        self,
        node: str,
        journal: Journal,
        *,
        admission: Admission,
        quarantine: Quarantine,
        sizes: ModelSizes,
        note_version: Callable[[Instance], int],
    ) -> None:
        """`note_version`: which version of its model an instance is, by number."""
        self._node = node
        self._journal = journal
        self._admission = admission
        self._quarantine = quarantine
        self._sizes = sizes
        self._note_version = note_version

    async def begin(self, instance: Instance, start: Start) -> InstanceLoadStarted:
        """Append the decision to load an instance.

        Raises what `Journal.decide` raises, and then there is no load.
        """
        model = instance.model
        started = InstanceLoadStarted(
            node=self._node,
            model_id=model.model_id,
            instance_id=instance.instance_id,
            reserved_bytes=start.reserved_bytes.total,
            gpus=dict(start.reserved_bytes.gpus),
            context_tokens=model.context_tokens,
            evicting=start.evicting,
            content=model.sha256 or "",
            settings_key=model.settings_key,
            version=self._note_version(instance),
            decision=start.decision,
        )
        undone = InstanceLoadFailed(
            node=self._node,
            model_id=model.model_id,
            instance_id=instance.instance_id,
            code=UnknownOutcome.code,
            message="it was not known whether this load is in the log, so it was given up",
        )
        instance.seq = await self._journal.decide(
            started, undone=undone, correlation_id=instance.correlation_id
        )
        return started

    async def loaded(self, instance: Instance) -> None:
        """Record that an instance is ready, and what it was measured to need."""
        assert instance.process is not None
        assert instance.load_ms is not None
        assert instance.process_ms is not None
        parts: Counter[str] = Counter()
        for buffer in instance.buffers:
            parts[buffer.part] += buffer.bytes
        limits = self._admission.state.residency.limit_bytes
        fact = InstanceLoaded(
            node=self._node,
            model_id=instance.model.model_id,
            instance_id=instance.instance_id,
            pid=instance.process.pid,
            resident_bytes=instance.resident_bytes,
            load_ms=round(instance.load_ms, 3),
            process_ms=round(instance.process_ms, 3),
            estimated_bytes=instance.model.footprint(limits).total,
            anonymous_bytes=instance.memory.anonymous_bytes,
            file_bytes=instance.memory.file_bytes,
            weights_bytes=parts["weights"],
            kv_bytes=parts["kv"],
            compute_bytes=parts["compute"],
            gpu_bytes=sum(instance.gpus.values()),
            gpus=dict(instance.gpus),
            content=instance.sha256 or "",
            settings_key=instance.model.settings_key,
            version=self._note_version(instance),
        )
        await self._record(instance, fact)

    async def grew(self, instance: Instance, reserved_bytes: Footprint) -> None:
        """Record that an instance counts for so much from now on."""
        fact = InstanceGrew(
            node=self._node,
            model_id=instance.model.model_id,
            instance_id=instance.instance_id,
            reserved_bytes=reserved_bytes.total,
            gpus=dict(reserved_bytes.gpus),
        )
        await self._record(instance, fact)

    async def ended(self, instance: Instance, end: InstanceEnd) -> None:
        """Record how an instance has ended."""
        await self._record(instance, end)

    def generated(self, seq: int | None) -> None:
        """Note the event that the process of a model has appended about a generation; None: it has none."""
        self._journal.last_seq = max(self._journal.last_seq, seq or 0)

    async def _record(self, instance: Instance, fact: InstanceEvent) -> None:
        try:
            await self._journal.record(
                fact, correlation_id=instance.correlation_id, written=instance.recorded
            )
        except LogNotWritable as error:  # it has happened all the same, and the journal writes it later
            instance.unrecorded = error
        self._sizes.note(fact)
        follows = self._quarantine.note(fact)
        self._admission.note(fact)
        if follows is not None:
            self._admission.check_again(fact.model_id)
            await self._quarantine.record(follows)
