"""Compares what memory models count for with what they were measured to have (ADR 42)."""

from __future__ import annotations

from suite.domain.residency import grown
from suite.domain.turn_answer import never_fits
from suite.domain.turns import Measured
from suite.errors import NotEnoughMemory
from suite.node.admission import Admission
from suite.node.instance import Instance
from suite.node.instance_log import InstanceLog


class Reservations:
    """The memory that is reserved for the instances of one node."""

    def __init__(self, admission: Admission, log: InstanceLog) -> None:
        self._admission = admission
        self._log = log

    def refusal(self, instance: Instance) -> NotEnoughMemory | None:
        """Remember what an instance that is ready really needs.

        Returns the error that ends it if it can never have that.
        """
        state, model = self._admission.state, instance.model
        limits = state.residency.limit_bytes
        resident_bytes = instance.ready_footprint.counted_in(limits)
        reserved_bytes = state.residency.residents[model.model_id].reserved_bytes
        if resident_bytes.is_within(reserved_bytes):
            return None
        self._admission.note(
            Measured(model_id=model.model_id, estimated_bytes=reserved_bytes, resident_bytes=resident_bytes)
        )
        smaller = model.smaller(limits)
        return never_fits(self._admission.state, model.model_id, resident_bytes, smaller=smaller)

    async def grow(self, instance: Instance) -> None:
        """Have a loaded model that needs more than was reserved for it count for that.

        Over the limit, others leave for it; on its own it stays, because caches give way.
        """
        residency = self._admission.state.residency
        resident = residency.residents.get(instance.model.model_id)
        if resident is None or resident.instance_id != instance.instance_id or instance.phase != "loaded":
            return
        before = resident.reserved_bytes
        reserved_bytes = grown(before, instance.footprint, residency.limit_bytes)
        if reserved_bytes != before:
            await self._log.grew(instance, reserved_bytes)
