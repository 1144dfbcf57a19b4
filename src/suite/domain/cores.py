"""How the busy models of a node share its cores.

Threads of llama.cpp wait for each other many times in a step, and spin while they wait. Two processes with as
many threads each as there are cores keep each other from going on (ADR 34), so all busy models together get
no more threads than there are cores. Every model's process decides for itself, from the same claims, so the
result depends on nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

PRIORITY_STEPS: Final = 4
"""Each step of priority doubles a model's weight; steps beyond this many count no more."""


class Claim(NamedTuple):
    """What a busy model asks for."""

    limit: int
    """The most threads that it may use, at least 1."""
    reading: bool
    """Whether it reads a prompt, which gains more from each thread than generating does."""
    priority: int
    """The highest priority of its running generations."""

    @property
    def weight(self) -> int:
        """What its part of the cores is proportional to."""
        steps = max(-PRIORITY_STEPS, min(self.priority, PRIORITY_STEPS))
        return (2 if self.reading else 1) << (steps + PRIORITY_STEPS)


def share(cores: int, claims: Mapping[int, Claim]) -> dict[int, int]:
    """The number of threads for each busy model, by the keys of `claims`.

    One that is alone gets its limit. Otherwise each gets one thread, and the rest goes by weight,
    a thread at a time, to the one that has the fewest for its weight (the method of D'Hondt); of two equal
    ones to that with the lower key.
    """
    if len(claims) == 1:
        return {key: claim.limit for key, claim in claims.items()}
    threads = dict.fromkeys(claims, 1)
    for _ in range(cores - len(claims)):
        wanting = [key for key, claim in claims.items() if threads[key] < claim.limit]
        if not wanting:
            break
        threads[min(wanting, key=lambda key: (-claims[key].weight / (threads[key] + 1), key))] += 1
    return threads
