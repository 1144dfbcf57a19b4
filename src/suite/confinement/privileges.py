"""What a process may do to the system: capabilities(7), and prctl(2)."""

from __future__ import annotations

from typing import Final

from suite.confinement.libc import capabilities, prctl, set_capabilities

_SET_DUMPABLE, _SET_NO_NEW_PRIVILEGES, _AMBIENT = 4, 38, 47
_CLEAR_ALL: Final = 4
_FILES_OF_ALL: Final = 1 << 1 | 1 << 2
"""CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH. A service that runs as root may have model files and a data
directory of another user."""


def drop() -> None:
    """Gain no privileges by starting programs, and keep none of root's but those on files. Raises OSError."""
    prctl(_SET_NO_NEW_PRIVILEGES, 1)
    prctl(_AMBIENT, _CLEAR_ALL)
    effective, permitted, *_ = capabilities()
    set_capabilities((effective & _FILES_OF_ALL, permitted & _FILES_OF_ALL, 0, 0, 0, 0))


def hide_memory() -> None:
    """Be readable to no other process of this user, and leave no core file. Raises OSError.

    A program that is started from here is readable again.
    """
    prctl(_SET_DUMPABLE, 0)
