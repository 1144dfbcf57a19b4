"""``python -m suite`` is ``suite``: the command line as a process."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

_SIGNALLED = 128
_INTERRUPTED = _SIGNALLED + 2


def run() -> NoReturn:
    """Run the command line and end the process with its exit code."""
    try:
        from suite.cli.main import main  # in here, since Ctrl-C may come while modules are imported

        code = main()
    except KeyboardInterrupt:
        code = _INTERRUPTED
    if code > _SIGNALLED:
        # A second Ctrl-C may have left threads behind that the interpreter would wait for.
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    run()
