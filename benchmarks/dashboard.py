"""The dashboard in a real Chromium, before a node with 1,000 models and a log of 1,000,000 events.

    .venv/bin/python benchmarks/dashboard.py [--quick]

The log (40,000 events with --quick, see workload.py) is filled through `Log.append`, the models are files of
random weights, and the node has read all of them. Measured is, each time with a new page:

- `usable`: from the address to the list of all models in which one can be searched, and
- `found`: from a key pressed in the search to the one model that is left;
- `newest`, `rare`: a page of the log in the gateway: its newest 200 events, and those of a rare kind.

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
EVENTS, QUICK_EVENTS = 1_000_000, 40_000
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


def timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def measure(gateway: RunningGateway, browser: Browser, turns: int) -> None:
    pages = [usable(browser, gateway.url) for _ in range(turns)]
    figures = {
        "usable": [opened for opened, _ in pages],
        "found": [found for _, found in pages],
        "newest": [timed(lambda: gateway.get("/ui/events")) for _ in range(turns)],
        "rare": [timed(lambda: gateway.get(f"/ui/events?filter={RARE}")) for _ in range(turns)],
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
