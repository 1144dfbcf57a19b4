"""A service at 80 % of what it can do, for 20 minutes; then more is asked of it than it can do.

    make bench-peers
    .venv/bin/python benchmarks/soak.py [--minutes 20] [--seed 1] [--plot build/soak.svg] [--quick]

The load is conversations over NATS that go on for turns, completions over the gateway, and logged metrics, of
two models; every half a minute somebody asks for a third, for which one of the two has to leave. `capacity`
is how many requests a second eight clients get answered, each of which sends the next one when the last is
answered. Before that the log is filled beyond the first of its blocks, since nats-server keeps the one in
memory that it appends to. Then requests come by chance (a Poisson process), whether the last are answered or
not: 80 % of the capacity for the given minutes, then as many times the capacity as `FACTORS` has, each for a
while.

Prints lines of JSON: the capacity; what was answered at 80 %, with p50 and p99; by how many percent memory,
descriptors and the disk but the log have grown from the second fifth of the time to the last, beside what is
called flat; bytes of the log by event; and of each factor, how much was answered and how much refused with
`overloaded`, and the latency of what was answered. `held` is the highest of these loads without a refusal.
Writes a chart.
"""

from __future__ import annotations

import argparse
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

import anyio
import psutil

from answers import completions, ours
from dialogue import Dialogue
from harness import report
from models import MADE_IDS, MODEL_IDS
from peers import free_port
from plot import Line, Panel, chart
from prompts import scene
from resources import PARTS, Resources, Sample, growth_percent
from service import running_service
from suite.client import Client
from suite.errors import Overloaded, SuiteError
from suite.tasks import background

USUAL: Final = (MODEL_IDS["smollm2"], MODEL_IDS["gemma3"])
THIRD: Final = MADE_IDS["gemma3-q4_0"]
CONTEXT_TOKENS: Final = 1024
SLOTS: Final = 4
TOKENS: Final = 12
SHARE: Final = 0.8
FACTORS: Final = (1.0, 1.5, 2.0, 4.0, 8.0)
QUICK_FACTORS: Final = (1.0, 4.0)
CLIENTS: Final = 8
METRICS: Final = 100
"""Of one client, between two looks at the size of the log."""
CONVERSATIONS: Final = 12
TURNS: Final = 6
"""After so many a conversation is over, and another begins."""
SWAP_SECONDS: Final = 30.0
BLOCK_MB: Final = 8.0
"""nats-server keeps the file in memory that it appends to, and begins another when it has so much."""
MOST_AT_ONCE: Final = 2000
"""Requests without an answer: what comes when there are so many is not sent, and counted."""
FLAT_PERCENT: Final = 5.0
REQUEST_SECONDS: Final = 120.0
PROMPT_WORDS: Final = 30
OVERLOADED: Final = Overloaded.code
BOUNDS: Final = "snapshots.memory_mb = 32\nsnapshots.disk_mb = 64\ntrace_store_mb = 4"
"""Reached within minutes, so that what is flat is flat by these bounds."""
SETTINGS: Final = f"slots = {SLOTS}\ncache_tokens = {SLOTS * CONTEXT_TOKENS}"


class Outcome(NamedTuple):
    """One request."""

    minutes: float
    """When it was answered."""
    seconds: float
    code: str
    """Empty if it was answered, else that of the error."""


class Plan(NamedTuple):
    """How long each part takes."""

    warm_up_seconds: float
    """At the beginning, for which nothing is counted: caches are empty, and step times unknown."""
    calibrate_seconds: float
    soak_seconds: float
    beyond_seconds: float
    """Each load beyond the capacity."""
    factors: Sequence[float]
    sample_seconds: float
    fills_blocks: bool


