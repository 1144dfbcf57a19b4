"""Seccomp: which system calls a process may make, and with which arguments. See seccomp(2).

    install([Forbidden("ptrace"), Forbidden("socket", unless=OneOf(0, (AF_INET, AF_INET6)))])

A forbidden call fails with EPERM. What is not named stays allowed: the drivers of GPUs and the C library use
what nobody could list. A filter holds for all threads of the process and for what it starts, and can never
be undone. It is a program of BPF that the kernel runs before each call (bpf(4)); for calls that it always
allows, the kernel has a table, so that they cost nothing.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from suite.confinement.libc import syscall
from suite.confinement.system_calls import AUDIT_ARCHITECTURES, NUMBERS, SECCOMP, X32_BIT

_SET_FILTER, _ASK_ACTION = 1, 2
_ALL_THREADS: Final = 1 << 0
_SPECULATION: Final = 1 << 2
"""Without it, kernels before 5.16 slow the process down against attacks by what it computes."""

_ALLOW, _ERROR = 0x7FFF0000, 0x00050000
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _AND, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
"""Instructions: load a word of the call; jump if it is this, at least this, or has one of these bits; mask
it; end."""
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16
"""Where the words of `struct seccomp_data` are."""


class OneOf(NamedTuple):
    """An argument that is one of some values, after it was masked."""

    argument: int
    values: tuple[int, ...]
    mask: int = 0xFFFFFFFF


class Null(NamedTuple):
    """An argument that is no address."""

    argument: int


class Bits(NamedTuple):
    """An argument that has one of some bits."""

    argument: int
    bits: int


class Forbidden(NamedTuple):
    """A call that fails: always, or with some arguments only."""

    name: str
    unless: OneOf | Null | None = None
    when: Bits | None = None
    error: int = errno.EPERM


def absence() -> str | None:
    """Why system calls cannot be filtered here; None: they can."""
    machine = os.uname().machine
    if sys.maxsize < 2**32 or machine not in NUMBERS:
        return f"the system calls of this processor ({machine}) are not known"
    action = ctypes.c_uint32(_ERROR)
    try:
        syscall(NUMBERS[machine][SECCOMP], _ASK_ACTION, 0, ctypes.addressof(action))
    except OSError as error:
        return f"filters of system calls (seccomp) cannot be used: {error.strerror}"
    return None


def install(forbidden: Iterable[Forbidden]) -> None:
    """Forbid these calls from now on. The process must have no new privileges. Raises OSError."""
    machine = os.uname().machine
    program = list(_program(forbidden, NUMBERS[machine], AUDIT_ARCHITECTURES[machine]))
    instructions = (_Instruction * len(program))(*program)
    filter = _Filter(len(program), ctypes.addressof(instructions))
    flags = _ALL_THREADS | _SPECULATION
    syscall(NUMBERS[machine][SECCOMP], _SET_FILTER, flags, ctypes.addressof(filter))


class _Instruction(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_uint16),
        ("if_true", ctypes.c_uint8),
        ("if_false", ctypes.c_uint8),
        ("value", ctypes.c_uint32),
    )


class _Filter(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))


def _program(
    forbidden: Iterable[Forbidden], numbers: Mapping[str, int], architecture: int
) -> Iterator[_Instruction]:
    """Instructions that end with an error for what is forbidden, and else with leave."""
    refuse = _Instruction(_RETURN, 0, 0, _ERROR | errno.ENOSYS)
    yield _Instruction(_LOAD, 0, 0, _ARCHITECTURE)
    yield _Instruction(_EQUAL, 1, 0, architecture)
    yield refuse  # calls of 32-bit programs, which have other numbers
    yield _Instruction(_LOAD, 0, 0, _NUMBER)
    yield _Instruction(_AT_LEAST, 0, 1, X32_BIT)
    yield refuse
    for each in forbidden:
        if each.name in numbers:  # old calls exist on some processors only
            checks = _checks(each)
            yield _Instruction(_EQUAL, 0, len(checks), numbers[each.name])
            yield from checks
    yield _Instruction(_RETURN, 0, 0, _ALLOW)


def _checks(forbidden: Forbidden) -> Sequence[_Instruction]:
    """What follows once the number is that of the call. At the end the number is loaded again."""
    refuse = _Instruction(_RETURN, 0, 0, _ERROR | forbidden.error)
    again = _Instruction(_LOAD, 0, 0, _NUMBER)
    if forbidden.unless is not None:
        return [*_unless(forbidden.unless), refuse, again]
    if forbidden.when is not None:
        has_bits = _Instruction(_ANY_BIT, 0, 1, forbidden.when.bits)
        return [_argument(forbidden.when.argument), has_bits, refuse, again]
    return [refuse]


def _unless(allowed: OneOf | Null) -> Iterator[_Instruction]:
    """Skip the refusal that follows if the argument is one of the values, or no address."""
    if isinstance(allowed, Null):
        yield _argument(allowed.argument)
        yield _Instruction(_EQUAL, 0, 2, 0)
        yield _argument(allowed.argument, half=1)
        yield _Instruction(_EQUAL, 1, 0, 0)
        return
    yield _argument(allowed.argument)
    yield _Instruction(_AND, 0, 0, allowed.mask)
    for left, value in zip(range(len(allowed.values), 0, -1), allowed.values, strict=True):
        yield _Instruction(_EQUAL, left, 0, value)


def _argument(number: int, half: int = 0) -> _Instruction:
    """Load half of an argument: the lower one, of which alone the kernel reads numbers, or the upper one."""
    return _Instruction(_LOAD, 0, 0, _ARGUMENTS + 8 * number + 4 * half)
