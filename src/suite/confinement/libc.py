"""System calls for which the standard library has no function. Linux only."""

from __future__ import annotations

import ctypes
import os
from functools import cache


def syscall(number: int, *arguments: int) -> int:
    """Make a system call by its number. Pointers are passed as addresses. Raises OSError."""
    return _checked(_libc().syscall(number, *_padded(arguments, 6)))


def prctl(option: int, *arguments: int) -> int:
    """Change or ask something of this process: prctl(2). Raises OSError."""
    return _checked(_libc().prctl(option, *_padded(arguments, 4)))


def capabilities() -> tuple[int, ...]:
    """What this thread may, as the words of `capset`. Raises OSError."""
    words = _Words()
    _checked(_libc().capget(ctypes.byref(_header()), ctypes.byref(words)))
    return tuple(words)


def set_capabilities(words: tuple[int, ...]) -> None:
    """Change what this thread may: effective, permitted and inheritable, 32 bits each, then the next 32.

    Raises OSError.
    """
    _checked(_libc().capset(ctypes.byref(_header()), ctypes.byref(_Words(*words))))


_Words = ctypes.c_uint32 * 6


def _header() -> ctypes.Array[ctypes.c_uint32]:
    version_3, this_thread = 0x20080522, 0
    return (ctypes.c_uint32 * 2)(version_3, this_thread)


def _padded(arguments: tuple[int, ...], count: int) -> list[ctypes.c_ulong]:
    """As whole words: prctl refuses what stands in those that it does not use."""
    return [ctypes.c_ulong(each) for each in (*arguments, *(0,) * (count - len(arguments)))]


@cache
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    return libc


def _checked(result: int) -> int:
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result
