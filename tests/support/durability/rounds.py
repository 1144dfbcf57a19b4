"""Rounds of faults: load, one fault, its recovery, a rest, and the judgement."""

from __future__ import annotations

import logging
import random
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

import anyio

from suite.errors import SuiteError
from support.durability.attacks import Fault, exhaust_memory
from support.durability.checker import Checker, unload_all
from support.durability.findings import Finding
from support.durability.health import HealthWatch, judged_health, sample
from support.durability.history import History
from support.durability.leftovers import at_rest
from support.durability.place import place
from support.durability.system import MODELS, PATIENCE_SECONDS, System
from support.durability.workload import Workload, completed

logger = logging.getLogger("suite.tests")

BEFORE_SECONDS: Final = (0.3, 1.0)
AFTER_SECONDS: Final = 0.3
ATTEMPT_SECONDS: Final = 20.0


class Round(NamedTuple):
    """What came of one round."""

    fault: str
    acknowledged: int
    """Events of which clients were told, in this round, that they are stored."""
    recovery_seconds: float | None
    """From the end of the fault until all was well and served; None: it never was."""
    findings: Sequence[Finding]


class Rounds:
    """Does faults to one system, one after the other."""

    def __init__(self, system: System, seed: int) -> None:
        self.history = History()
        self._system = system
        self._chance = random.Random(seed)
        self._workload = Workload(system, self.history, random.Random(seed + 1))
        self._checker = Checker(system, self.history)
        self._known: set[Finding] = set()
        self._kept: set[str] = set()
        """Patterns of the files that the faults so far have left on purpose."""

    async def run(
        self, faults: Sequence[Fault], on_round: Callable[[Round], None], *, seconds: float = float("inf")
    ) -> None:
        """One round of each of these, as far as time is left. `on_round` is told what came of each."""
        until = anyio.current_time() + seconds
        async with self._workload.running():
            await self._warm_up()
            for fault in faults:
                if anyio.current_time() < until:
                    on_round(await self._round(fault))
            await self._workload.rest()

    async def _warm_up(self) -> None:
        """Some load without a fault: what there is at rest after it is what there may be."""
        self._workload.resume()
        await anyio.sleep(1.5)
        await self._workload.rest()
        await unload_all(self._system)
        await anyio.sleep(0.5)
        self._checker.settle(at_rest(self._system))

    async def _round(self, fault: Fault) -> Round:
        before, refused = len(self.history.acknowledged), len(self.history.refused)
        watch = HealthWatch(self._system)
        self._workload.resume()
        await anyio.sleep(self._chance.uniform(*BEFORE_SECONDS))
        found: list[Finding] = []
        async with watch.running():
            over_at = time.monotonic()
            try:
                over_at = await fault.attack(self._system, self._chance)
            except (AssertionError, TimeoutError) as error:
                found.append(Finding("health", f"{fault.name}: {error!r}"))
            recovered_at = await self._recovered()
        await anyio.sleep(AFTER_SECONDS)
        await self._workload.rest()
        self._kept |= {fault.keeps} - {""}
        found += await self._checker.findings(kept="|".join(self._kept), fact=fault.fact)
        found += judged_health(watch.samples, self.history.refused[refused:], fault.tells)
        if recovered_at is None:
            found.append(Finding("recovery", f"not well {PATIENCE_SECONDS:.0f} s after it"))
        return Round(
            fault.name,
            len(self.history.acknowledged) - before,
            None if recovered_at is None else recovered_at - over_at,
            self._new(found),
        )

    async def _recovered(self) -> float | None:
        """When all was well again: it stores, says that it is well, and each model answers over HTTP."""
        with anyio.move_on_after(PATIENCE_SECONDS):
            await self._until(self._stores)
            for model_id in MODELS:
                await self._until(partial(completed, self._system.port, model_id))
            await self._until(self._is_healthy)
            return time.monotonic()
        return None

    async def _until(self, holds: Callable[[], Awaitable[bool]]) -> None:
        """Ask until it holds; a node that has ended is started again, as a supervisor would."""
        while True:
            await self._system.revive()
            with suppress(SuiteError), anyio.move_on_after(ATTEMPT_SECONDS):
                if await holds():
                    return
            await anyio.sleep(0.02)

    async def _stores(self) -> bool:
        await self._system.client.record_usage(MODELS[0], "probe")
        return True

    async def _is_healthy(self) -> bool:
        return (await sample(self._system)).status == "HEALTHY"

    def _new(self, found: Sequence[Finding]) -> Sequence[Finding]:
        """What was not said of an earlier round: what is lost stays lost."""
        new = [each for each in found if each not in self._known]
        self._known |= set(found)
        for each in new:
            logger.error("%s", each)
        return new


async def do_rounds(
    directory: Path,
    faults: Sequence[Fault],
    *,
    seed: int,
    on_round: Callable[[Round], None],
    seconds: float = float("inf"),
) -> list[Finding]:
    """Start a service below a directory, do a round of each of these faults to it, and stop it in order.

    Faults that this machine does not let a test make are left out. Returns what was wrong with the end.
    """
    with place(directory) as found:
        possible = [each for each in faults if each.attack is not exhaust_memory or found.group is not None]
        async with System.running(directory, found.disk, group=found.group) as system:
            await Rounds(system, seed).run(possible, on_round, seconds=seconds)
            return await stopped(system)


async def stopped(system: System) -> list[Finding]:
    """Stop it in order, and see that nothing of it runs on."""
    code = await system.stop()
    found = [Finding("process", f"{each.pid} is left after the stop") for each in system.processes()]
    return found + [Finding("state", f"the stop had exit code {code}")] * bool(code)


async def keeps_its_promises(directory: Path, faults: Sequence[Fault], *, seed: int) -> None:
    """Fail with all findings, or if nothing was acknowledged in a round: that shows nothing."""
    rounds: list[Round] = []
    at_the_end = await do_rounds(directory, faults, seed=seed, on_round=rounds.append)
    wrong = [f"{each.fault}: {finding}" for each in rounds for finding in each.findings]
    assert not wrong + [str(finding) for finding in at_the_end]
    assert rounds and all(each.acknowledged for each in rounds)


def by_fault(rounds: Sequence[Round]) -> dict[str, list[Round]]:
    """The rounds of each fault, in the order in which they first came."""
    found: dict[str, list[Round]] = defaultdict(list)
    for each in rounds:
        found[each.fault].append(each)
    return found
