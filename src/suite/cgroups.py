"""The control groups of this process, and what they limit it to (cgroups(7)).

A process is in one group of each hierarchy, and is limited by that group and by all groups above it. Version
2 has one hierarchy. In version 1 each controller has its own, and a machine may use both versions at the same
time. A container may see only the lower part of a hierarchy. What cannot be read counts as no limit.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Final, NamedTuple

_V2: Final = ""
"""Stands for the name of a controller: in version 2 all are in one hierarchy without a name."""


_CACHES: Final = ("inactive_file", "active_file", "slab_reclaimable")
_CACHES_V1: Final = ("total_inactive_file", "total_active_file")
"""The lines of memory.stat for what the kernel drops before it refuses memory."""


class Limit(NamedTuple):
    """A limit that one group sets."""

    value: float
    """CPUs, or bytes."""
    file: Path
    """The file that says so."""


class Cgroups:
    """The groups of this process: where they are is read once, what they say at each call."""

    def __init__(self, root: Path = Path("/")) -> None:
        """`root`: the directory that has `proc` and `sys`; another one than `/` is for tests."""
        mounts = list(_mounts(_text(root / "proc/self/mountinfo")))
        own = dict(_memberships(_text(root / "proc/self/cgroup")))

        def groups(controller: str) -> tuple[Path, ...]:
            found = _groups(own[controller], controller, mounts) if controller in own else ()
            return tuple(root / str(each).lstrip("/") for each in found)

        # The directory of the own group, and of those above it.
        self._unified, self._cpu, self._memory = groups(_V2), groups("cpu"), groups("memory")
        self._machine_counts = root / "proc/vmstat"

    def cpu_quotas(self) -> Iterator[Limit]:
        """How many CPUs' worth of time the process may use, by each group that limits it."""
        for group in self._unified:
            quota, _, period = _text(group / "cpu.max").partition(" ")
            yield from _quota(quota, period, group / "cpu.max")
        for group in self._cpu:
            quota, period = _text(group / "cpu.cfs_quota_us"), _text(group / "cpu.cfs_period_us")
            yield from _quota(quota, period, group / "cpu.cfs_quota_us")

    def memory_limits(self) -> Iterator[Limit]:
        """How many bytes the process may use, by each group that limits it.

        `memory.high` counts too: over it a process is slowed down so much that it hardly goes on.
        """
        for group in self._unified:
            for name in ("memory.max", "memory.high"):
                yield from _bytes(_text(group / name), group / name)
        for group in self._memory:
            yield from _bytes(_text(group / "memory.limit_in_bytes"), group / "memory.limit_in_bytes")
            # This one also has the limits of the groups that a container cannot see.
            yield from _bytes(
                _field(group / "memory.stat", "hierarchical_memory_limit"), group / "memory.stat"
            )

    def memory_headrooms(self) -> Iterator[Limit]:
        """How many bytes more the processes of each group that limits its memory may use.

        Page cache counts as free: the kernel drops it before it refuses memory.
        """
        for group in self._unified:
            usage = _text(group / "memory.current")
            for limit in ("memory.max", "memory.high"):
                yield from _headroom(group, limit, usage, _CACHES)
        for group in self._memory:
            usage = _text(group / "memory.usage_in_bytes")
            yield from _headroom(group, "memory.limit_in_bytes", usage, _CACHES_V1)

    def out_of_memory_kills(self) -> int:
        """How many processes of the own group the kernel has killed for lack of memory so far.

        In a group without a count, such as the one at the top, it is the count of the whole machine.
        """
        files = [group / "memory.events" for group in self._unified[:1]]
        files += [group / "memory.oom_control" for group in self._memory[:1]]
        counts = [count for file in (*files, self._machine_counts) if (count := _field(file, "oom_kill"))]
        return int(counts[0]) if counts and counts[0].isdecimal() else 0


class _Mount(NamedTuple):
    """Where a hierarchy can be read."""

    controllers: frozenset[str]
    top: PurePosixPath
    """The group that is mounted: the top of what can be seen."""
    place: PurePosixPath


def _memberships(text: str) -> Iterator[tuple[str, PurePosixPath]]:
    """The path of the own group, by controller, from /proc/self/cgroup."""
    for line in text.splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        for controller in controllers.split(","):
            yield controller, PurePosixPath(path)


def _mounts(text: str) -> Iterator[_Mount]:
    """The mounted hierarchies, from /proc/self/mountinfo (proc_pid_mountinfo(5))."""
    for line in text.splitlines():
        first, _, last = line.partition(" - ")
        mount, kind = first.split(), last.split()
        if len(mount) < 5 or len(kind) < 3 or kind[0] not in ("cgroup", "cgroup2"):
            continue
        controllers = frozenset([_V2] if kind[0] == "cgroup2" else kind[2].split(","))
        yield _Mount(controllers, PurePosixPath(_unescaped(mount[3])), PurePosixPath(_unescaped(mount[4])))


def _groups(path: PurePosixPath, controller: str, mounts: Iterable[_Mount]) -> Iterator[PurePosixPath]:
    """The directories of the group with this path, and of those above it, as far as they can be seen."""
    fitting = [mount for mount in mounts if controller in mount.controllers]
    # The groups that are mounted do not limit a process which was moved to one beside them.
    if ".." in path.parts or not fitting:
        return
    mount = next((each for each in fitting if path.is_relative_to(each.top)), fitting[0])
    # A mount of another namespace has another idea of paths; its top is above this process all the same.
    below = path.relative_to(mount.top) if path.is_relative_to(mount.top) else PurePosixPath()
    for each in (below, *below.parents):
        yield mount.place / each


def _quota(quota: str, period: str, file: Path) -> Iterator[Limit]:
    if quota.isdecimal() and period.isdecimal() and int(quota) and int(period):
        yield Limit(int(quota) / int(period), file)


def _bytes(text: str, file: Path) -> Iterator[Limit]:
    if text.isdecimal() and int(text):
        yield Limit(int(text), file)


def _headroom(group: Path, limit: str, usage: str, reclaimable: Iterable[str]) -> Iterator[Limit]:
    """What a group leaves of its limit, if it has one and says what it uses."""
    if not usage.isdecimal():
        return
    free = [_field(group / "memory.stat", name) for name in reclaimable]
    cache = sum(int(each) for each in free if each.isdecimal())
    for bound in _bytes(_text(group / limit), group / limit):
        yield Limit(max(0, bound.value - int(usage) + cache), bound.file)


def _field(file: Path, name: str) -> str:
    """The value of a line `name value`; empty if there is none."""
    lines = (line.split() for line in _text(file).splitlines())
    return next((words[1] for words in lines if len(words) == 2 and words[0] == name), "")


def _text(file: Path) -> str:
    """What stands in a file; nothing if it cannot be read."""
    try:
        return file.read_text(errors="surrogateescape").strip()
    except OSError:
        return ""


def _unescaped(text: str) -> str:
    """A path of mountinfo, in which space, tab, newline and backslash are written as octal numbers."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)
