"""What the benchmarks share: both sides in turns in one run, medians, one JSON object a line.

The rules: both sides run on the same server, event loop and payload; they take turns within one run, so
that what else the machine does hits both; the median of the turns counts.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Awaitable, Callable, Mapping
from typing import Literal, TypeVar

F = TypeVar("F")
Measure = Callable[[], Awaitable[float]]


def quick(description: str | None) -> bool:
    """Whether ``--quick`` was given: fewer and shorter turns, under 45 s in all."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer and shorter turns, under 45 s")
    return bool(parser.parse_args().quick)


async def in_turns(ours: Measure, reference: Measure, turns: int) -> tuple[float, float]:
    """The medians of both after one turn each to warm up; who goes first changes from turn to turn."""
    await ours()
    await reference()
    our_figures: list[float] = []
    reference_figures: list[float] = []
    for turn in range(turns):
        pair = [(our_figures, ours), (reference_figures, reference)]
        for figures, measure in pair if turn % 2 else reversed(pair):
            figures.append(await measure())
    return statistics.median(our_figures), statistics.median(reference_figures)


async def in_rotation(sides: Mapping[str, Callable[[int], Awaitable[F]]], turns: int) -> dict[str, list[F]]:
    """The figures of several sides, which are told the turn; who goes first changes from turn to turn."""
    names = list(sides)
    figures: dict[str, list[F]] = {name: [] for name in names}
    for turn in range(turns):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            figures[name].append(await sides[name](turn))
    return figures


def report(
    name: str, ours: float, reference: float, *, unit: str, better: Literal["higher", "lower"]
) -> None:
    """Print one result."""
    line = {
        "name": name,
        "ours": round(ours, 3),
        "reference": round(reference, 3),
        "ratio": round(ours / reference, 3),
        "unit": unit,
        "better": better,
    }
    print(json.dumps(line), flush=True)
