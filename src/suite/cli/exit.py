"""The exit codes of the command line, for scripts."""

from __future__ import annotations

from typing import Final

from suite.errors import (
    AccessDenied,
    HubUnreachable,
    InvalidConfiguration,
    LogGone,
    NodeLost,
    NoService,
    NotInstalled,
    RequestTimeout,
    SuiteError,
    Unavailable,
    UnknownOutcome,
)

REFUSED: Final = 1
USAGE: Final = 2
UNREACHABLE: Final = 3
UNCERTAIN: Final = 4
INTERNAL: Final = 70
"""A bug of the suite: EX_SOFTWARE of sysexits.h."""


def exit_code(error: SuiteError) -> int:
    """The exit code for an error."""
    match error:
        case LogGone() | AccessDenied():
            return REFUSED
        case Unavailable() | NoService() | HubUnreachable():
            return UNREACHABLE
        case RequestTimeout() | UnknownOutcome() | NodeLost():
            return UNCERTAIN
        case InvalidConfiguration() | NotInstalled():
            return USAGE
        case _:
            return REFUSED
