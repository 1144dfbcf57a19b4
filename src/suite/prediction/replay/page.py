"""The outcomes of a replay as a table, and as one HTML page that needs no other file and no other host."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from itertools import groupby
from typing import Final, TypeAlias

from suite.prediction.replay.belady import Belady
from suite.prediction.replay.history import PERIODS
from suite.prediction.replay.outcome import Outcome

_STYLE: Final = """
:root { color-scheme: light dark; --line: #8886 }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
div { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; white-space: nowrap }
th, td { padding: .2rem .6rem; text-align: right; border-bottom: 1px solid var(--line) }
th:first-child, td:first-child { text-align: left }
svg { width: 100%; height: auto; display: block; margin: 1rem 0 }
svg text { fill: currentColor; font-size: 13px }
figure { margin: 1.5rem 0 }
figcaption { font-weight: 600 }
.series { fill: none; stroke-width: 2; stroke-linejoin: round } .axis { stroke: var(--line) }
.right { text-anchor: end } .middle { text-anchor: middle }
"""
_COLOURS: Final = ("#2f7fbf", "#d0603f", "#4f9a4b", "#9a68b8", "#b08a2e", "#4f9099", "#c0508a", "#7a7f3a")
_BOUND_COLOUR: Final = "#888"
_WIDTH: Final = 800
_NAMES: Final = 190
_ROW: Final = 24
_HEIGHT: Final = 200
_LEFT: Final = 60

Point: TypeAlias = tuple[float, float]


# --- a table ----------------------------------------------------------------------------------------------

_CELLS: Final[Mapping[str, Callable[[Outcome], str]]] = {
    "policy": lambda outcome: outcome.name,
    "cold %>": lambda outcome: f"{outcome.cold_percent:.1f}",
    "cold starts>": lambda outcome: f"{outcome.cold_starts:,}",
    "loads>": lambda outcome: f"{outcome.loads:,}",
    "evictions>": lambda outcome: f"{outcome.evictions:,}",
    "refused>": lambda outcome: f"{outcome.refused:,}",
    "bets won>": lambda outcome: f"{outcome.bets_won:,}" if outcome.with_bets else "",
    "bets lost>": lambda outcome: f"{outcome.bets_lost:,}" if outcome.with_bets else "",
    "wait p50>": lambda outcome: f"{outcome.waited_p50_seconds:.1f} s",
    "wait p95>": lambda outcome: f"{outcome.waited_p95_seconds:.1f} s",
    "waited h>": lambda outcome: f"{outcome.waited_seconds / 3600:.1f}",
    "GB-hours>": lambda outcome: f"{outcome.gb_hours:,.0f}",
}
"""By column; the columns of numbers end with >."""


def columns(outcomes: Sequence[Outcome]) -> tuple[str, ...]:
    """The columns that say something of these outcomes."""
    empty = set()
    if not any(outcome.refused for outcome in outcomes):
        empty.add("refused>")
    if not any(outcome.with_bets for outcome in outcomes):
        empty |= {"bets won>", "bets lost>"}
    return tuple(name for name in _CELLS if name not in empty)


def cells(outcome: Outcome, columns: Sequence[str]) -> tuple[str, ...]:
    """An outcome as a row."""
    return tuple(_CELLS[name](outcome) for name in columns)


def budget(memory_gb: float | None) -> str:
    """A budget in words."""
    return "no limit of memory" if memory_gb is None else f"{memory_gb:g} GB"


# --- a page -----------------------------------------------------------------------------------------------


def page(title: str, outcomes: Sequence[Outcome], notes: Sequence[str]) -> str:
    """The whole page."""
    colours = _colours(outcomes)
    body = [f"<h1>{escape(title)}</h1>", *(f"<p>{escape(note)}</p>" for note in notes)]
    body.append(_by_budget(outcomes, colours))
    for memory_gb, group in groupby(
        sorted(outcomes, key=_place_of_budget(outcomes)), key=lambda outcome: outcome.memory_gb
    ):
        several = list(group)
        body += [
            f"<h2>{budget(memory_gb)}</h2>",
            _bars(several, colours),
            _by_period(several, colours),
            _table(several),
        ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n<body>\n"
        + "\n".join(filter(None, body))
        + "\n</body></html>\n"
    )


def _place_of_budget(outcomes: Sequence[Outcome]) -> Callable[[Outcome], int]:
    """The place of an outcome's budget among those of all, in the order in which they came."""
    budgets = list(dict.fromkeys(outcome.memory_gb for outcome in outcomes))
    return lambda outcome: budgets.index(outcome.memory_gb)


def _colours(outcomes: Sequence[Outcome]) -> dict[str, str]:
    """By name: the same in all plots."""
    names = dict.fromkeys(outcome.name for outcome in outcomes if outcome.name != Belady.name)
    colours = {name: _COLOURS[number % len(_COLOURS)] for number, name in enumerate(names)}
    return {**colours, Belady.name: _BOUND_COLOUR}


def _bars(outcomes: Sequence[Outcome], colours: Mapping[str, str]) -> str:
    """Cold starts of each policy."""
    most = max(outcome.cold_percent for outcome in outcomes) or 1.0
    scale = (_WIDTH - _NAMES - 70) / most
    rows = []
    for number, outcome in enumerate(outcomes):
        y = number * _ROW
        width = outcome.cold_percent * scale
        rows.append(
            f'<text x="0" y="{y + 16}">{escape(_short(outcome.name))}</text>'
            f'<rect fill="{colours[outcome.name]}" x="{_NAMES}" y="{y + 3}" width="{width:.1f}" '
            f'height="{_ROW - 7}"/>'
            f'<text x="{_NAMES + width + 6:.1f}" y="{y + 16}">{outcome.cold_percent:.1f} %</text>'
        )
    return _figure("Cold starts in percent of requests", len(outcomes) * _ROW, rows)


def _by_period(outcomes: Sequence[Outcome], colours: Mapping[str, str]) -> str:
    """Cold starts of each policy over time."""
    series = {
        outcome.name: [(float(period.number), period.cold_percent) for period in outcome.periods]
        for outcome in outcomes
    }
    period = period_name(outcomes[0].period_seconds)
    last = max(each.number for each in outcomes[0].periods)
    ends = {0.0: "first", float(last): "last"}
    return _lines(f"Cold starts in percent of requests, by periods of {period}", series, ends, " %", colours)


def _by_budget(outcomes: Sequence[Outcome], colours: Mapping[str, str]) -> str:
    """Hours waited by each policy with more and more memory."""
    series: dict[str, list[Point]] = {}
    limited = [outcome for outcome in outcomes if outcome.memory_gb is not None]
    for outcome in sorted(limited, key=lambda each: each.memory_gb or 0.0):
        point = (outcome.memory_gb or 0.0, outcome.waited_seconds / 3600)
        series.setdefault(outcome.name, []).append(point)
    names = {point[0]: f"{point[0]:g} GB" for points in series.values() for point in points}
    return _lines(
        "Hours waited for memory and loads, by the memory that there is", series, names, " h", colours
    )


def period_name(seconds: float) -> str:
    """How long a period is, in words."""
    if seconds > PERIODS[0] and seconds % PERIODS[0] == 0:
        return f"{seconds / PERIODS[0]:g} days"
    return {86_400.0: "a day", 3_600.0: "an hour"}.get(seconds, f"{seconds / 3600:g} hours")


def _lines(
    label: str,
    series: Mapping[str, Sequence[Point]],
    names: Mapping[float, str],
    unit: str,
    colours: Mapping[str, str],
) -> str:
    """A line for each name that has two points; empty if none has. ``names`` stand at the axis."""
    shown = {name: points for name, points in series.items() if len(points) > 1}
    if not shown:
        return ""
    xs = [x for points in shown.values() for x, _ in points]
    first, last = min(xs), max(xs)
    most = max(y for points in shown.values() for _, y in points) or 1.0
    right, bottom = _WIDTH - _NAMES, _HEIGHT + 10

    def at(x: float) -> float:
        return _LEFT + (x - first) / (last - first) * (right - _LEFT)

    parts = [
        f'<line class="axis" x1="{_LEFT}" y1="{bottom}" x2="{right}" y2="{bottom}"/>',
        f'<text class="right" x="{_LEFT - 6}" y="16">{most:.3g}{unit}</text>',
        f'<text class="right" x="{_LEFT - 6}" y="{bottom}">0{unit}</text>',
        *(
            f'<text class="middle" x="{at(x):.1f}" y="{bottom + 18}">{escape(name)}</text>'
            for x, name in names.items()
        ),
    ]
    for number, (name, points) in enumerate(shown.items()):
        drawn = " ".join(f"{at(x):.1f},{bottom - _HEIGHT * y / most:.1f}" for x, y in points)
        parts.append(
            f'<polyline class="series" stroke="{colours[name]}" points="{drawn}"/>'
            f'<text x="{right + 12}" y="{16 + 18 * number}" style="fill:{colours[name]}">'
            f"{escape(_short(name))}</text>"
        )
    return _figure(label, max(bottom + 24, 18 * len(shown) + 8), parts)


def _short(name: str) -> str:
    """A name that fits beside a plot."""
    return name if len(name) <= 24 else f"…{name[-23:]}"


def _figure(label: str, height: int, parts: Sequence[str]) -> str:
    return (
        f"<figure><figcaption>{escape(label)}</figcaption>"
        f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>'
        "</figure>"
    )


def _table(outcomes: Sequence[Outcome]) -> str:
    shown = columns(outcomes)
    head = "".join(f"<th>{name.removesuffix('>')}</th>" for name in shown)
    rows = "".join(
        f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in cells(outcome, shown))}</tr>"
        for outcome in outcomes
    )
    return f"<div><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
