"""Who leaves memory: how long a decision takes, how fast a history is learned, and what a trace comes to.

    .venv/bin/python benchmarks/policies.py [--quick]

- decision: ordering 100 models of unequal size for an eviction, by the default policy after 20,000 uses.
  Reference: ordering them by their last use.
- fold: learning 1,000,000 uses of 100 models (100,000 with --quick) with room for ten of them.
  Reference: LRU learning the same.
- cold starts, where the trace of GenTD26 lies beside the repository (``shared/traces``): per 100 requests
  with 2, 4 and 8 resident models of equal size. Reference: LRU.

Prints milliseconds (p99), microseconds a use and percent; lower is better.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from harness import quick, report
from suite.domain.footprint import Footprint
from suite.prediction.eviction.best_lately import BestLately
from suite.prediction.eviction.policy import Candidate, EvictionPolicy, Loaded, Used
from suite.prediction.eviction.recency import LeastRecentlyUsed
from suite.prediction.replay.history import GIGABYTE, read_csv
from suite.prediction.replay.node import VirtualNode

MODELS, ROOM = 100, 10
FIRST_USES, DECISIONS = 20_000, 2_000
USES, QUICK_USES = 1_000_000, 100_000
RESIDENT = (2, 4, 8)
MODEL = Candidate(model_id="", bytes=6 * GIGABYTE, reload_seconds=22.7)


def main() -> None:
    """Measure both, one after the other."""
    uses = QUICK_USES if quick(__doc__) else USES
    candidates = _candidates()
    limit_bytes = ROOM * sum(each.bytes for each in candidates) // MODELS
    _report("policies.decision", lambda policy: _decision_ms(policy, candidates), limit_bytes, "ms")
    _report("policies.fold", lambda policy: _fold_us(policy, candidates, uses), limit_bytes, "us")
    for parent in Path(__file__).resolve().parents:
        trace = parent / "shared" / "traces" / "genai-days-00-14.csv"
        if trace.exists():
            _trace(trace)


def _report(name: str, measure: Callable[[EvictionPolicy], float], limit_bytes: int, unit: str) -> None:
    ours, lru = measure(BestLately(Footprint(limit_bytes))), measure(LeastRecentlyUsed())
    report(name, ours, lru, unit=unit, better="lower")


def _candidates() -> list[Candidate]:
    sizes = random.Random(0)
    return [
        Candidate(
            model_id=f"m{number:03}",
            bytes=sizes.randint(1, 12) * GIGABYTE,
            reload_seconds=sizes.uniform(2, 60),
        )
        for number in range(MODELS)
    ]


def _uses(count: int) -> Iterator[Used]:
    """Uses of models whose popularity falls as by Zipf, two a minute."""
    drawn = random.Random(1)
    names = [f"m{number:03}" for number in range(MODELS)]
    weights = [1 / (number + 1) for number in range(MODELS)]
    at = 0.0
    for model_id in drawn.choices(names, weights, k=count):
        at += drawn.expovariate(1 / 30)
        yield Used(at=at, model_id=model_id)


def _learn(policy: EvictionPolicy, candidates: list[Candidate], uses: list[Used]) -> None:
    for candidate in candidates:
        policy.fold(Loaded(at=0.0, candidate=candidate))
    for use in uses:
        policy.fold(use)


def _decision_ms(policy: EvictionPolicy, candidates: list[Candidate]) -> float:
    uses = list(_uses(FIRST_USES))
    _learn(policy, candidates, uses)
    times = []
    for number in range(DECISIONS):
        now = uses[-1].at + number
        begun = time.perf_counter()
        sorted(candidates, key=lambda each: policy.worth(each, now=now))
        times.append(time.perf_counter() - begun)
    return sorted(times)[int(0.99 * DECISIONS)] * 1e3


def _fold_us(policy: EvictionPolicy, candidates: list[Candidate], count: int) -> float:
    uses = list(_uses(count))
    begun = time.perf_counter()
    _learn(policy, candidates, uses)
    return (time.perf_counter() - begun) / count * 1e6


def _trace(path: Path) -> None:
    history = read_csv(path, default=MODEL)
    for resident in RESIDENT:
        limit_bytes = resident * MODEL.bytes
        ours, lru = (
            VirtualNode(history, policy, limit_bytes=limit_bytes, instant=True).run(policy.name).cold_percent
            for policy in (BestLately(Footprint(limit_bytes)), LeastRecentlyUsed())
        )
        report(f"policies.cold_starts.{resident}_resident", ours, lru, unit="%", better="lower")


if __name__ == "__main__":
    main()
