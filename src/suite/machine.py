"""What this process may use of the machine: cores, and memory.

A container, a service manager or `taskset` may give a process less than the machine has. Each figure says
what sets it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import msgspec

from suite.cgroups import Cgroups
from suite.units import size

MEMORY_SHARE: Final = 0.8
"""The part of the memory that models may use by default: the node, NATS and others need some too."""

_ROOT: Final = Path("/")


class Bound(msgspec.Struct, frozen=True):
    """How much of something the process may use."""

    value: int
    origin: str
    """What sets it, for people."""


class Processors(msgspec.Struct, frozen=True):
    """What there is to compute with."""

    cores: Bound
    cpus: Bound
    """At least as many as cores: two threads of one core are two CPUs."""

    def threads(self, configured: int | None) -> int:
        """The most threads of one model: one a core unless configured, and never more than CPUs."""
        return self.cores.value if configured is None else min(configured, self.cpus.value)


def processors(root: Path = _ROOT, affinity: Iterable[int] | None = None) -> Processors:
    """The cores and the CPUs that this process may use; for the arguments see `cores`."""
    return Processors(cores(root, affinity), cpus(root, affinity))


def cores(root: Path = _ROOT, affinity: Iterable[int] | None = None) -> Bound:
    """How many threads can compute at the same time: physical cores, within the affinity and the CPU quota.

    Two threads of one core compute no faster than one. With more threads than the quota has CPUs, all of them
    wait at each step for one that has been stopped, so a part of a CPU does not count (ADR 28).
    `root` is the directory that has `proc` and `sys`, `affinity` the CPUs that the process may run on.
    """
    allowed = _affinity() if affinity is None else affinity
    physical = (Bound(_count_cores(root, cpus), "physical cores") for cpus in _online(root))
    return _least(root, *physical, Bound(_count_cores(root, allowed), "affinity"))


def cpus(root: Path = _ROOT, affinity: Iterable[int] | None = None) -> Bound:
    """How many threads can run at the same time: as `cores`, but two of one core count as two."""
    allowed = _affinity() if affinity is None else affinity
    return _least(root, Bound(len(set(allowed)), "affinity"))


def memory(root: Path = _ROOT) -> Bound:
    """How many bytes of memory the process may use: those of the machine, within the limits of its cgroups.

    Page cache is not taken off: the kernel frees it when memory is needed.
    """
    bounds = [
        Bound(_host_memory(root), "the memory of this machine"),
        *(Bound(int(limit.value), f"the limit in {limit.file}") for limit in Cgroups(root).memory_limits()),
    ]
    return min(bounds, key=lambda bound: bound.value)


def available_memory(root: Path = _ROOT, cgroups: Cgroups | None = None) -> Bound | None:
    """How many bytes more this process and its children could have now; None if the system does not say.

    Page cache counts as free, that of mapped weights too: the kernel drops it before it refuses memory.
    `cgroups` are those of this process, for whoever asks often: to find them takes a millisecond.
    """
    free = _meminfo(root, "MemAvailable")
    bounds = [] if free is None else [Bound(free, "the memory of this machine")]
    bounds += [
        Bound(int(left.value), f"the limit in {left.file}")
        for left in (cgroups or Cgroups(root)).memory_headrooms()
    ]
    return min(bounds, key=lambda bound: bound.value, default=None)


def default_memory_limit(root: Path = _ROOT) -> Bound:
    """The memory limit for all loaded models where none is configured, in bytes."""
    whole = memory(root)
    return Bound(int(whole.value * MEMORY_SHARE), f"{MEMORY_SHARE} of {whole.origin}")


def warning_about_limit(limit_bytes: int, whole: Bound, setting: str = "memory_limit_gb") -> str | None:
    """What is wrong with a configured limit that is more than there is; None if nothing is."""
    if limit_bytes <= whole.value:
        return None
    return (
        f"{setting} is {size(limit_bytes)}, but {whole.origin} is {size(whole.value)}: "
        "models get what is there, and a limit as large as that lets the kernel kill them"
    )


def _least(root: Path, *bounds: Bound) -> Bound:
    """The least of these bounds and the CPU quotas, at least 1."""
    quotas = (Bound(int(limit.value), f"CPU quota in {limit.file}") for limit in Cgroups(root).cpu_quotas())
    least = min((*bounds, *quotas), key=lambda bound: bound.value)
    return Bound(max(1, least.value), least.origin)


def _affinity() -> Iterable[int]:
    """The CPUs that the main thread of this process may run on, by number, whichever thread asks."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(os.getpid())
    return range(os.cpu_count() or 1)


def _online(root: Path) -> Iterator[list[int]]:
    """The CPUs of the machine, by number; nothing if it does not say."""
    names = (path.parent.name for path in root.glob("sys/devices/system/cpu/cpu[0-9]*/topology"))
    if cpus := [int(name[3:]) for name in names if re.fullmatch(r"cpu\d+", name)]:
        yield cpus


def _count_cores(root: Path, cpus: Iterable[int]) -> int:
    """How many cores these CPUs are: several that share one are one."""
    return len({_siblings(root / f"sys/devices/system/cpu/cpu{cpu}/topology") or str(cpu) for cpu in cpus})


def _siblings(topology: Path) -> str:
    """The CPUs of one core, as Linux lists them; empty if it does not say."""
    for name in (
        "core_cpus_list",
        "thread_siblings_list",
    ):  # the second is the name in older versions of Linux
        try:
            return (topology / name).read_text().strip()
        except (OSError, ValueError):
            continue
    return ""


def _host_memory(root: Path) -> int:
    """The memory of the machine; of an LXC container where lxcfs says so in /proc/meminfo."""
    total = _meminfo(root, "MemTotal")
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if total is None else total


def _meminfo(root: Path, name: str) -> int | None:
    """A line of /proc/meminfo, in bytes; None if there is none."""
    try:
        found = re.search(rf"^{name}: +(\d+) kB$", (root / "proc/meminfo").read_text(), re.MULTILINE)
    except (OSError, ValueError):
        return None
    return int(found[1]) << 10 if found else None
