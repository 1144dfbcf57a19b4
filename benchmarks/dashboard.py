"""The dashboard in a real Chromium, before a node with 1,000 models and a log of 1,000,000 events.

    .venv/bin/python benchmarks/dashboard.py [--quick]

The log (50,000 events with --quick, see workload.py) is filled through `Log.append`, the models are files of
random weights, and the node has read all of them. Measured is, each time with a new page:

- `usable`: from the address to the list of all models in which one can be searched, and
- `found`: from a key pressed in the search to the one model that is left;
- `log`: from the address to the newest events of the log, and
- `filtered`: from a filter that is typed to the events of a rare kind, with the pause after the last key;
- `time`: from the address to the charts and lanes of all time;
- `newest`, `rare`, `middle`: a page of the log in the gateway: its newest 200 events, those of a rare kind,
  and those in the middle of the log.

The reference is what is asked for: 1 s. Prints a line of JSON for each, in ms, lower is better.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import anyio

from harness import quick, report
from recovery import fill
from workload import Workload

sys.path.append(str(Path(__file__).parent.parent / "tests"))
from support.browser import Browser, running_browser
from support.gateway import RunningGateway, beside_a_node
from support.models import tiny_model

MODELS: Final = 1000
EVENTS, QUICK_EVENTS = 1_000_000, 50_000
TURNS, QUICK_TURNS = 10, 3
LIMIT_MS: Final = 1000.0
READ_SECONDS: Final = 300.0
NAME: Final = "model-0000"
RARE: Final = "node.started"


def make_models(directory: Path) -> None:
    """Files that differ in their names only: they are read all the same."""
    directory.mkdir()
    first = tiny_model(directory / f"{NAME}.gguf", name=NAME).read_bytes()
    for number in range(1, MODELS):
        name = f"model-{number:04}"
        (directory / f"{name}.gguf").write_bytes(first.replace(NAME.encode(), name.encode()))


def wait_until_read(gateway: RunningGateway) -> None:
    """Wait until the node has read all files once, for their digests: it takes a core meanwhile."""
    end = time.monotonic() + READ_SECONDS
    while gateway.get("/ui/events?filter=model.registered&limit=1000").body.count(b'"sha256"') < MODELS:
        assert time.monotonic() < end, "the node does not come to an end"
        time.sleep(0.5)


def usable(browser: Browser, url: str) -> tuple[float, float]:
    """How long a new page takes until it has all models, and then to find one of them."""
    began = time.perf_counter()
    with browser.page(f"{url}/ui") as page:
        page.wait(f'text="{MODELS:,} of {MODELS:,}"')
        opened = time.perf_counter()
        page.fill('role=searchbox[name="Find a model"]', "model-0777")
        page.wait(f'text="1 of {MODELS:,}"')
        return opened - began, time.perf_counter() - opened


def log_opened(browser: Browser, url: str) -> tuple[float, float]:
    """How long a new page takes until it has the newest events, and then those of a rare kind."""
    began = time.perf_counter()
    with browser.page(f"{url}/ui#/log") as page:
        page.wait(".log .rows > .row")
        opened = time.perf_counter()
        page.fill('role=combobox[name="Filter"]', RARE)
        page.wait('.log .rows > .row:first-child:has-text("node started")')
        return opened - began, time.perf_counter() - opened


def time_opened(browser: Browser, url: str) -> float:
    """How long a new page takes until it has the charts and the lanes of all time."""
    began = time.perf_counter()
    with browser.page(f"{url}/ui#/time?span=all") as page:
        page.wait(".timeline .stay")
        page.wait('.view[aria-busy="false"]')
        return time.perf_counter() - began


def timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def measure(gateway: RunningGateway, browser: Browser, turns: int) -> None:
    pages = [usable(browser, gateway.url) for _ in range(turns)]
    logs = [log_opened(browser, gateway.url) for _ in range(turns)]
    middle = gateway.get("/ui/events?limit=1").document["last_seq"] // 2
    figures = {
        "usable": [opened for opened, _ in pages],
        "found": [found for _, found in pages],
        "log": [opened for opened, _ in logs],
        "filtered": [found for _, found in logs],
        "time": [time_opened(browser, gateway.url) for _ in range(turns)],
        "newest": [timed(lambda: gateway.get("/ui/events")) for _ in range(turns)],
        "rare": [timed(lambda: gateway.get(f"/ui/events?filter={RARE}")) for _ in range(turns)],
        "middle": [timed(lambda: gateway.get(f"/ui/events?before={middle}")) for _ in range(turns)],
    }
    for name, seconds in figures.items():
        report(f"dashboard.{name}", 1000 * statistics.median(seconds), LIMIT_MS, unit="ms", better="lower")


def main() -> None:
    is_quick = quick(__doc__)
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        make_models(directory / "models")
        anyio.run(fill, directory / "data", Workload(QUICK_EVENTS if is_quick else EVENTS))
        with (
            beside_a_node(directory / "models", directory / "data") as gateway,
            running_browser() as browser,
        ):
            wait_until_read(gateway)
            measure(gateway, browser, QUICK_TURNS if is_quick else TURNS)


if __name__ == "__main__":
    main()