class Load:
    """Requests of all kinds, drawn by chance."""

    def __init__(self, client: Client, url: str, seed: int) -> None:
        self._client = client
        self._chance = random.Random(seed)
        self._http = {model_id: completions(url, model_id) for model_id in USUAL}
        self._conversations = [self._begun() for _ in range(CONVERSATIONS)]
        self._begins = time.monotonic()
        self.outcomes: list[Outcome] = []
        self.unsent = 0

    def _begun(self) -> tuple[str, Dialogue]:
        return self._chance.choice(USUAL), Dialogue(f"soak {self._chance.random()}", 60)

    def begin(self) -> list[Outcome]:
        """From now on, note outcomes in this list."""
        self._begins, self.outcomes, self.unsent = time.monotonic(), [], 0
        return self.outcomes

    async def closed(self, seconds: float) -> float:
        """Clients that send the next request when the last is answered. Returns answers a second."""
        self.begin()
        with anyio.move_on_after(seconds):
            async with anyio.create_task_group() as clients:
                for _ in range(CLIENTS):
                    clients.start_soon(self._forever)
        return sum(not each.code for each in self.outcomes) / seconds

    async def _forever(self) -> None:
        while True:
            await self.one()

    async def open(self, a_second: float, seconds: float) -> list[Outcome]:
        """Requests that come whether the last are answered or not. Waits until all are answered."""
        outcomes = self.begin()
        until = time.monotonic() + seconds
        running = 0

        async def counted() -> None:
            nonlocal running
            running += 1
            try:
                await self.one()
            finally:
                running -= 1

        async with anyio.create_task_group() as requests:
            while time.monotonic() < until:
                await anyio.sleep(self._chance.expovariate(a_second))
                if running < MOST_AT_ONCE:
                    requests.start_soon(counted)
                else:
                    self.unsent += 1
        return outcomes

    async def swap(self) -> None:
        """Ask for the third model from time to time, until this is cancelled."""
        while True:
            await anyio.sleep(SWAP_SECONDS)
            await self._noted(lambda: self._client.generate_text(THIRD, "Once", max_tokens=TOKENS))

    async def one(self) -> None:
        """A request of some kind, and what became of it."""
        kind = self._chance.random()
        await self._noted(self._turn if kind < 0.4 else self._completion if kind < 0.7 else self._metric)

    async def _noted(self, ask: Callable[[], Awaitable[object]]) -> None:
        asked, code = time.monotonic(), ""
        try:
            with anyio.fail_after(REQUEST_SECONDS):
                await ask()
        except SuiteError as error:
            code = error.code
        except (OSError, AssertionError) as error:  # of a client of HTTP, which asserts that it is answered
            code = OVERLOADED if OVERLOADED in str(error) else repr(error)
        ended = time.monotonic()
        self.outcomes.append(Outcome((ended - self._begins) / 60, ended - asked, code))

    async def _turn(self) -> None:
        """The next turn of a conversation that nobody else goes on with at the moment."""
        model_id, dialogue = self._conversations.pop() if self._conversations else self._begun()
        try:
            await dialogue.turn(ours(self._client, model_id), TOKENS)
        finally:
            over = dialogue.turns >= TURNS
            self._conversations.insert(0, self._begun() if over else (model_id, dialogue))
            del self._conversations[CONVERSATIONS:]

    async def _completion(self) -> None:
        prompt = scene(f"soak {self._chance.random()}", PROMPT_WORDS)
        await self._http[self._chance.choice(USUAL)](prompt, TOKENS).read()

    async def _metric(self) -> None:
        await self._client.log_performance_metric("soak", "latency", self._chance.random())


# --- the parts ----------------------------------------------------------------------------------------------


class Step(NamedTuple):
    """What came of a load beyond the capacity."""

    factor: float
    a_second: float
    outcomes: Sequence[Outcome]
    unsent: int

    @property
    def refused(self) -> int:
        return sum(each.code == OVERLOADED for each in self.outcomes)


