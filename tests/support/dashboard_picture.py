"""Draws the Grafana dashboard of `deploy/` from what a service at work measures, for the documentation::

    python -m support.dashboard_picture docs/how-to/dashboard.svg --seconds 120

The figures are real: a node whose two larger models do not fit into its memory together, a gateway with two
keys, and clients that chat by turns. The models have random weights. Every line is the expression of a panel,
evaluated over the scrapes (`support.promql`).
"""

from __future__ import annotations

import argparse
import json
import math
import re
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, Final, NamedTuple

from support.command import run_command
from support.gateway import RunningGateway, gateway_of, running_node
from support.models import CHAT_TEMPLATE, slow_model, tiny_model
from support.ports import free_port
from support.promql import Labels, Scrapes, parse

BOARD: Final = Path(__file__).parents[2] / "deploy" / "grafana" / "suite.json"
SCRAPE_SECONDS: Final = 2.0
RATE_SECONDS: Final = 16
SETTINGS: Final = """
memory_limit_gb = 0.5
turn_seconds = 2
enable_predictive_loading = true
prediction_interval_seconds = 5
"""
COLUMN, LINE = 52, 26
"""Pixels of a cell of Grafana's grid."""
COLORS: Final = ("#3b78c2", "#d9822b", "#3f9c5a", "#b8476b", "#7a5bc0", "#8a8d27", "#2f9aa0", "#8c6d5a")
SCALES: Final = {
    "s": ((1, "s"), (1e-3, "ms"), (1e-6, "µs")),
    "bytes": ((2**30, "GiB"), (2**20, "MiB"), (1, "B")),
}
PLAIN: Final = ((1e9, "G"), (1e6, "M"), (1e3, "k"), (1, ""))

Points = list[tuple[float, float]]


class Line(NamedTuple):
    legend: str
    points: Points


class Scale(NamedTuple):
    """Where times and values are in a chart, in pixels."""

    left: float
    top: float
    right: float
    bottom: float
    low: float
    high: float
    end: float

    def across(self, at: float) -> float:
        return round(self.left + (self.right - self.left) * at / self.end, 1)

    def down(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(self.bottom - (self.bottom - self.top) * share, 1)


def main() -> None:
    """Run the service, and write the picture."""
    arguments = argparse.ArgumentParser()
    arguments.add_argument("picture", type=Path)
    arguments.add_argument("--seconds", type=float, default=120.0)
    given = arguments.parse_args()
    scrapes, ends = measure(given.seconds)
    given.picture.write_text(picture(json.loads(BOARD.read_text()), scrapes, ends))


# --- the service --------------------------------------------------------------------------------------------


def measure(seconds: float) -> tuple[Scrapes, Sequence[float]]:
    """What a service at work measures in so long, and when it was asked (seconds since the beginning)."""
    with tempfile.TemporaryDirectory() as place:
        directory = Path(place)
        models = directory / "models"
        models.mkdir()
        for name in ("writer", "coder"):
            slow_model(models / f"{name}.gguf", chat_template=CHAT_TEMPLATE)
        tiny_model(models / "helper.gguf", chat_template=CHAT_TEMPLATE)
        (directory / "suite.toml").write_text(SETTINGS)
        data_dir, port = directory / "data", free_port()
        settings = ("--config", str(directory / "suite.toml"))
        with running_node(models, data_dir, *settings, "--metrics-listen", f"127.0.0.1:{port}"):
            secrets = [_key(data_dir, name) for name in ("alice", "bob")]
            admin = _key(data_dir, "prometheus", "--endpoint", "admin")
            with gateway_of(data_dir, "--require-keys") as gateway, _Clients(gateway, secrets):
                return _scraped(gateway, admin, port, seconds)


def _key(data_dir: Path, name: str, *options: str) -> str:
    made = run_command("keys", "create", name, *options, "--data-dir", str(data_dir))
    return made.stdout.split()[-1]


class _Clients:
    """Three clients, each with a conversation that grows, and another model now and then."""

    def __init__(self, gateway: RunningGateway, secrets: Sequence[str]) -> None:
        self._gateway = gateway
        self._secrets = secrets
        self._is_over = threading.Event()
        self._threads = [threading.Thread(target=self._chat, args=(number,)) for number in range(3)]

    def __enter__(self) -> None:
        for thread in self._threads:
            thread.start()

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join()

    def _chat(self, number: int) -> None:
        turns = (("writer", 6), ("coder", 4), ("writer", 5), ("helper", 6))
        while not self._is_over.is_set():
            model, rounds = turns[number % len(turns)]
            self._converse(number, model, rounds)
            number += 1

    def _converse(self, number: int, model: str, rounds: int) -> None:
        messages: list[Mapping[str, str]] = []
        for turn in range(rounds):
            if self._is_over.wait(0.3):
                return
            messages.append({"role": "user", "content": f"Tell me thing {turn} about llamas."})
            body = {"model": model, "max_tokens": 16, "messages": messages}
            secret = self._secrets[number % len(self._secrets)]
            try:
                answer = self._gateway.post(
                    "/v1/chat/completions", body, {"Authorization": f"Bearer {secret}"}
                )
            except TimeoutError:
                return
            if answer.status != 200:
                return
            messages.append(answer.document["choices"][0]["message"])


def _scraped(
    gateway: RunningGateway, admin: str, port: int, seconds: float
) -> tuple[Scrapes, Sequence[float]]:
    scrapes, began, times = Scrapes(), time.monotonic(), []
    while (at := time.monotonic() - began) < seconds:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
            scrapes.add(at, answer.read().decode(), instance="box1", job="suite-node")
        exposed = gateway.get("/metrics", {"Authorization": f"Bearer {admin}"})
        scrapes.add(at, exposed.body.decode(), instance="gateway", job="suite-gateway")
        times.append(at)
        time.sleep(max(0.0, SCRAPE_SECONDS - (time.monotonic() - began - at)))
    return scrapes, times


# --- the picture --------------------------------------------------------------------------------------------


def picture(board: Mapping[str, Any], scrapes: Scrapes, times: Sequence[float]) -> str:
    """The dashboard as SVG."""
    height = LINE * max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in board["panels"])
    parts = [_panel(panel, scrapes, times) for panel in board["panels"]]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {24 * COLUMN} {height}" '
        'font-family="system-ui, sans-serif" font-size="11">'
        f'<rect width="100%" height="100%" fill="#f4f5f7"/>{"".join(parts)}</svg>\n'
    )


