"""Which models hold memory on one node, and who makes room for whom.

Admission is by bytes, not by count: a model counts what was estimated for it until it is loaded, and then
the larger of that and what was measured. What is in use is never evicted; of the idle ones the least
recently used goes first.
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

Phase: TypeAlias = Literal["loading", "loaded"]


class Resident(msgspec.Struct, frozen=True, kw_only=True):
    """A model that holds memory."""

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
        """What all residents count together."""
        return sum(resident.reserved_bytes for resident in self.residents.values())


class Occupancy(msgspec.Struct, frozen=True, kw_only=True):
    """What the log does not know of a resident: how it is used at this moment."""

    holds: int = 0
    """Generations that run, and requests that wait for it."""
    last_used: float = 0.0
    leaving: bool = False
    """Its unload has begun; its memory comes back without anyone's doing."""


class Admit(msgspec.Struct, frozen=True, kw_only=True):
    """The command: load this model, with the use of the others as it is now."""

    node: str
    model_id: str
    instance_id: str
    need_bytes: int
    context_tokens: int
    occupancy: Mapping[str, Occupancy]


def decide(state: Residency, command: Admit) -> InstanceLoadStarted:
    """The load's start, naming who has to leave before memory is touched.

    Raises NotEnoughMemory with what holds the memory; nothing is evicted for a load that is refused.
    """
    if command.need_bytes > state.limit_bytes:
        raise NotEnoughMemory(
            f"{command.model_id} needs {_gib(command.need_bytes)}, the limit is {_gib(state.limit_bytes)}: "
            "raise memory_limit_gb, or give the model a smaller context_length"
        )
    missing = state.reserved_bytes + command.need_bytes - state.limit_bytes
    evicting: list[str] = []
    for resident in _leavers(state, command.occupancy):
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
    """The state after one event; what is not of a resident instance changes nothing."""
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


def _leavers(state: Residency, occupancy: Mapping[str, Occupancy]) -> list[Resident]:
    """Who may make room, in the order to ask: those that leave anyhow, then idle ones, longest idle first."""

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
        return f"{resident.model_id} {_gib(resident.reserved_bytes)} ({why})"

    return (
        f"{command.model_id} needs {_gib(command.need_bytes)} of {_gib(state.limit_bytes)}, held by "
        + ", ".join(map(holding, state.residents.values()))
        + ": unload one of them when it is free, or raise memory_limit_gb"
    )


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"
