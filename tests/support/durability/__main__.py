"""Rounds of faults under load, in random order, and the table of what came of them."""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
from pathlib import Path

import anyio
from anyio.abc import TaskStatus

from suite.tasks import background
from support.durability.attacks import MEMORY_FAULT, OTHER_FAULTS, PROCESS_FAULTS, Fault
from support.durability.findings import Finding
from support.durability.rounds import Round, do_rounds
from support.durability.table import table


def main() -> int:
    """Run the rounds that were asked for. Returns 1 if a promise was not kept."""
    given = _arguments()
    rounds: list[Round] = []
    wrong: list[Finding] = []
    """At the end, when it was stopped."""
    try:
        anyio.run(_run, given, rounds, wrong)
    finally:
        sys.stdout.write(f"seed {given.seed}\n\n{table(rounds)}\n")
        sys.stdout.writelines(f"after the stop: {finding}\n" for finding in wrong)
    return 1 if wrong or any(each.findings for each in rounds) else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="support.durability", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=100, help="rounds of killed and frozen processes")
    parser.add_argument("--each", type=int, default=5, help="rounds of each other fault")
    parser.add_argument("--minutes", type=float, default=120.0, help="no round begins after so long")
    parser.add_argument("--only", default="", help="only faults whose names have this in them")
    return parser.parse_args()


def _chosen(given: argparse.Namespace) -> list[Fault]:
    """The faults of all rounds, in the order that the seed gives."""
    chance = random.Random(given.seed)
    processes = [each for each in PROCESS_FAULTS if given.only in each.name]
    faults = [chance.choice(processes) for _ in range(given.rounds if processes else 0)]
    faults += [
        each for each in (*OTHER_FAULTS, MEMORY_FAULT) if given.only in each.name for _ in range(given.each)
    ]
    chance.shuffle(faults)
    return faults


async def _run(given: argparse.Namespace, rounds: list[Round], wrong: list[Finding]) -> None:
    def note(done: Round) -> None:
        rounds.append(done)
        recovery = "never well again" if done.recovery_seconds is None else f"{done.recovery_seconds:.2f} s"
        sys.stderr.write(f"{len(rounds):4} {done.fault}: {done.acknowledged} acknowledged, {recovery}\n")

    with tempfile.TemporaryDirectory() as directory:
        async with background() as tasks:
            await tasks.start(_end_in_order, tasks.cancel_scope)
            wrong += await do_rounds(
                Path(directory), _chosen(given), seed=given.seed, on_round=note, seconds=60 * given.minutes
            )


async def _end_in_order(scope: anyio.CancelScope, *, task_status: TaskStatus[None]) -> None:
    """Have SIGTERM and Ctrl-C end the run with its service, its disk and its control group."""
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started()
        async for _ in signals:
            scope.cancel()


if __name__ == "__main__":
    sys.exit(main())
