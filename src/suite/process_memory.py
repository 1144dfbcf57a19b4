"""How much memory a process has, and the processes that it has started: proc_pid_status(5).

Pages of files count apart from the others. The kernel can drop them and read them again, so they are no loss
to other programs; but a model whose weights are dropped answers slowly, so its budget counts them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

_PROC: Final = Path("/proc")
_KIB: Final = 1024


class ProcessMemory(msgspec.Struct, frozen=True, kw_only=True):
    """The resident memory of a process with its helpers, in bytes; 0 where the system does not say."""

    anonymous_bytes: int = 0
    """Memory that is freed only by the end of the process, shared memory included."""
    file_bytes: int = 0
    """Pages of files, such as mapped weights and libraries. Those of helpers, which have no others than the
    process itself, do not count again."""
    peak_bytes: int = 0
    """The most that the process itself had so far, with what its helpers have now."""

    @property
    def resident_bytes(self) -> int:
        """What it has in RAM."""
        return self.anonymous_bytes + self.file_bytes


def process_memory(pid: int, proc: Path = _PROC) -> ProcessMemory:
    """Measure a process and its helpers. All is 0 if it has ended. `proc`: another directory is for tests."""
    own = _fields(proc / f"{pid}/status")
    helpers = sum(_anonymous(each, proc) for each in _descendants(pid, proc))
    anonymous = own.get("RssAnon", 0) + own.get("RssShmem", 0) + helpers
    files = own.get("RssFile", 0)
    peak = max(own.get("VmHWM", 0) + helpers, anonymous + files)
    return ProcessMemory(anonymous_bytes=anonymous, file_bytes=files, peak_bytes=peak)


def give_back_memory() -> None:
    """Give the system back what this process has freed, where the C library can: glibc keeps most of it."""
    import ctypes  # only the processes of models need it

    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(ctypes.c_size_t(0))


def _descendants(pid: int, proc: Path) -> Iterator[int]:
    """The processes that a process has started, and theirs; none where the kernel does not say."""
    for children in proc.glob(f"{pid}/task/*/children"):
        for child in _text(children).split():
            yield int(child)
            yield from _descendants(int(child), proc)


def _anonymous(pid: int, proc: Path) -> int:
    """The anonymous memory of a helper; what it shares with the process that forked it, in equal parts."""
    shares = _fields(proc / f"{pid}/smaps_rollup")
    return shares.get("Pss_Anon", _fields(proc / f"{pid}/status").get("RssAnon", 0))


def _fields(file: Path) -> dict[str, int]:
    """The lines `Name:  12 kB` of a file, in bytes."""
    found = {}
    for line in _text(file).splitlines():
        match line.split():
            case [name, number, "kB"]:
                found[name.removesuffix(":")] = int(number) * _KIB
    return found


def _text(file: Path) -> str:
    try:
        return file.read_text(errors="replace")
    except OSError:
        return ""
