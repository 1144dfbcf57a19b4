"""What the processes of a service take: memory, descriptors and disk, looked at again and again."""

from __future__ import annotations

import os
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

import anyio
import anyio.to_thread
import psutil

PARTS: Final = ("node", "nats-server", "gateway", "models")
_MB: Final = 1e6


class Sample(NamedTuple):
    """What there was at one moment."""

    minutes: float
    memory_mb: Mapping[str, float]
    """By part: what would be free if its processes ended, so without pages of files."""
    descriptors: Mapping[str, int]
    log_mb: float
    """The store of nats-server: the log, and the copy of it that readers have."""
    other_mb: float
    """All else in the data directory: read models, conversations that left their slot."""


class Resources:
    """Of the service whose node is this process."""

    def __init__(self, node: psutil.Process) -> None:
        command = node.cmdline()
        self._node = node
        self._data_dir = Path(command[command.index("--data-dir") + 1])
        self.samples: list[Sample] = []

    async def watch(self, every_seconds: float) -> None:
        """Look until this is cancelled."""
        began = time.monotonic()
        while True:
            minutes = (time.monotonic() - began) / 60
            self.samples.append(await anyio.to_thread.run_sync(self.look, minutes))
            await anyio.sleep(every_seconds)

    def look(self, minutes: float) -> Sample:
        """What there is now, so many minutes after the beginning."""
        memory: dict[str, float] = defaultdict(float, dict.fromkeys(PARTS, 0.0))
        descriptors: dict[str, int] = defaultdict(int, dict.fromkeys(PARTS, 0))
        for part, process in self._processes():
            with suppress(psutil.Error):  # it has just ended
                memory[part] += process.memory_full_info().uss / _MB
                descriptors[part] += process.num_fds()
        log = _size(self._data_dir / "nats")
        return Sample(minutes, memory, descriptors, log / _MB, (_size(self._data_dir) - log) / _MB)

    def _processes(self) -> Iterator[tuple[str, psutil.Process]]:
        yield "node", self._node
        for child in self._node.children(recursive=True):
            with suppress(psutil.Error):
                command = child.cmdline()
                if any("nats-server" in word for word in command):
                    yield "nats-server", child
                else:
                    yield ("gateway" if "gateway" in command else "models"), child


def _size(directory: Path) -> int:
    total = 0
    for path, _, names in os.walk(directory):
        for name in names:
            with suppress(OSError):
                total += Path(path, name).stat().st_blocks * 512
    return total


def growth_percent(samples: Sequence[Sample], value: Callable[[Sample], float]) -> float:
    """By how much the median of the last fifth is above that of the second: the first fifth warms up."""
    fifth = max(len(samples) // 5, 1)
    before = statistics.median(map(value, samples[fifth : 2 * fifth] or samples))
    after = statistics.median(map(value, samples[-fifth:]))
    return 100 * (after - before) / before if before else 0.0
