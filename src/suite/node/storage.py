"""Watches the disk of the node's own nats-server: keeps a reserve, and restarts the server after a full disk.

While less than the reserve is free, events that can be refused are refused, so that facts can still be
written (ADR 21). When something else fills the disk completely, the server's stream stops for good. The
server is then restarted as soon as there is space again, which loses nothing that was acknowledged.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

import anyio.to_thread

from suite.bus.embedded import EmbeddedServer
from suite.identity import Clock
from suite.log.writability import Writability
from suite.ticks import tick

logger = logging.getLogger("suite.node")

LOOK_SECONDS: Final = 1.0
RESTART_PAUSE_SECONDS: Final = 10.0
"""The pause between two restarts, if the first one did not help."""
RESERVE_BYTES: Final = 64 * 1024 * 1024
RESERVE_SHARE: Final = 0.05
"""On a small disk the reserve is at most this share of it."""
FULL_BYTES: Final = 64 * 1024
"""With less than this free, the server may have failed writes, such as leases, without telling anybody."""


class StorageWatch:
    """Watches one embedded server, and notes whether the log on it can be written."""

    def __init__(
        self,
        server: EmbeddedServer,
        writability: Writability,
        *,
        clock: Clock,
        on_problem: Callable[[str], None],
    ) -> None:
        self._server = server
        self._writability = writability
        self._clock = clock
        self._on_problem = on_problem
        self._told: str | None = None
        self._was_full = False
        writability.advice = "see to space and rights of the data directory; this node then goes on by itself"

    async def run(self) -> None:
        """Check the disk every `LOOK_SECONDS`, and restart the server when necessary."""
        restart_after = 0.0
        while True:
            await self._look()
            self._tell()
            stopped = self._was_full or self._writability.failure is not None
            if stopped and not self._writability.is_short and self._clock() >= restart_after:
                logger.warning("there is space: nats-server is restarted, for it may have stopped storing")
                self._was_full = False
                restart_after = self._clock() + RESTART_PAUSE_SECONDS
                await self._server.restart()
            await tick(LOOK_SECONDS)

    async def _look(self) -> None:
        try:
            free, total = self._server.free_bytes(), self._server.total_bytes()
        except OSError as error:
            self._writability.note_space(f"the directory of nats-server cannot be looked at ({error})")
            return
        if self._writability.failure is not None:
            path = await anyio.to_thread.run_sync(self._server.unwritable)
            if path is not None:
                self._writability.note_space(f"{path} cannot be written")
                return
        self._was_full = self._was_full or free < FULL_BYTES
        reserve = min(RESERVE_BYTES, int(total * RESERVE_SHARE))
        short = free < reserve
        self._writability.note_space(
            f"its disk is full ({free >> 10:,} KiB free, {reserve >> 10:,} KiB in reserve)" if short else None
        )

    def _tell(self) -> None:
        """Log each problem once, and report it to the event log when that can be written again."""
        problem = self._writability.problem
        if (problem is None) == (self._told is None):
            return
        if problem is not None:
            logger.error("%s", problem)
        else:
            logger.warning("the log takes events again")
            self._on_problem(f"over now: {self._told}")
        self._told = problem