async def memory_for_two() -> str:
    """The memory limit, as a setting: for any two of the three models, and not for all."""
    models = (*USUAL, THIRD)
    needs = []
    async with running_service(model_ids=models, model_settings=SETTINGS) as (client, _):
        for model_id in models:
            await client.load_model(model_id)
            model = (await client.get_model_status(model_id)).model
            assert model is not None
            assert model.instance is not None
            needs.append(model.instance.reserved_bytes)
    return f"memory_limit_gb = {(sum(needs) - min(needs) / 2) / 2**30}"


async def fill_blocks(client: Client, resources: Resources) -> None:
    """Have the log, and its copy for readers, go beyond the first block: later ones take no more."""

    async def log_metrics() -> None:
        while resources.look(0).log_mb < 2 * 1.2 * BLOCK_MB:
            for _ in range(METRICS):
                await client.log_performance_metric("soak", "latency", 1.0)

    async with anyio.create_task_group() as clients:
        for _ in range(CLIENTS):
            clients.start_soon(log_metrics)


async def capacity_of(load: Load, plan: Plan) -> float:
    """Answers a second of clients that wait for each answer, with the swaps that come later too."""
    async with background() as tasks:
        tasks.start_soon(load.swap)
        await load.closed(plan.warm_up_seconds)
        return await load.closed(plan.calibrate_seconds)


async def soak(load: Load, capacity: float, plan: Plan, resources: Resources) -> Sequence[Outcome]:
    """Load below the capacity, with swaps, and a look at what it takes."""
    async with background() as tasks:
        tasks.start_soon(resources.watch, plan.sample_seconds)
        tasks.start_soon(load.swap)
        return await load.open(SHARE * capacity, plan.soak_seconds)


async def beyond(load: Load, capacity: float, plan: Plan) -> Sequence[Step]:
    """One load after the other, each when the last is over and answered."""
    steps = []
    for factor in plan.factors:
        outcomes = await load.open(factor * capacity, plan.beyond_seconds)
        steps.append(Step(factor, factor * capacity, outcomes, load.unsent))
    return steps


# --- what is told -------------------------------------------------------------------------------------------


def answered(outcomes: Sequence[Outcome]) -> list[float]:
    """How long each took that was answered, in ms."""
    return sorted(each.seconds * 1000 for each in outcomes if not each.code)


def percentile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)] if ordered else 0.0


def memory_mb(part: str, sample: Sample) -> float:
    return sample.memory_mb[part]


def open_descriptors(part: str, sample: Sample) -> float:
    return float(sample.descriptors[part])


def tell_latency(name: str, outcomes: Sequence[Outcome]) -> None:
    """Percentiles of what was answered, beside the limit of patience."""
    took = answered(outcomes)
    for title, share in (("p50", 0.5), ("p99", 0.99)):
        report(f"{name}.{title}", percentile(took, share), REQUEST_SECONDS * 1000, unit="ms", better="lower")


def tell_soak(outcomes: Sequence[Outcome], samples: Sequence[Sample], events: int) -> None:
    took = answered(outcomes)
    report("soak.answered", len(took), len(outcomes), unit="requests", better="higher")
    tell_latency("soak.latency", outcomes)
    for part in PARTS:
        for name, value in (("memory", memory_mb), ("descriptors", open_descriptors)):
            growth = growth_percent(samples, partial(value, part))
            report(f"soak.{name}.{part}", growth, FLAT_PERCENT, unit="% more", better="lower")
    other = growth_percent(samples, lambda each: each.other_mb)
    report("soak.disk.other", other, FLAT_PERCENT, unit="% more", better="lower")
    log = (samples[-1].log_mb - samples[0].log_mb) * 1e6
    report("soak.disk.log", log / max(events, 1), 0, unit="bytes an event", better="lower")


