"""Control groups: as files of a recorded tree, and real ones where the machine lets a test make them."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest


def written(root: Path, files: dict[str, str]) -> Path:
    """A tree with these files."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


V2_MOUNT = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"


def v1_mount(controllers: str, top: str = "/") -> str:
    return f"35 31 0:32 {top} /sys/fs/cgroup/{controllers} rw,relatime - cgroup cgroup rw,{controllers}\n"


def topology(cores: dict[str, list[int]]) -> dict[str, str]:
    """The files that say which CPUs are on one core."""
    place = "sys/devices/system/cpu/cpu{}/topology/core_cpus_list"
    return {place.format(cpu): f"{siblings}\n" for siblings, cpus in cores.items() for cpu in cpus}


@contextmanager
def real_cgroup(controller: str, limits: dict[str, str]) -> Iterator[Path]:
    """A group of version 1 below this process's own, with these limits. Skips where none can be made."""
    own = next(
        (
            line.split(":", 2)[2]
            for line in Path("/proc/self/cgroup").read_text().splitlines()
            if controller in line.split(":")[1].split(",")
        ),
        None,
    )
    if own is None:
        pytest.skip(f"this machine has no controller {controller} of cgroup v1")
    group = Path(f"/sys/fs/cgroup/{controller}{own}", f"suite-test-{uuid.uuid4().hex[:8]}")
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no cgroup can be made here: {error}")
    try:
        for name, value in limits.items():
            (group / name).write_text(value)
        yield group
    finally:
        with suppress(OSError):
            group.rmdir()


def joining(*groups: Path) -> list[str]:
    """What to put before a command, for its process to be in these groups."""
    joins = "; ".join(f"echo $$ > '{os.fspath(group)}/cgroup.procs'" for group in groups)
    return ["sh", "-c", f'{joins}; exec "$@"', "sh"]