def _panel(panel: Mapping[str, Any], scrapes: Scrapes, times: Sequence[float]) -> str:
    place = panel["gridPos"]
    x, y, width, height = place["x"] * COLUMN, place["y"] * LINE, place["w"] * COLUMN, place["h"] * LINE
    if panel["type"] == "row":
        return (
            f'<text x="{x + 8}" y="{y + 18}" font-size="14" font-weight="600">{escape(panel["title"])}</text>'
        )
    lines = [line for target in panel["targets"] for line in _lines(target, scrapes, times)]
    unit = panel["fieldConfig"]["defaults"]["unit"]
    inside = (
        _number(lines, unit, width, height)
        if panel["type"] == "stat"
        else _chart(lines, unit, width, height, times[-1])
    )
    return (
        f'<g transform="translate({x} {y})">'
        f'<rect x="3" y="3" width="{width - 6}" height="{height - 6}" rx="3" fill="#fff" stroke="#dcdfe4"/>'
        f'<text x="12" y="20" font-weight="600">{escape(panel["title"])}</text>{inside}</g>'
    )


def _lines(target: Mapping[str, Any], scrapes: Scrapes, times: Sequence[float]) -> Iterator[Line]:
    expression = parse(_filled(target["expr"]))
    series: dict[Labels, Points] = {}
    for at in times:
        for labels, value in scrapes.evaluate(expression, at).items():
            if math.isfinite(value):
                series.setdefault(labels, []).append((at, value))
    for labels, points in sorted(series.items(), key=lambda each: sorted(each[0])):
        legend = target["legendFormat"]
        for name, text in labels:
            legend = legend.replace("{{" + name + "}}", text)
        yield Line(re.sub(r"{{\w+}}", "", legend), points)


def _filled(text: str) -> str:
    for name, value in {"$__rate_interval": f"{RATE_SECONDS}s", "$instance": ".*", "$model": ".*"}.items():
        text = text.replace(name, value)
    return text


def _number(lines: Sequence[Line], unit: str, width: float, height: float) -> str:
    value = lines[0].points[-1][1] if lines else 0
    return (
        f'<text x="{width / 2}" y="{height / 2 + 22}" font-size="34" text-anchor="middle" fill="{COLORS[2]}">'
        f"{_told(value, unit)}</text>"
    )


def _chart(lines: Sequence[Line], unit: str, width: float, height: float, end: float) -> str:
    values = [value for line in lines for _, value in line.points]
    low, high = 1.1 * min(0.0, *values, 0.0), 1.1 * max(0.0, *values, 0.0)
    scale = Scale(64.0, 32.0, width - 14, height - 44, low, high if high > low else 1.0, end)
    parts = list(_axes(scale, unit))
    for line, color in zip(lines, COLORS * 3, strict=False):
        path = " ".join(f"{scale.across(at)},{scale.down(value)}" for at, value in line.points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="1.4"/>')
    return "".join(parts) + _legend(lines, width, height)


def _axes(scale: Scale, unit: str) -> Iterator[str]:
    for share in (0.0, 0.5, 1.0):
        value = scale.low + share * (scale.high - scale.low)
        height = scale.down(value)
        yield f'<line x1="{scale.left}" x2="{scale.right}" y1="{height}" y2="{height}" stroke="#e6e8ec"/>'
        yield _label(scale.left - 6, height + 4, "end", _told(value, unit))
    for at in (0.0, scale.end / 2, scale.end):
        yield _label(scale.across(at), scale.bottom + 14, "middle", f"{at:.0f} s")


def _label(x: float, y: float, anchor: str, text: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="#666">{text}</text>'


def _legend(lines: Sequence[Line], width: float, height: float) -> str:
    parts, x = [], 14.0
    for line, color in zip(lines, COLORS * 3, strict=False):
        needed = 22 + 6.0 * len(line.legend)
        if x + needed > width - 10:
            parts.append(f'<text x="{x}" y="{height - 13}" fill="#666">…</text>')
            break
        parts.append(f'<rect x="{x}" y="{height - 21}" width="10" height="3" fill="{color}"/>')
        parts.append(f'<text x="{x + 14}" y="{height - 13}" fill="#444">{escape(line.legend)}</text>')
        x += needed
    return "".join(parts)


def _told(value: float, unit: str) -> str:
    if not value:
        return "0"
    if unit == "percentunit":
        return f"{100 * value:.0f} %"
    scales = SCALES.get(unit, PLAIN)
    scale, name = next((each for each in scales if abs(value) >= each[0]), scales[-1])
    return f"{value / scale:.3g} {name}".strip()


if __name__ == "__main__":
    main()
