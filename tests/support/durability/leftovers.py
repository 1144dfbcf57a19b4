"""What a service at rest must not have any more: processes, descriptors, files, leases, slots."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

import psutil

from suite.errors import SuiteError
from support.durability.findings import Finding
from support.durability.system import Part, System

SPARE_DESCRIPTORS: Final = 6
"""How many more a process may have than when it first was at rest: pools of connections fill up."""
WATCHED: Final[tuple[Part, ...]] = ("node", "nats-server", "gateway")
"""Those that live on while models come and go."""
_UNFINISHED: Final = re.compile(r"\.(new|tmp|part|unfinished)$|(^|/)\.[^/]*\.\d+$")
_STORE: Final = "nats/jetstream/"


class Rest(NamedTuple):
    """What a service had when it was at rest for the first time."""

    descriptors: Mapping[Part, int]
    files: Collection[str]


def at_rest(system: System) -> Rest:
    """What there is now."""
    return Rest({part: len(_descriptors(system, part)) for part in WATCHED}, frozenset(_files(system)))


async def leftovers(system: System, before: Rest, *, kept: str = "") -> list[Finding]:
    """What is left behind in a service of which every model was unloaded.

    `kept`: a pattern of the files that a fault leaves on purpose.
    """
    return [
        *_processes(system),
        *_descriptors_left(system, before),
        *_files_left(system, before, kept),
        *await _leases(system),
    ]


def _processes(system: System) -> list[Finding]:
    parts = system.parts()
    mine = {each.pid for processes in parts.values() for each in processes}
    others = [each for each in system.processes() if each.pid not in mine]
    found = [Finding("process", f"{each.pid} {_command(each)} is left") for each in others]
    if len(parts["actor"]) > 1:  # one stands ready for the next load
        found.append(Finding("process", f"{len(parts['actor'])} processes of models, and no model is loaded"))
    missing = [part for part in WATCHED if len(parts[part]) != 1]
    return found + [Finding("process", f"{len(parts[part])} processes are {part}") for part in missing]


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())[-80:]
    except psutil.Error:
        return "?"


def _descriptors_left(system: System, before: Rest) -> list[Finding]:
    found = []
    for part in WATCHED:
        now = _descriptors(system, part)
        if len(now) > before.descriptors[part] + SPARE_DESCRIPTORS:
            most = ", ".join(f"{count} x {what}" for what, count in Counter(now).most_common(4))
            found.append(
                Finding("descriptor", f"{part} has {len(now)}, {before.descriptors[part]} at first: {most}")
            )
    return found


def _descriptors(system: System, part: Part) -> list[str]:
    """What the descriptors of a part's process are open on."""
    return [
        re.sub(r"\d+", "#", target)
        for process in system.parts()[part]
        for target in _open_files(Path(f"/proc/{process.pid}/fd"))
    ]


def _open_files(directory: Path) -> Iterator[str]:
    with suppress(OSError):  # the process has just ended
        for descriptor in directory.iterdir():
            with suppress(OSError):  # it was just closed
                yield str(descriptor.readlink())


def _files_left(system: System, before: Rest, kept: str) -> list[Finding]:
    """Files that are of no kind that was there at first; unfinished ones are never to be there at rest."""
    known = {_kind(name) for name in before.files}
    return [
        Finding("file", f"{name} is left")
        for name in _files(system)
        if not (kept and re.search(kept, name))
        and (_kind(name) not in known or _UNFINISHED.search(name))
        and not name.startswith(_STORE)
    ]


def _kind(name: str) -> str:
    """A name without what differs from one file to the next: numbers, digests, and SQLite's own endings."""
    return re.sub(r"[0-9a-f]{8,}|\d+", "#", name).removesuffix("-wal").removesuffix("-shm")


def _files(system: System) -> list[str]:
    """All files of the data directory and the temporary one, by their relative paths."""
    roots = (system.data_dir, system.temporary)
    return sorted(
        str(Path(directory, name).relative_to(root))
        for root in roots
        for directory, _, names in os.walk(root)
        for name in names
    )


async def _leases(system: System) -> list[Finding]:
    try:
        status = await system.client.get_model_status()
        stats = await system.client.get_stats()
    except SuiteError as error:
        return [Finding("lease", f"the status is not told: {error.code}")]
    models = status.models or {}
    return [
        *(
            Finding("lease", f"generation {each.generation_id} is {each.state}")
            for each in status.generations
        ),
        *(Finding("lease", f"{id} is {each.status}") for id, each in models.items() if each.loaded),
        *(Finding("lease", f"{each.waiting} wait for {id}") for id, each in models.items() if each.waiting),
        *([Finding("lease", f"{stats.generations_running} run")] if stats.generations_running else []),
        *(
            [Finding("lease", f"{stats.memory_reserved_bytes} bytes are reserved, and nothing is loaded")]
            if stats.memory_reserved_bytes
            else []
        ),
    ]
