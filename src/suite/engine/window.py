"""Keeps the sequences that run next to each other, in a KV cache of separate streams.

llama.cpp decodes at once what follows each other without a gap; each gap splits the batch, and each part
reads all weights. When a generation ends between others, sequences from the edges of the window can move into
its place. It pays if that costs less than the steps in which the batch would be split (ADR 35). Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeAlias

ExchangeSteps: TypeAlias = Callable[[int, int], float]
"""What it costs that two sequences change places, in steps of a batch that is split once more."""


class Exchange(NamedTuple):
    """Two sequences that change places: one that runs, and one between others that does not."""

    running: int
    idle: int


class _Gap(NamedTuple):
    """Sequences that do not run, between `left` and `right` that do, all in ascending order."""

    left: Sequence[int]
    free: Sequence[int]
    right: Sequence[int]


def closing(running: Mapping[int, int], cost: ExchangeSteps) -> list[Exchange]:
    """The exchanges that close the gap where it pays the most; empty where no gap is worth closing.

    `running` has the expected steps of each sequence that runs. There may be further gaps afterwards.
    """
    best: list[Exchange] = []
    most = 0.0
    for gap in _gaps(sorted(running)):
        for exchanges in _ways(gap):
            gain = _split_steps(gap, exchanges, running) - sum(cost(*each) for each in exchanges)
            if gain > most:
                best, most = exchanges, gain
    return best


def _gaps(sequences: Sequence[int]) -> Iterator[_Gap]:
    for index in range(1, len(sequences)):
        free = range(sequences[index - 1] + 1, sequences[index])
        if free:
            yield _Gap(sequences[:index], free, sequences[index:])


def _ways(gap: _Gap) -> Iterator[list[Exchange]]:
    """All ways to close a gap by sequences from the edges, which leave no gap where they were.

    Either they fill it, or all on one side of it move next to the other side.
    """
    left, free, right = gap
    for from_left in range(len(free) + 1):
        from_right = len(free) - from_left
        if from_left <= len(left) and from_right <= len(right):
            moved = [*left[:from_left], *right[len(right) - from_right :]]
            yield list(map(Exchange, moved, free))
    if len(left) < len(free):
        yield list(map(Exchange, left, free[-len(left) :]))
    if len(right) < len(free):
        yield list(map(Exchange, right, free))


def _split_steps(gap: _Gap, exchanges: Sequence[Exchange], running: Mapping[int, int]) -> int:
    """The steps for which these exchanges avoid a split: until one side, or one that was moved, has ended."""
    sides = [max(running[sequence] for sequence in side) for side in (gap.left, gap.right)]
    return min(*sides, *(running[each.running] for each in exchanges))
