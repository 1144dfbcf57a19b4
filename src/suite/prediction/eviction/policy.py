"""The interface of eviction policies. A policy is a fold of what happened, and orders models by it::

    policy.fold(Used(at=0.0, model_id="a"))
    leaves = min(candidates, key=lambda candidate: policy.worth(candidate, now=60.0))

Times are seconds of any one clock that does not jump; the same facts and times always give the same order.
The policy only orders: which models may leave at all, and how many must, the decider of the domain says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, TypeAlias

import msgspec

from suite.domain.footprint import NOTHING, Footprint
from suite.messages.decisions import RAM


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """A model, with what its memory costs and what is lost when it leaves."""

    model_id: str
    bytes: int
    """The memory that it uses: in all memories together, or where a policy is asked for its worth, in the one
    that is short."""
    gpus: Mapping[str, int] = {}
    """The part of it on each GPU, ``gpu0`` and so on."""
    reload_seconds: float
    """What it takes to have it again as it is: to load it, and to read conversations again that are lost."""

    density: float = 0.0
    """Seconds saved per byte kept, if it is used again: what makes unequal models comparable."""
    footprint: Footprint = NOTHING
    """What it uses of each memory."""

    def __post_init__(self) -> None:
        """Set what follows from the others, once for all the times that it is asked for."""
        footprint = Footprint.of(self.bytes, self.gpus) if self.gpus else Footprint(self.bytes)
        msgspec.structs.force_setattr(self, "density", self.reload_seconds / (self.bytes or 1))
        msgspec.structs.force_setattr(self, "footprint", footprint)

    def counted_in(self, limits: Footprint) -> Candidate:
        """The same model on a node with these memories: what is on other GPUs counts as RAM."""
        if not self.gpus:
            return self
        return msgspec.structs.replace(self, gpus=self.footprint.counted_in(limits).gpus)

    def in_memory(self, memory: str) -> Candidate:
        """The same model, with only what it uses of one memory."""
        if not self.gpus and memory == RAM:
            return self
        return msgspec.structs.replace(self, bytes=self.footprint[memory], gpus={})


def in_memory(candidates: Sequence[Candidate], memory: str) -> Sequence[Candidate]:
    """Models with only what they use of the memory that is short, as policies are asked about them."""
    if memory == RAM and not any(each.gpus for each in candidates):
        return candidates
    return [each.in_memory(memory) for each in candidates]


class Used(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A request used a model."""

    at: float
    model_id: str


class Loaded(msgspec.Struct, frozen=True, kw_only=True):
    """A model was loaded, and these are its measured costs."""

    at: float
    candidate: Candidate


class Evicted(msgspec.Struct, frozen=True, kw_only=True):
    """A model left to make room for another."""

    at: float
    candidate: Candidate


Fact: TypeAlias = Used | Loaded | Evicted


class OwnPolicy(Protocol):
    """What a policy of somebody's own has to have."""

    def fold(self, fact: Fact) -> None:
        """Learn one more fact. Facts come in the order in which they happened."""

    def worth(self, candidate: Candidate, *, now: float) -> float:
        """How much keeping this model is worth: the lowest of all leaves first. Only the order counts."""


class EvictionPolicy(OwnPolicy, Protocol):
    """Orders models by what their memory is worth."""

    @property
    def name(self) -> str:
        """Its name in events and replies."""

    def worths(self, candidates: Sequence[Candidate], *, now: float) -> list[float]:
        """What each of these models is worth at one moment, in one go: decisions consist of this."""
