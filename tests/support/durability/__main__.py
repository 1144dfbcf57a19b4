"""`python -m support.durability`: rounds of faults in random order, and the table of what came of them."""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import anyio

from support.disks import small_disk
from support.durability.attacks import PROCESS_FAULTS, Fault
from support.durability.rounds import Round, Rounds
from support.durability.system import System
from support.durability.table import table

DISK_MEGABYTES = 256


def main() -> int:
    """Run the rounds that were asked for. Returns 1 if a promise was not kept."""
    parser = argparse.ArgumentParser(prog="support.durability", description=__doc__)
    parser.add_argument("--rounds", type=int, default=100, help="rounds of killed and frozen processes")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    chance = random.Random(given.seed)
    faults = [chance.choice(PROCESS_FAULTS) for _ in range(given.rounds)]
    rounds: list[Round] = []
    try:
        anyio.run(_run, faults, given.seed, rounds)
    finally:
        sys.stdout.write(f"seed {given.seed}\n\n{table(rounds)}\n")
    return 1 if any(each.findings for each in rounds) else 0


async def _run(faults: Sequence[Fault], seed: int, rounds: list[Round]) -> None:
    def note(done: Round) -> None:
        rounds.append(done)
        recovery = "never" if done.recovery_seconds is None else f"{done.recovery_seconds:.2f} s"
        sys.stderr.write(f"{len(rounds):4} {done.fault}: {done.acknowledged} acknowledged, {recovery}\n")
        for finding in done.findings:
            sys.stderr.write(f"     {finding}\n")

    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        with small_disk(root / "disk", megabytes=DISK_MEGABYTES) as disk:
            async with System.running(root, disk) as system:
                await Rounds(system, seed).run(faults, note)


if __name__ == "__main__":
    sys.exit(main())
