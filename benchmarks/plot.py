"""Line charts as SVG, without a library: panels below each other over the same time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Final, NamedTuple, TypeAlias

Line: TypeAlias = Sequence[tuple[float, float]]
"""Points: minutes, and a value."""

WIDTH: Final = 760
PANEL: Final = 150
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 150, 34, 22
_COLOURS: Final = ("#3f51b5", "#e91e63", "#009688", "#ff9800", "#795548", "#607d8b")
_FONT: Final = 'font-family="sans-serif" font-size="11" fill="#757575"'
_STEPS: Final = (1, 2, 2.5, 5, 10)


class Panel(NamedTuple):
    """One chart: its lines by name, from 0 up."""

    title: str
    lines: Mapping[str, Line]


def chart(panels: Sequence[Panel]) -> str:
    """The document of all panels."""
    height = len(panels) * (PANEL + _TOP + _BOTTOM)
    end = max((x for panel in panels for line in panel.lines.values() for x, _ in line), default=1.0) or 1.0
    body = (part for number, panel in enumerate(panels) for part in _panel(panel, number, end))
    return "\n".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">',
            f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
            *body,
            "</svg>\n",
        )
    )


def _panel(panel: Panel, number: int, end: float) -> Iterator[str]:
    top = number * (PANEL + _TOP + _BOTTOM) + _TOP
    step = _step(max((y for line in panel.lines.values() for _, y in line), default=1.0))
    highest = step * 4
    yield f'<text x="{_LEFT}" y="{top - 12}" {_FONT} font-weight="bold">{escape(panel.title)}</text>'
    for mark in range(5):
        y = top + PANEL * (1 - mark / 4)
        yield f'<path d="M{_LEFT} {y:.1f}H{WIDTH - _RIGHT}" stroke="#e0e0e0"/>'
        yield f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end" {_FONT}>{step * mark:g}</text>'
    for mark in range(5):
        x = _LEFT + (WIDTH - _LEFT - _RIGHT) * mark / 4
        below = f'y="{top + PANEL + 15}" {_FONT}'
        yield f'<text x="{x:.1f}" text-anchor="middle" {below}>{end * mark / 4:.3g}</text>'
    yield f'<text x="{WIDTH - _RIGHT + 10}" {below}>minutes</text>'
    for place, (name, line) in enumerate(panel.lines.items()):
        colour = _COLOURS[place % len(_COLOURS)]
        yield f'<path d="{_path(line, top, end, highest)}" fill="none" stroke="{colour}" stroke-width="1.5"/>'
        y = top + 10 + 15 * place
        yield f'<path d="M{WIDTH - _RIGHT + 10} {y - 4}h14" stroke="{colour}" stroke-width="2"/>'
        yield f'<text x="{WIDTH - _RIGHT + 30}" y="{y}" {_FONT}>{escape(name)}</text>'


def _path(line: Line, top: float, end: float, highest: float) -> str:
    points = (
        f"{_LEFT + (WIDTH - _LEFT - _RIGHT) * x / end:.1f} {top + PANEL * (1 - y / highest):.1f}"
        for x, y in line
    )
    return "M" + "L".join(points)


def _step(highest: float) -> float:
    """A round number of which four are at least the highest value."""
    power = 1.0
    while power * 40 <= highest:
        power *= 10
    while power * 4 > highest > 0:
        power /= 10
    return next((power * step for step in _STEPS if power * step * 4 >= highest), power * 10)
