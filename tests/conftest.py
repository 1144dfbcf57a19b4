"""What holds for all tests."""

from __future__ import annotations

import signal

# What a shell without job control starts in the background ignores Ctrl-C; so would all that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)
