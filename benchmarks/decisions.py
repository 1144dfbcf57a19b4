"""How long one decision about memory takes, with 100 models and 1,000 requests that wait.

    .venv/bin/python benchmarks/decisions.py [--quick]

Half of the models are loaded, and one half of these is in use. The requests wait for the other half; each
decision is made after a request has come or gone, or a model was used or left, so that no two are the same.
A decision is the answer to a request, the plan, and the state after both. All models that are loaded stay
for as long as it is measured, so no load is started, and what `node/admission.py` records of a start is not
in it.

Garbage is collected before. As decisions are pure, each is made three times and the fastest counts: the
others have paid for what else runs.

Prints a line of JSON: the median and the 99th percentile in milliseconds, beside what that is asked for.
"""

from __future__ import annotations

import gc
import math
import random
import statistics
import time
from collections.abc import Iterator

from harness import quick, report
from suite.domain.footprint import Footprint
from suite.domain.residency import Residency, Resident
from suite.domain.turn_answer import Ask, decide
from suite.domain.turn_plan import plan
from suite.domain.turns import BecameReady, Occupancy, Request, Turns, Withdrawn, evolve

MODELS, REQUESTS = 100, 1000
DECISIONS, QUICK_DECISIONS = 5000, 500
SIZE = 1 << 30
LIMIT_MS = 1.0
WAIT_SECONDS = 300.0


class Node:
    """What a node knows when it decides."""

    def __init__(self, draw: random.Random) -> None:
        self._draw = draw
        self._now = 1000.0
        self._loaded = [f"loaded{i}" for i in range(MODELS // 2)]
        self._wanted = [f"wanted{i}" for i in range(MODELS - len(self._loaded))]
        self._state = self._begin()
        self._occupancy = {id: self._use() for id in self._loaded}
        for number in range(REQUESTS):
            request = self._request(number)
            self._state = evolve(self._state, decide(self._state, Ask(request=request, occupancy={})))

    def decisions(self, count: int) -> Iterator[float]:
        """How many seconds each of so many decisions took."""
        for number in range(REQUESTS, REQUESTS + count):
            self._now += 0.001
            self._occupancy[self._draw.choice(self._loaded)] = self._use()
            self._withdraw()
            request, before = self._request(number), self._state
            yield min(self._decide(before, request) for _ in range(3))

    def _decide(self, before: Turns, request: Request) -> float:
        began = time.perf_counter()
        state = evolve(before, decide(before, Ask(request=request, occupancy={})))
        turn = plan(state, now=self._now, occupancy=self._occupancy)
        self._state = evolve(state, turn)
        return time.perf_counter() - began

    def _begin(self) -> Turns:
        """All memory is used by models that have been loaded just now."""
        residents = {
            id: Resident(model_id=id, instance_id=id, phase="loaded", reserved_bytes=Footprint(SIZE))
            for id in self._loaded
        }
        residency = Residency(limit_bytes=Footprint(len(residents) * SIZE), residents=residents)
        state = Turns(residency=residency, queue_limit=REQUESTS)
        for id in self._loaded:
            state = evolve(state, BecameReady(model_id=id, now=self._now, load_seconds=math.inf))
        return state

    def _use(self) -> Occupancy:
        return Occupancy(holds=self._draw.randint(0, 1), last_used=self._now, worth=self._draw.random())

    def _request(self, number: int) -> Request:
        return Request(
            request_id=str(number),
            model_id=self._draw.choice(self._wanted),
            need_bytes=Footprint(SIZE),
            since=self._now,
            deadline=self._now + WAIT_SECONDS,
            priority=self._draw.randint(-1, 1),
        )

    def _withdraw(self) -> None:
        queue = self._state.queue(self._draw.choice(sorted(self._state.waiting)))
        self._state = evolve(self._state, Withdrawn(requests=(self._draw.choice(queue),)))


def main(decisions: int) -> None:
    node = Node(random.Random("decisions"))
    gc.collect()
    milliseconds = [1000 * seconds for seconds in node.decisions(decisions)]
    for name, place in (("median", 49), ("p99", 98)):
        figure = statistics.quantiles(milliseconds, n=100)[place]
        report(f"decisions.{name}", figure, LIMIT_MS, unit="ms", better="lower")


if __name__ == "__main__":
    main(QUICK_DECISIONS if quick(__doc__) else DECISIONS)
