"""The last export of spans, or of metrics, when a process ends."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from suite.telemetry.collector import Collector

SHUTDOWN_SECONDS: Final = 0.7
"""How long it may take; what is not exported by then is lost."""
_POLL_SECONDS: Final = 0.01


def finish(shutdown: Callable[[], None], collector: Collector | None) -> None:
    """Run the shutdown of a provider, or of a part of one, which exports what it still has.

    Waits up to `SHUTDOWN_SECONDS`, but not for a collector that is known to be away. None: it needs none.
    """
    thread = threading.Thread(target=shutdown, name="telemetry-end", daemon=True)
    thread.start()
    end = time.monotonic() + SHUTDOWN_SECONDS
    while time.monotonic() < end and thread.is_alive() and not (collector and collector.is_away):
        thread.join(_POLL_SECONDS)
