"""Decides which models may use a node's memory, and which are evicted to make room.

Admission is by bytes, not by count. A model counts its estimated memory until it is loaded, and then the
larger of the estimated and the measured memory. Models in use are never evicted; of the idle ones the least
recently used is evicted first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias

import msgspec

from suite.errors import NotEnoughMemory
from suite.messages.events import (
    Event,
    InstanceCrashed,
    InstanceEvent,
    InstanceLoaded,
    InstanceLoadFailed,
    InstanceLoadStarted,
    InstanceUnloaded,
)
from suite.units import size

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

    @property
    def reserved_bytes(self) -> int:
        """The memory that all residents count for together."""
        return sum(resident.reserved_bytes for resident in self.residents.values())


class Occupancy(msgspec.Struct, frozen=True, kw_only=True):
    """How a resident is used at this moment, which the log does not know."""

    holds: int = 0
    """The number of running generations and of requests that wait for the model."""
    last_used: float = 0.0
    leaving: bool = False
    """Whether it is being unloaded already, so that its memory will be freed anyway."""


class Admit(msgspec.Struct, frozen=True, kw_only=True):
    """The command to load a model, given how the others are used now."""

    node: str
    model_id: str
    instance_id: str
    need_bytes: int
    context_tokens: int
    smaller: str = ""
    """Which settings of the model would make it fit, as in TOML; empty if none does."""
    occupancy: Mapping[str, Occupancy]


def decide(state: Residency, command: Admit) -> InstanceLoadStarted:
    """Start the load, and name the models to evict before memory is allocated.

    Raises NotEnoughMemory, with a list of what is using the memory; a refused load evicts nothing.
    """
    if command.need_bytes > state.limit_bytes:
        raise NotEnoughMemory(
            f"{command.model_id} needs {size(command.need_bytes)}, the limit is {size(state.limit_bytes)}: "
            "raise memory_limit_gb"
            + (f', or set in models."{command.model_id}" {command.smaller}' if command.smaller else "")
        )
    missing = state.reserved_bytes + command.need_bytes - state.limit_bytes
    evicting: list[str] = []
    for resident in _evictable(state, command.occupancy):
        if missing <= 0:
            break
        evicting.append(resident.model_id)
        missing -= resident.reserved_bytes
    if missing > 0:
        raise NotEnoughMemory(_refusal(state, command))
    return InstanceLoadStarted(
        node=command.node,
        model_id=command.model_id,
        instance_id=command.instance_id,
        reserved_bytes=command.need_bytes,
        context_tokens=command.context_tokens,
        evicting=tuple(evicting),
    )


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
                before, phase="loaded", reserved_bytes=max(before.reserved_bytes, event.resident_bytes)
            )
        case InstanceLoadFailed() | InstanceUnloaded() | InstanceCrashed() if _is_resident(state, event):
            del residents[event.model_id]
    return msgspec.structs.replace(state, residents=residents)


def _is_resident(state: Residency, event: InstanceEvent) -> bool:
    resident = state.residents.get(event.model_id)
    return resident is not None and resident.instance_id == event.instance_id


def _evictable(state: Residency, occupancy: Mapping[str, Occupancy]) -> list[Resident]:
    """The models that may be evicted, in order: those being unloaded already, then the longest idle first."""

    def use(resident: Resident) -> Occupancy:
        return occupancy.get(resident.model_id, Occupancy())

    able = [
        resident
        for resident in state.residents.values()
        if use(resident).leaving or (resident.phase == "loaded" and use(resident).holds == 0)
    ]
    return sorted(able, key=lambda resident: (not use(resident).leaving, use(resident).last_used))


def _refusal(state: Residency, command: Admit) -> str:
    def holding(resident: Resident) -> str:
        use = command.occupancy.get(resident.model_id, Occupancy())
        why = "loading" if resident.phase == "loading" else "in use" if use.holds else "idle"
        return f"{resident.model_id} {size(resident.reserved_bytes)} ({why})"

    return (
        f"{command.model_id} needs {size(command.need_bytes)} of {size(state.limit_bytes)}, which is used by "
        + ", ".join(map(holding, state.residents.values()))
        + ": unload one of them when it is free, or raise memory_limit_gb"
    )
