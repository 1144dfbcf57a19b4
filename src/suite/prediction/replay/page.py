"""The outcomes of a replay as one HTML page: it needs no other file and no other host."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import groupby
from typing import Final

from suite.prediction.replay.outcome import Outcome

_STYLE: Final = """
:root { color-scheme: light dark; --bar: #2f6f9f; --bound: #999; --line: #8886 }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .2rem .7rem; text-align: right; border-bottom: 1px solid var(--line) }
th:first-child, td:first-child { text-align: left }
svg { width: 100%; height: auto; display: block; margin: 1rem 0 }
svg text { fill: currentColor; font-size: 13px }
.bar { fill: var(--bar) } .bound { fill: var(--bound) }
.day { fill: none; stroke-width: 2 } .axis { stroke: var(--line) }
"""
_COLOURS: Final = ("#2f6f9f", "#c2593f", "#4f8a4b", "#8a5fa8", "#b08a2e", "#5b7f8c", "#a34d78", "#6b6b6b")
COLUMNS: Final = (
    "policy",
    "cold %>",
    "cold starts>",
    "loads>",
    "evictions>",
    "wait p50>",
    "wait p95>",
    "waited h>",
    "GB-hours>",
)
"""Of `cells`; those that end with > are right-aligned."""
_ROW: Final = 24
_NAMES: Final = 170
_WIDTH: Final = 800


def page(title: str, outcomes: Sequence[Outcome], notes: Sequence[str]) -> str:
    """The whole page."""
    body = [f"<h1>{escape(title)}</h1>", *(f"<p>{escape(note)}</p>" for note in notes)]
    for memory_gb, group in groupby(outcomes, key=lambda outcome: outcome.memory_gb):
        several = list(group)
        body += [f"<h2>{budget(memory_gb)}</h2>", _bars(several), _days(several), _table(several)]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n<body>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def budget(memory_gb: float | None) -> str:
    """A budget in words."""
    return "no limit of memory" if memory_gb is None else f"{memory_gb:g} GB"


def _bars(outcomes: Sequence[Outcome]) -> str:
    """Cold starts of each policy."""
    most = max(outcome.cold_percent for outcome in outcomes) or 1.0
    scale = (_WIDTH - _NAMES - 70) / most
    rows = []
    for number, outcome in enumerate(outcomes):
        y = number * _ROW
        width = outcome.cold_percent * scale
        kind = "bound" if outcome.policy == "belady" else "bar"
        rows.append(
            f'<text x="0" y="{y + 16}">{escape(outcome.policy)}</text>'
            f'<rect class="{kind}" x="{_NAMES}" y="{y + 3}" width="{width:.1f}" height="{_ROW - 7}"/>'
            f'<text x="{_NAMES + width + 6:.1f}" y="{y + 16}">{outcome.cold_percent:.1f} %</text>'
        )
    return _svg("Cold starts in percent of requests", len(outcomes) * _ROW, rows)


def _days(outcomes: Sequence[Outcome]) -> str:
    """Cold starts of each policy, day by day."""
    days = max(len(outcome.days) for outcome in outcomes)
    if days < 2:
        return ""
    height, left = 200, 40
    most = max(day.cold_percent for outcome in outcomes for day in outcome.days) or 1.0
    step = (_WIDTH - left - _NAMES) / (days - 1)
    lines = [f'<line class="axis" x1="{left}" y1="{height}" x2="{_WIDTH - _NAMES}" y2="{height}"/>']
    lines.append(f'<text x="0" y="14">{most:.0f} %</text><text x="0" y="{height}">0 %</text>')
    for number, outcome in enumerate(outcomes):
        points = " ".join(
            f"{left + index * step:.1f},{height * (1 - day.cold_percent / most):.1f}"
            for index, day in enumerate(outcome.days)
        )
        colour = _COLOURS[number % len(_COLOURS)]
        lines.append(f'<polyline class="day" stroke="{colour}" points="{points}"/>')
        lines.append(
            f'<text x="{_WIDTH - _NAMES + 8}" y="{14 + 18 * number}" style="fill:{colour}">'
            f"{escape(outcome.policy)}</text>"
        )
    return _svg("Cold starts by day", max(height, 18 * len(outcomes)) + 6, lines)


def _svg(label: str, height: int, parts: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escape(label)}">'
        f"<title>{escape(label)}</title>{''.join(parts)}</svg>"
    )


def _table(outcomes: Sequence[Outcome]) -> str:
    head = "".join(f"<th>{name.removesuffix('>')}</th>" for name in COLUMNS)
    rows = "".join(
        f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in cells(outcome))}</tr>" for outcome in outcomes
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def cells(outcome: Outcome) -> tuple[str, ...]:
    """An outcome as a row of a table, on the page and on the command line."""
    return (
        outcome.policy,
        f"{outcome.cold_percent:.1f}",
        f"{outcome.cold_starts:,}",
        f"{outcome.loads:,}",
        f"{outcome.evictions:,}",
        f"{outcome.waited_p50_seconds:.1f} s",
        f"{outcome.waited_p95_seconds:.1f} s",
        f"{outcome.waited_seconds / 3600:.1f}",
        f"{outcome.gb_hours:,.0f}",
    )
