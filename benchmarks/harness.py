"""What the benchmarks share: both sides in turns in one run, medians, one JSON object a line.

The rules: both sides run on the same server, event loop and payload; they take turns within one run, so
that what else the machine does hits both; the median of the turns counts.
"""

from __future__ import annotations

import argparse
import compileall
import json
import statistics
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

import anyio

import suite

F = TypeVar("F")
Measure = Callable[[], Awaitable[float]]
Better = Literal["higher", "lower"]

OURS = "ours"
"""The name of our side among several."""

SETTLE_SECONDS = 2.0
"""What a service does when it falls idle is over by then: it writes snapshots, and the process that stands
ready imports what it needs. That must not fall into the turn of another side."""


class Choice(NamedTuple):
    """What to run of a benchmark that has several parts and models."""

    quick: bool
    parts: Sequence[str]
    models: Sequence[str]
    turns: int | None
    """None: as many as the part takes by itself."""


def quick(description: str | None) -> bool:
    """Whether ``--quick`` was given: fewer and shorter turns, under 45 s in all."""
    given = _parser(description).parse_args()
    _compile()
    return bool(given.quick)


def choice(description: str | None, *, parts: Iterable[str], models: Iterable[str]) -> Choice:
    """What was asked for: all parts with all models, unless some are named."""
    all_parts, all_models = list(parts), list(models)
    parser = _parser(description)
    parser.add_argument("--model", action="append", choices=all_models, help="only this one")
    parser.add_argument("--turns", type=int, help="turns of each side")
    parser.add_argument("part", nargs="*", help=f"{', '.join(all_parts)}; all, unless some are given")
    given = parser.parse_args()
    if unknown := set(given.part) - set(all_parts):
        parser.error(f"there is no part {', '.join(sorted(unknown))}: choose from {', '.join(all_parts)}")
    _compile()
    return Choice(given.quick, given.part or all_parts, given.model or all_models, given.turns)


def _parser(description: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer and shorter turns, under 45 s")
    return parser


def _compile() -> None:
    """Compile our source, as pip does when it installs a package.

    Where Python may not write bytecode (PYTHONDONTWRITEBYTECODE), each process would compile what it imports.
    """
    compileall.compile_dir(Path(suite.__file__).parent, quiet=2)


async def in_turns(
    ours: Measure, reference: Measure, turns: int, *, settle_seconds: float = 0.0
) -> tuple[float, float]:
    """The medians of both after one turn each to warm up; who goes first changes from turn to turn.

    `settle_seconds` is what each waits before its turn, for the other to do what it does when it falls idle.
    """
    await ours()
    await reference()
    our_figures: list[float] = []
    reference_figures: list[float] = []
    for turn in range(turns):
        pair = [(our_figures, ours), (reference_figures, reference)]
        for figures, measure in pair if turn % 2 else reversed(pair):
            await anyio.sleep(settle_seconds)
            figures.append(await measure())
    return statistics.median(our_figures), statistics.median(reference_figures)


async def in_rotation(sides: Mapping[str, Callable[[int], Awaitable[F]]], turns: int) -> dict[str, list[F]]:
    """The figures of several sides, which are told the turn; who goes first changes from turn to turn.

    Each begins when the others have settled. One turn alone shows only that a benchmark works: it does not
    wait.
    """
    names = list(sides)
    settle_seconds = SETTLE_SECONDS if turns > 1 else 0.0
    figures: dict[str, list[F]] = {name: [] for name in names}
    for turn in range(turns):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            await anyio.sleep(settle_seconds)
            figures[name].append(await sides[name](turn))
    return figures


def percentile(figures: Sequence[float], percent: int) -> float:
    """The figure that so many percent do not exceed."""
    return sorted(figures)[-(-len(figures) * percent // 100) - 1]


def report_each(
    name: str, figures: Mapping[str, Sequence[float]], *, unit: str, better: Better | None = None
) -> None:
    """Print a line for each other side: the median of ours and of theirs. Less time is better."""
    for side in figures:
        if side != OURS:
            report(
                f"{name}.{side}",
                statistics.median(figures[OURS]),
                statistics.median(figures[side]),
                unit=unit,
                better=better or ("lower" if unit in ("ms", "s") else "higher"),
            )


def report(name: str, ours: float, reference: float, *, unit: str, better: Better) -> None:
    """Print one result. There is no ratio to a reference of 0."""
    line = {
        "name": name,
        "ours": round(ours, 3),
        "reference": round(reference, 3),
        "ratio": round(ours / reference, 3) if reference else None,
        "unit": unit,
        "better": better,
    }
    print(json.dumps(line), flush=True)
