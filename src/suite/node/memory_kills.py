"""Tells a kill by the kernel for lack of memory from other deaths of a process."""

from __future__ import annotations

import signal
from collections.abc import Callable


class MemoryKills:
    """The kernel counts such kills and does not say whom it killed: each explains one death by SIGKILL."""

    def __init__(self, count: Callable[[], int]) -> None:
        """`count`: how many there were so far."""
        self.count = count
        self._explained = 0

    def explain(self, exit_code: int, before: int) -> bool:
        """Whether such a kill ended a process; `before`: the count before it was started."""
        explained = max(self._explained, before)
        if exit_code != -signal.SIGKILL or self.count() <= explained:
            return False
        self._explained = explained + 1
        return True
