"""Landlock: which files a process may open, and which TCP ports it may connect to. See landlock(7).

    ruleset = Ruleset(version())
    ruleset.allow(Path("/usr/lib"), READ)
    ruleset.allow_port(4222)
    ruleset.restrict()

It holds for this thread and for what it starts from then on, and can never be undone. Each version of
Landlock can limit more than the one before: what the kernel's does not know is not limited.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from enum import IntFlag
from pathlib import Path
from typing import Final

from suite.confinement.libc import syscall

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
"""The numbers of its system calls, on every processor."""
_ASK_VERSION: Final = 1
_BENEATH_PATH, _TO_PORT = 1, 2
_CONNECT_TCP, _BIND_TCP = 2, 1
_SCOPES: Final = 3
"""Sends no signals, and connects to no abstract Unix sockets, outside of the domain."""

TCP_VERSION: Final = 4
"""The first version that limits TCP."""
_SCOPES_VERSION: Final = 6


class Right(IntFlag):
    """What can be done with files: include/uapi/linux/landlock.h."""

    EXECUTE = 1 << 0
    WRITE_FILE = 1 << 1
    READ_FILE = 1 << 2
    READ_DIR = 1 << 3
    REMOVE_DIR = 1 << 4
    REMOVE_FILE = 1 << 5
    MAKE_CHAR = 1 << 6
    MAKE_DIR = 1 << 7
    MAKE_REG = 1 << 8
    MAKE_SOCK = 1 << 9
    MAKE_FIFO = 1 << 10
    MAKE_BLOCK = 1 << 11
    MAKE_SYM = 1 << 12
    REFER = 1 << 13
    TRUNCATE = 1 << 14
    IOCTL_DEV = 1 << 15


READ: Final = Right.READ_FILE | Right.READ_DIR
EXECUTE: Final = Right.EXECUTE | Right.READ_FILE
WRITE: Final = (
    READ
    | Right.WRITE_FILE
    | Right.REMOVE_DIR
    | Right.REMOVE_FILE
    | Right.MAKE_DIR
    | Right.MAKE_REG
    | Right.REFER
    | Right.TRUNCATE
)
DEVICE: Final = READ | Right.WRITE_FILE | Right.IOCTL_DEV

_OF_FILES: Final = Right.EXECUTE | Right.WRITE_FILE | Right.READ_FILE | Right.TRUNCATE | Right.IOCTL_DEV
"""The rights that a rule for what is no directory may give."""


def version() -> int:
    """The version of the kernel's Landlock. Raises OSError where it has none, or it is switched off."""
    return syscall(_CREATE_RULESET, 0, 0, _ASK_VERSION)


def absence(error: OSError) -> str:
    """Why there is no Landlock, by the error of `version`."""
    match error.errno:
        case errno.ENOSYS:
            return "the kernel has no Landlock"
        case errno.EOPNOTSUPP:
            return "Landlock is switched off in this kernel: put it into the kernel's option lsm="
        case _:
            return f"Landlock cannot be used: {error.strerror}"


class _Ruleset(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("network", ctypes.c_uint64), ("scopes", ctypes.c_uint64))


class _BeneathPath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("rights", ctypes.c_uint64), ("parent", ctypes.c_int32))


class _ToPort(ctypes.Structure):
    _fields_ = (("rights", ctypes.c_uint64), ("port", ctypes.c_uint64))


class Ruleset:
    """What stays allowed. All else that this version of Landlock knows is forbidden."""

    def __init__(self, version: int) -> None:
        """Raises OSError."""
        self._handled = _known(version)
        self._limits_tcp = version >= TCP_VERSION
        attributes = _Ruleset(
            files=self._handled,
            network=_CONNECT_TCP | _BIND_TCP if self._limits_tcp else 0,
            scopes=_SCOPES if version >= _SCOPES_VERSION else 0,
        )
        self._descriptor = syscall(
            _CREATE_RULESET, ctypes.addressof(attributes), ctypes.sizeof(attributes), 0
        )

    def allow(self, path: Path, rights: Right) -> None:
        """Allow this with a file, or with a directory and all below it. What is not there is left out.

        Raises OSError.
        """
        try:
            parent = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except (OSError, ValueError):
            return
        try:
            if not stat.S_ISDIR(os.fstat(parent).st_mode):
                rights &= _OF_FILES
            rule = _BeneathPath(rights=rights & self._handled, parent=parent)
            syscall(_ADD_RULE, self._descriptor, _BENEATH_PATH, ctypes.addressof(rule), 0)
        finally:
            os.close(parent)

    def allow_port(self, port: int) -> None:
        """Allow TCP connections to this port, on whatever machine. Raises OSError."""
        self._allow_tcp(_CONNECT_TCP, port)

    def allow_any_own_port(self) -> None:
        """Allow that TCP sockets get a port of the system's choice, as clients do. Raises OSError."""
        self._allow_tcp(_BIND_TCP, 0)

    def _allow_tcp(self, right: int, port: int) -> None:
        if self._limits_tcp:
            rule = _ToPort(rights=right, port=port)
            syscall(_ADD_RULE, self._descriptor, _TO_PORT, ctypes.addressof(rule), 0)

    def restrict(self) -> None:
        """Restrict this thread, and what it starts from now on. It must have no new privileges.

        Raises OSError.
        """
        syscall(_RESTRICT_SELF, self._descriptor, 0)
        os.close(self._descriptor)


def _known(version: int) -> Right:
    """The rights that this version knows. A ruleset that handles others is refused."""
    count = {1: 13, 2: 14, 3: 15, 4: 15}.get(version, 16)
    return Right((1 << count) - 1)
