"""The standard streams, in whatever state the command was started: closed, full, or not UTF-8."""

from __future__ import annotations

import errno
import io
import os
import sys
import unicodedata
from contextlib import suppress
from typing import Final

import click

_STDIN: Final = 0
_STDOUT: Final = 1
_STDERR: Final = 2

_CONTROL_CATEGORIES: Final = frozenset(("Cc", "Cs"))
_CONTROL_BIDI: Final = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
_OF_WRITING: Final = frozenset((errno.EBADF, errno.EFBIG, errno.EIO, errno.ENOSPC, errno.EDQUOT))
_SEPARATORS: Final = "\u2028\u2029"


def prepare() -> None:
    """Make the standard streams usable before the first of them is used.

    A closed stdin reads as empty and a closed stderr drops what is written, as a closed stdout does not:
    output that was asked for and cannot be written is an error. What an encoding does not have is written as
    `\\xe4`; what was read must be text in it.
    """
    # Descriptors that stay free would be given to the next files and sockets, and be written to as streams.
    if sys.stdin is None:
        _open_null(_STDIN, os.O_RDONLY)
        sys.stdin = open(_STDIN, closefd=False)  # noqa: SIM115 - open as long as the process is
    if sys.stdout is None:
        _open_null(_STDOUT, os.O_RDONLY)
        sys.stdout = open(_STDOUT, "w", closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        _open_null(_STDERR, os.O_WRONLY)
        sys.stderr = open(_STDERR, "w", closefd=False)  # noqa: SIM115
    for stream, errors in (
        (sys.stdin, "strict"),
        (sys.stdout, "backslashreplace"),
        (sys.stderr, "backslashreplace"),
    ):
        if isinstance(stream, io.TextIOWrapper) and stream.errors != errors:
            stream.reconfigure(errors=errors)


def _open_null(descriptor: int, flags: int) -> None:
    opened = os.open(os.devnull, flags)
    if opened != descriptor:
        os.dup2(opened, descriptor)
        os.close(opened)


def flush() -> None:
    """Write what is buffered for stdout. Raises OSError when it cannot be written."""
    sys.stdout.flush()


def discard_output() -> None:
    """Drop what is still buffered for stdout and stderr, so that writing it does not fail again at exit."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            with suppress(OSError):  # a stream of a test has no descriptor
                _open_null(stream.fileno(), os.O_WRONLY)


def cannot_be_written(error: OSError) -> bool:
    """Whether an error is one of writing to a stream that is full, closed or gone."""
    return error.filename is None and error.errno in _OF_WRITING


def controls(letter: str) -> bool:
    """Whether a letter acts on the terminal or on the order of the text, instead of being a part of it.

    Spaces of all kinds are text, and so are the joiners of emoji and of Indic and Arabic script.
    """
    return (
        unicodedata.category(letter) in _CONTROL_CATEGORIES
        or letter in _CONTROL_BIDI
        or letter in _SEPARATORS
    )


def harmless(text: str, *, instead: str = "\ufffd") -> str:
    """A text of which nothing can control a terminal, as names of files and what models say could."""
    return "".join(instead if controls(letter) and letter not in "\n\t" else letter for letter in text)


def not_text(error: UnicodeDecodeError) -> click.UsageError:
    """The error for standard input that is not text."""
    byte = error.object[error.start]
    return click.UsageError(
        f"standard input is not {error.encoding.upper()} text (byte 0x{byte:02x} at position {error.start})"
    )


def read_all() -> str:
    """Read standard input to its end. Raises UsageError when it is not text."""
    try:
        return sys.stdin.read()
    except UnicodeDecodeError as error:
        raise not_text(error) from None
