"""Bytes in each memory of a node: in RAM, and on each of its GPUs (ADR 48)::

    need = Footprint(512 * MIB, {"gpu0": 4 * GIB})
    need.is_within(limits - reserved)       # whether it fits: in every memory that it needs
    need.beyond(limits - reserved)          # what is missing, memory by memory

On the wire it is a total, and the part of it on each GPU: what knows only one memory reads the total.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from suite.messages.decisions import RAM


def gpu_name(index: int) -> str:
    """The name of a GPU's memory."""
    return f"gpu{index}"


class Footprint(msgspec.Struct, frozen=True, gc=False):
    """Bytes by memory. As a room that is left, it may be negative where too much is used."""

    ram: int = 0
    gpus: Mapping[str, int] = {}
    """By the name of the GPU's memory; 0 on those that are left out."""

    @classmethod
    def of(cls, total_bytes: int, gpus: Mapping[str, int]) -> Footprint:
        """So many bytes in all, of which these are on GPUs."""
        if not gpus:
            return cls(total_bytes)
        return cls(total_bytes - sum(gpus.values()), {name: count for name, count in gpus.items() if count})

    @property
    def total(self) -> int:
        """The bytes in all memories together."""
        return self.ram + sum(self.gpus.values()) if self.gpus else self.ram

    @property
    def names(self) -> tuple[str, ...]:
        """The memories that it says something of, RAM first."""
        return (RAM, *self.gpus)

    def __bool__(self) -> bool:
        return bool(self.ram) or any(self.gpus.values())

    def __getitem__(self, memory: str) -> int:
        return self.ram if memory == RAM else self.gpus.get(memory, 0)

    def __add__(self, other: Footprint) -> Footprint:
        if other is NOTHING:
            return self
        if not other.gpus:
            return Footprint(self.ram + other.ram, self.gpus)
        return Footprint(
            self.ram + other.ram, {id: self[id] + other[id] for id in {**self.gpus, **other.gpus}}
        )

    def __sub__(self, other: Footprint) -> Footprint:
        if other is NOTHING:
            return self
        if not other.gpus:
            return Footprint(self.ram - other.ram, self.gpus)
        return Footprint(
            self.ram - other.ram, {id: self[id] - other[id] for id in {**self.gpus, **other.gpus}}
        )

    def at_least(self, other: Footprint) -> Footprint:
        """In each memory what is more, on every GPU that either names."""
        if not self.gpus and not other.gpus:
            return self if self.ram >= other.ram else other
        ram = max(self.ram, other.ram)
        return Footprint(ram, {id: max(self[id], other[id]) for id in {**self.gpus, **other.gpus}})

    def at_most(self, other: Footprint) -> Footprint:
        """In each memory what is less. On a GPU that it does not name it has nothing, however much the other
        has there.
        """
        if not self.gpus and not other.gpus:
            return self if self.ram <= other.ram else other
        ram = min(self.ram, other.ram)
        return Footprint(ram, {id: min(count, other[id]) for id, count in self.gpus.items()})

    def in_steps_of(self, step: int) -> Footprint:
        """Rounded up in each memory, to a multiple of so many bytes."""
        gpus = {id: -(-count // step) * step for id, count in self.gpus.items()}
        return Footprint(-(-self.ram // step) * step, gpus)

    def is_within(self, room: Footprint) -> bool:
        """Whether there is room for it. A GPU of which it needs nothing does not matter, however full."""
        if not self.gpus:
            return self.ram <= room.ram
        return self.ram <= room.ram and all(count <= room[id] for id, count in self.gpus.items() if count > 0)

    def beyond(self, room: Footprint) -> Footprint:
        """What of it there is no room for; nothing if it is within."""
        if not self.gpus:
            return Footprint(self.ram - room.ram) if self.ram > room.ram else NOTHING
        ram = max(0, self.ram - room.ram)
        return Footprint(
            ram, {id: count - room[id] for id, count in self.gpus.items() if count > max(0, room[id])}
        )

    def eases(self, short: Footprint) -> bool:
        """Whether it has anything where something is missing, so that it helps if it leaves."""
        if not short.gpus:
            return short.ram > 0 and self.ram > 0
        return any(self[id] > 0 and short[id] > 0 for id in short.names)

    def scarcest(self, room: Footprint) -> str:
        """The memory that it needs of which the most is missing, or else the least would be left."""
        if not self.gpus:
            return RAM
        return max((id for id in self.names if self[id] > 0), key=lambda id: self[id] - room[id], default=RAM)

    @property
    def largest(self) -> str:
        """The memory that most of it is in."""
        return max(self.names, key=self.__getitem__)

    def counted_in(self, limits: Footprint) -> Footprint:
        """With what is on GPUs that a node does not know counted as RAM: one without any has one budget."""
        if not self.gpus:
            return self
        known = {name: count for name, count in self.gpus.items() if name in limits.gpus}
        return Footprint.of(self.total, known)


NOTHING: Final = Footprint()


def total_of(footprints: Iterable[Footprint]) -> Footprint:
    """The sum of all."""
    every = list(footprints)
    if not every:
        return NOTHING
    ram = sum([each.ram for each in every])
    on_gpus = [each.gpus for each in every if each.gpus]
    if not on_gpus:
        return Footprint(ram)
    gpus: Counter[str] = Counter()
    for counts in on_gpus:
        gpus.update(counts)
    return Footprint(ram, gpus)
