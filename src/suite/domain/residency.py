"""Which models use a node's memory: the fold of the node's instance events.

A model counts the memory that was reserved for its load, or what was measured if that is more. `turns`
decides who gets memory when.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias

import msgspec

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


class Resident(msgspec.Struct, frozen=True, kw_only=True):
    """A model that is loading or loaded, and so uses memory."""

    model_id: str
    instance_id: str
    phase: Phase
    reserved_bytes: int


class Residency(msgspec.Struct, frozen=True, kw_only=True):
    """The state: the fold of one node's instance events."""

    limit_bytes: int
    residents: Mapping[str, Resident] = {}
    available_bytes: int | None = None
    """What all models together can have beside what other programs use at the moment; None: not known."""

    @property
    def admissible_bytes(self) -> int:
        """What all models together may have at the moment."""
        available = self.available_bytes
        return self.limit_bytes if available is None else min(self.limit_bytes, available)

    @property
    def reserved_bytes(self) -> int:
        """The memory that all residents count for together."""
        return sum([resident.reserved_bytes for resident in self.residents.values()])

    @property
    def excess_bytes(self) -> int:
        """How many bytes over the limit that is, if more was measured than estimated; at most 0: none."""
        return self.reserved_bytes - self.limit_bytes


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
                reserved_bytes=event.reserved_bytes,
            )
        case InstanceLoaded() if _is_resident(state, event):
            before = residents[event.model_id]
            residents[event.model_id] = msgspec.structs.replace(
                before, phase="loaded", reserved_bytes=max(before.reserved_bytes, ready_bytes(event))
            )
        case InstanceGrew() if _is_resident(state, event):
            residents[event.model_id] = msgspec.structs.replace(
                residents[event.model_id], reserved_bytes=event.reserved_bytes
            )
        case InstanceLoadFailed() | InstanceUnloaded() | InstanceCrashed() if _is_resident(state, event):
            del residents[event.model_id]
    return msgspec.structs.replace(state, residents=residents)


def _is_resident(state: Residency, event: InstanceEvent) -> bool:
    resident = state.residents.get(event.model_id)
    return resident is not None and resident.instance_id == event.instance_id
