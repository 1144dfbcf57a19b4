"""Bets on what is used next: whether chances come true, and the cold starts that they avoid after a restart.

    .venv/bin/python benchmarks/bets.py

On the trace of GenTD26, where it lies beside the repository (``shared/traces``), with the service's own
functions in virtual time, learning only from what was before:

- brier: of the chances of all models, told every half hour of the second week. Reference: one who always
  tells the share that came true in the end (the base rate).
- curve: by how much the worst of ten bins is off. Reference: 0.1, what is wanted at most.
- restart: cold starts among the first 5 and 10 requests after a restart at 300 random moments, with room for
  4 models and LRU from then on. Reference: without bets.
- use: microseconds to learn of one use of 100 models, 20 a minute. Reference: LRU learning the same.

Lower is better.
"""

from __future__ import annotations

import random
import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from pathlib import Path

from harness import quick, report
from suite.domain.footprint import Footprint
from suite.prediction.bets import bets
from suite.prediction.chance import HORIZON_SECONDS, Calibration, UseChance
from suite.prediction.eviction.policy import Candidate, Used
from suite.prediction.eviction.recency import LeastRecentlyUsed
from suite.prediction.replay.history import GIGABYTE, History, Request, read_csv

WEEK_SECONDS = 7 * 86_400.0
MOMENTS, ROOM = 300, 4
FIRST = (5, 10)
USES, QUICK_USES = 100_000, 20_000
MODEL = Candidate(model_id="", bytes=6 * GIGABYTE, reload_seconds=22.7)


def main() -> None:
    """Measure all, one after the other."""
    uses = QUICK_USES if quick(__doc__) else USES
    report("bets.use", _us_a_use(uses), _us_a_use_of_lru(uses), unit="us", better="lower")
    for parent in Path(__file__).resolve().parents:
        trace = parent / "shared" / "traces" / "genai-days-00-14.csv"
        if trace.exists():
            _trace(read_csv(trace, default=MODEL))


def _trace(history: History) -> None:
    seen = second_week(history)
    assert seen.brier is not None
    assert seen.brier_of_base_rate is not None
    report("bets.brier", seen.brier, seen.brier_of_base_rate, unit="", better="lower")
    worst = max(abs(each.predicted - each.observed) for each in seen.curve())
    report("bets.curve", worst, 0.1, unit="", better="lower")
    with_bets, without = after_restarts(history, random.Random(1))
    for index, count in enumerate(FIRST):
        name = f"bets.restart.first_{count}"
        report(name, with_bets[index], without[index], unit="cold starts", better="lower")


def second_week(history: History) -> Calibration:
    """What became of the chances that were told every half hour of the second week."""
    times: dict[str, list[float]] = {}
    for request in history.requests:
        times.setdefault(request.model_id, []).append(request.at)
    chance, seen, moment = UseChance(), Calibration(), WEEK_SECONDS
    for request in history.requests:
        while moment < request.at:
            for model_id, told in chance.chances(now=moment).items():
                used = bisect_right(times[model_id], moment)
                until = bisect_right(times[model_id], moment + HORIZON_SECONDS)
                seen.settle(told, came_true=used < until)
            moment += HORIZON_SECONDS
        _learn(chance, request)
    return seen


def after_restarts(history: History, moments: random.Random) -> tuple[list[int], list[int]]:
    """Cold starts among the first requests after each restart, by `FIRST`: with bets, and without."""
    requests = history.requests
    times = [request.at for request in requests]
    chance, learned = UseChance(), 0
    with_bets, without = [0] * len(FIRST), [0] * len(FIRST)
    for moment in sorted(moments.uniform(0.0, times[-2 * FIRST[-1]]) for _ in range(MOMENTS)):
        begin = bisect_left(times, moment)
        for request in requests[learned:begin]:
            _learn(chance, request)
        learned = begin
        chances = chance.chances(now=moment)
        absent = [history.candidates[model_id] for model_id in chances]
        taken = bets(absent, [], Footprint(ROOM * MODEL.bytes), chances.__getitem__)
        loaded = [bet.candidate.model_id for bet in reversed(taken)]
        for index, count in enumerate(FIRST):
            following = requests[begin : begin + count]
            with_bets[index] += _cold_starts(loaded, following)
            without[index] += _cold_starts([], following)
    return with_bets, without


def _learn(chance: UseChance, request: Request) -> None:
    chance.used(request.model_id, request.at, conversation=request.group_id)


def _cold_starts(resident: list[str], following: Sequence[Request]) -> int:
    """With LRU, and these models in memory: the first leaves first."""
    resident, cold_starts = list(resident), 0
    for request in following:
        if request.model_id in resident:
            resident.remove(request.model_id)
        else:
            cold_starts += 1
            del resident[: max(len(resident) - ROOM + 1, 0)]
        resident.append(request.model_id)
    return cold_starts


def _us_a_use(uses: int) -> float:
    chance = UseChance()

    def learn(model_id: str, conversation: str, at: float) -> None:
        chance.used(model_id, at, conversation=conversation)

    return _measured(learn, uses)


def _us_a_use_of_lru(uses: int) -> float:
    policy = LeastRecentlyUsed()
    return _measured(lambda model_id, _, at: policy.fold(Used(at=at, model_id=model_id)), uses)


def _measured(learn: Callable[[str, str, float], None], uses: int) -> float:
    chosen = random.Random(0)
    drawn = [(f"m{min(int(chosen.expovariate(0.1)), 99)}", f"c{chosen.randrange(500)}") for _ in range(uses)]
    began = time.perf_counter()
    for number, (model_id, conversation) in enumerate(drawn):
        learn(model_id, conversation, number * 3.0)
    return (time.perf_counter() - began) / uses * 1e6


if __name__ == "__main__":
    main()
