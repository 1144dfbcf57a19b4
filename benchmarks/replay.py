"""Replaying a history: how long one policy takes, how fast uses are folded, and how fast a file is read.

    .venv/bin/python benchmarks/replay.py [--quick]

The trace is made up and seeded: 100 models whose popularity falls as by Zipf, in bursts, two requests a
minute. There is room for 16 of them.

- instant: 100,000 requests (10,000 with --quick) by the default policy, where a request uses its model for a
  moment. Reference: LRU.
- even: the same with 40 models that are all equally popular and room for 8, so that almost every request is
  a cold start.
- held: the same as instant but a request uses its model for ten seconds, and waits for memory.
- bets: the same as instant, with bets by the default policy.
- fold: learning 1,000,000 uses (50,000 with --quick) by the default policy. Reference: LRU.
- read: a CSV file of 1,000,000 requests (50,000 with --quick). Reference: the `csv` module alone.
- command: `suite replay` of a file of 100,000 requests with one budget: the default policy, LRU, three plain
  TTLs and Belady's bound, in as many processes as there are CPUs. Reference: the default policy alone.

Prints seconds; lower is better.
"""

from __future__ import annotations

import csv
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from harness import quick, report
from suite.domain.footprint import Footprint
from suite.prediction.eviction.policies import DEFAULT, POLICIES
from suite.prediction.eviction.policy import Candidate, Loaded, Used
from suite.prediction.eviction.recency import LeastRecentlyUsed
from suite.prediction.replay.history import GIGABYTE, History, Request, history, read_csv
from suite.prediction.replay.run import Run

MODELS, ROOM = 100, 16
EVEN_MODELS, EVEN_ROOM = 40, 8
REQUESTS, QUICK_REQUESTS = 100_000, 10_000
USES, QUICK_USES = 1_000_000, 50_000
MODEL = Candidate(model_id="", bytes=6 * GIGABYTE, reload_seconds=22.7)
BUDGET = ROOM * MODEL.bytes
LRU = LeastRecentlyUsed.name


def main() -> None:
    """Measure each, one after the other."""
    is_quick = quick(__doc__)
    requests = _requests(QUICK_REQUESTS if is_quick else REQUESTS)
    past = history(requests, {}, default=MODEL, source="the benchmark")
    alone = _seconds(lambda: _replay(past, DEFAULT))
    _report("instant", alone, _seconds(lambda: _replay(past, LRU)))
    even = history(_even(len(requests)), {}, default=MODEL, source="the benchmark")
    _report(
        "even",
        _seconds(lambda: _replay(even, DEFAULT, room=EVEN_ROOM)),
        _seconds(lambda: _replay(even, LRU, room=EVEN_ROOM)),
    )
    _report(
        "held",
        _seconds(lambda: _replay(past, DEFAULT, instant=False)),
        _seconds(lambda: _replay(past, LRU, instant=False)),
    )
    _report("bets", _seconds(lambda: _replay(past, DEFAULT, with_bets=True)), alone)
    uses = _requests(QUICK_USES if is_quick else USES)
    _report("fold", _seconds(lambda: _fold(uses, DEFAULT)), _seconds(lambda: _fold(uses, LRU)))
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "requests.csv"
        _write(path, uses)
        _report("read", _seconds(lambda: read_csv(path, default=MODEL)), _seconds(lambda: _read_alone(path)))
        _write(path, requests)
        _report("command", _seconds(lambda: _command(path)), alone)


def _report(name: str, ours: float, reference: float) -> None:
    report(f"replay.{name}", ours, reference, unit="s", better="lower")


def _seconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def _requests(count: int) -> list[Request]:
    drawn = random.Random(1)
    names = [f"m{number:03}" for number in range(MODELS)]
    weights = [1 / (number + 1) for number in range(MODELS)]
    requests, at, burst = [], 0.0, names[0]
    for number in range(count):
        at += drawn.expovariate(1 / 30)
        if number % 50 == 0:
            burst = drawn.choice(names)
        model_id = burst if drawn.random() < 0.3 else drawn.choices(names, weights)[0]
        requests.append(Request(at=round(at, 1), model_id=model_id, group_id="g", seconds=10.0))
    return requests


def _even(count: int) -> list[Request]:
    drawn = random.Random(1)
    return [
        Request(at=number * 12.0, model_id=f"m{drawn.randrange(EVEN_MODELS):02}", seconds=5.0)
        for number in range(count)
    ]


def _replay(
    past: History, policy: str, *, room: int = ROOM, instant: bool = True, with_bets: bool = False
) -> None:
    budget = room * MODEL.bytes
    Run(policy=policy, budget=budget, instant=instant, with_bets=with_bets).outcome(past)


def _fold(uses: list[Request], name: str) -> None:
    policy = POLICIES[name](Footprint(BUDGET))
    for number in range(MODELS):
        candidate = Candidate(model_id=f"m{number:03}", bytes=MODEL.bytes, reload_seconds=22.7)
        policy.fold(Loaded(at=0.0, candidate=candidate))
    for use in uses:
        policy.fold(Used(at=use.at, model_id=use.model_id))


def _write(path: Path, requests: list[Request]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("timestamp_s", "model_id", "group_id", "duration_s"))
        writer.writerows((each.at, each.model_id, each.group_id, each.seconds) for each in requests)


def _read_alone(path: Path) -> None:
    with path.open(newline="") as file:
        for _ in csv.reader(file):
            pass


def _command(path: Path) -> None:
    command = [sys.executable, "-m", "suite", "replay", str(path), "--memory", f"{BUDGET / GIGABYTE:g}"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=dict(os.environ))


if __name__ == "__main__":
    main()
