"""The units of `deploy/systemd`, and a process under the limits of one."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from ctypes.util import find_library
from pathlib import Path

UNITS = Path(__file__).parents[2] / "deploy" / "systemd"
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050001
"""Of libseccomp: let it through, and answer EPERM."""
_SET_MDWE, _SET_NO_NEW_PRIVS = 65, 38
"""Of prctl(2)."""


def values(unit: str, name: str) -> list[str]:
    """What a unit sets a name to, each time."""
    lines = (UNITS / unit).read_text().splitlines()
    return [line.partition("=")[2] for line in lines if line.startswith(f"{name}=")]


def analyzed(*arguments: str) -> str:
    """What `systemd-analyze` says; it must succeed."""
    done = subprocess.run(
        ["systemd-analyze", *arguments, "--no-pager"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def system_calls(unit: str) -> set[str]:
    """The names of the system calls that a unit allows."""
    return set().union(
        *(_expanded(word) for line in values(unit, "SystemCallFilter") for word in line.split())
    )


def _expanded(word: str) -> set[str]:
    if not word.startswith("@"):
        return {word}
    lines = map(str.strip, analyzed("syscall-filter", word).splitlines()[1:])
    return set().union(*(_expanded(line) for line in lines if line and not line.startswith("#")))


def restrict(names: set[str]) -> None:
    """Take from this process what a unit takes: other system calls, code that it wrote, privileges."""
    library = find_library("seccomp")
    assert library is not None, "install libseccomp2"
    seccomp, libc = ctypes.CDLL(library), ctypes.CDLL(None)
    seccomp.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(seccomp.seccomp_init(_REFUSE))
    for name in names:
        number = seccomp.seccomp_syscall_resolve_name(name.encode())
        if number >= 0:  # else it is of another processor
            assert seccomp.seccomp_rule_add(context, _ALLOW, number, 0) == 0
    libc.prctl(_SET_MDWE, 1, 0, 0, 0)  # from Linux 6.3 on
    assert libc.prctl(_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
    assert seccomp.seccomp_load(context) == 0


if __name__ == "__main__":
    restrict(system_calls(sys.argv[1]))
    os.execvp(sys.argv[2], sys.argv[2:])
