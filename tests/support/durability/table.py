"""The table of what came of the rounds."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from typing import Final

from support.durability.rounds import Round, by_fault

_HEAD: Final = (
    "fault",
    "rounds",
    "acknowledged",
    "lost",
    "doubled",
    "other",
    "recovery p50",
    "recovery max",
)


def table(rounds: Sequence[Round]) -> str:
    """A table in Markdown: a row for each fault, and one of all."""
    rows = [_row(name, of_fault) for name, of_fault in sorted(by_fault(rounds).items())]
    rows.append(_row("all", rounds))
    widths = [max(len(row[column]) for row in [_HEAD, *rows]) for column in range(len(_HEAD))]
    return "\n".join(_lines(rows, widths))


def _lines(rows: Sequence[Sequence[str]], widths: Sequence[int]) -> Iterator[str]:
    for row in (_HEAD, ["-" * width for width in widths], *rows):
        yield "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"


def _row(name: str, rounds: Sequence[Round]) -> tuple[str, ...]:
    kinds = [finding.kind for each in rounds for finding in each.findings]
    lost, doubled = kinds.count("lost"), kinds.count("doubled")
    times = [each.recovery_seconds for each in rounds if each.recovery_seconds is not None]
    return (
        name,
        str(len(rounds)),
        str(sum(each.acknowledged for each in rounds)),
        str(lost),
        str(doubled),
        str(len(kinds) - lost - doubled),
        _seconds(statistics.median(times)) if times else "-",
        _seconds(max(times, default=0.0)) if len(times) == len(rounds) else "never",
    )


def _seconds(seconds: float) -> str:
    return f"{seconds:.2f} s"