def tell_beyond(steps: Sequence[Step], capacity: float) -> None:
    held = [step.a_second for step in steps if not step.refused]
    report("soak.held", max(held, default=0.0), capacity, unit="requests/s", better="higher")
    for step in steps:
        name = f"soak.beyond.{step.factor:g}"
        done, asked = len(answered(step.outcomes)), len(step.outcomes) + step.unsent
        report(f"{name}.answered", done, asked, unit="requests", better="higher")
        report(f"{name}.{OVERLOADED}", step.refused, 0, unit="requests", better="lower")
        tell_latency(name, step.outcomes)
        for code, count in Counter(each.code for each in step.outcomes).items():
            assert code in ("", OVERLOADED), f"{count} requests ended with {code}"


def picture(outcomes: Sequence[Outcome], samples: Sequence[Sample]) -> str:
    """The chart of the load below the capacity."""

    def line(value: Callable[[Sample], float]) -> Line:
        return [(each.minutes, value(each)) for each in samples]

    memory = {part: line(partial(memory_mb, part)) for part in PARTS}
    descriptors = {part: line(partial(open_descriptors, part)) for part in PARTS}
    disk = {"log": line(lambda each: each.log_mb), "all else": line(lambda each: each.other_mb)}
    return chart(
        [
            Panel("Memory, MB", memory),
            Panel("Open descriptors", descriptors),
            Panel("Disk, MB", disk),
            Panel("Latency of answers, ms, by half minute", latencies(outcomes)),
        ]
    )


def latencies(outcomes: Sequence[Outcome]) -> dict[str, list[tuple[float, float]]]:
    """The median and the 95th percentile of each half minute."""
    windows: dict[int, list[Outcome]] = {}
    for each in outcomes:
        windows.setdefault(int(each.minutes * 2), []).append(each)
    lines: dict[str, list[tuple[float, float]]] = {"p50": [], "p95": []}
    for window, of_window in sorted(windows.items()):
        took = answered(of_window)
        for name, share in (("p50", 0.5), ("p95", 0.95)):
            lines[name].append((window / 2, percentile(took, share)))
    return lines


# --- all ----------------------------------------------------------------------------------------------------


def node_process() -> psutil.Process:
    """The node that this process has started."""
    return next(each for each in psutil.Process().children() if "serve" in each.cmdline())


async def main(plan: Plan, seed: int, plot: Path) -> None:
    port = free_port()
    settings = f'{await memory_for_two()}\n{BOUNDS}\n[http]\nlisten = "127.0.0.1:{port}"'
    async with running_service(settings, model_ids=(*USUAL, THIRD), model_settings=SETTINGS) as (client, _):
        load, resources = Load(client, f"http://127.0.0.1:{port}", seed), Resources(node_process())
        for model_id in USUAL:
            await client.load_model(model_id)
        if plan.fills_blocks:
            await fill_blocks(client, resources)
        capacity = await capacity_of(load, plan)
        report("soak.capacity", capacity, 0, unit="requests/s", better="higher")
        before = (await client.get_stats()).last_seq
        outcomes = await soak(load, capacity, plan, resources)
        events = (await client.get_stats()).last_seq - before
        tell_soak(outcomes, resources.samples, events)
        await anyio.Path(plot.parent).mkdir(parents=True, exist_ok=True)
        await anyio.Path(plot).write_text(picture(outcomes, resources.samples))
        tell_beyond(await beyond(load, capacity, plan), capacity)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="some seconds of each, under 45 s in all")
    parser.add_argument("--minutes", type=float, default=20.0, help="at 80 %% of the capacity; default: 20")
    parser.add_argument("--seed", type=int, default=1, help="names the chance; default: 1")
    parser.add_argument("--plot", type=Path, default=Path("build/soak.svg"), help="default: build/soak.svg")
    return parser.parse_args()


if __name__ == "__main__":
    given = arguments()
    whole = Plan(60, 90, given.minutes * 60, 20, FACTORS, 2, fills_blocks=True)
    quick = Plan(2, 3, 8, 1, QUICK_FACTORS, 0.5, fills_blocks=False)
    chosen = quick if given.quick else whole
    anyio.run(main, chosen, given.seed, given.plot)
