"""``python -m suite`` is ``suite``: the command line as a process."""

from __future__ import annotations

import os
import signal
import sys
from typing import NoReturn

_SIGNALLED = 128
_INTERRUPTED = _SIGNALLED + 2


def run() -> NoReturn:
    """Run the command line and end the process with its exit code."""
    try:
        from suite.cli.main import main  # in here, since Ctrl-C may come while modules are imported

        code = main()
        if code > _SIGNALLED:
            _end(code)
    except KeyboardInterrupt:
        _end(_INTERRUPTED)
    sys.exit(code)


def _end(code: int) -> NoReturn:
    """End the process at once; another Ctrl-C changes nothing any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A second Ctrl-C may have left threads behind that the interpreter would wait for.
    os._exit(code)


if __name__ == "__main__":
    run()
