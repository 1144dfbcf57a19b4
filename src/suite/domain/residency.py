"""Which models use a node's memory: the fold of the node's instance events.

A model counts the memory that was reserved for its load, or what was measured if that is more, in RAM and on
each GPU. `turns` decides who gets memory when.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, TypeAlias

import msgspec

from suite.domain.footprint import Footprint, total_of
from suite.domain.sizes import ready_bytes
from suite.messages.events import (
    Event,
    InstanceCrashed,
    InstanceEvent,
    InstanceGrew,
    InstanceLoaded,
    InstanceLoadFailed,
    InstanceLoadStarted,
    InstanceUnloaded,
)

Phase: TypeAlias = Literal["loading", "loaded"]

GROWTH_BYTES: Final = 16 << 20
"""What a model counts for grows in such steps, so that each is worth an event."""


class Resident(msgspec.Struct, frozen=True, kw_only=True):
    """A model that is loading or loaded, and so uses memory."""

    model_id: str
    instance_id: str
    phase: Phase
    reserved_bytes: Footprint


class Residency(msgspec.Struct, frozen=True, kw_only=True):
    """The state: the fold of one node's instance events."""

    limit_bytes: Footprint
    """What all models together may have. It names every memory of the node; what is on others counts as
    RAM."""
    residents: Mapping[str, Resident] = {}
    available_bytes: Footprint | None = None
    """What all models together can have beside what other programs use at the moment; None: not known."""

    @property
    def admissible_bytes(self) -> Footprint:
        """What all models together may have at the moment."""
        available = self.available_bytes
        return self.limit_bytes if available is None else self.limit_bytes.at_most(available)

    @property
    def reserved_bytes(self) -> Footprint:
        """The memory that all residents count for together."""
        return total_of([resident.reserved_bytes for resident in self.residents.values()])

    @property
    def excess_bytes(self) -> Footprint:
        """How many bytes over the limit that is, if more was measured than estimated."""
        return self.reserved_bytes.beyond(self.limit_bytes)


def evolve(state: Residency, event: Event) -> Residency:
    """The state after one event; events of instances that are not resident change nothing."""
    if not isinstance(event, InstanceEvent):
        return state
    residents = dict(state.residents)
    match event:
        case InstanceLoadStarted():
            residents[event.model_id] = Resident(
                model_id=event.model_id,
                instance_id=event.instance_id,
                phase="loading",
                reserved_bytes=_counted(state, event),
            )
        case InstanceLoaded() if _is_resident(state, event):
            before = residents[event.model_id]
            ready = ready_bytes(event).counted_in(state.limit_bytes)
            residents[event.model_id] = msgspec.structs.replace(
                before, phase="loaded", reserved_bytes=before.reserved_bytes.at_least(ready)
            )
        case InstanceGrew() if _is_resident(state, event):
            residents[event.model_id] = msgspec.structs.replace(
                residents[event.model_id], reserved_bytes=_counted(state, event)
            )
        case InstanceLoadFailed() | InstanceUnloaded() | InstanceCrashed() if _is_resident(state, event):
            del residents[event.model_id]
    return msgspec.structs.replace(state, residents=residents)


def grown(reserved: Footprint, measured: Footprint, limits: Footprint) -> Footprint:
    """What a model counts for that had so much reserved, and now was measured to have this.

    Never less than before, and of each memory at most what the limit is.
    """
    more = measured.counted_in(limits).beyond(reserved).in_steps_of(GROWTH_BYTES)
    return reserved.at_least((reserved + more).at_most(limits))


def _counted(state: Residency, event: InstanceLoadStarted | InstanceGrew) -> Footprint:
    return Footprint.of(event.reserved_bytes, event.gpus).counted_in(state.limit_bytes)


def _is_resident(state: Residency, event: InstanceEvent) -> bool:
    resident = state.residents.get(event.model_id)
    return resident is not None and resident.instance_id == event.instance_id
