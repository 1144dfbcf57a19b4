"""Has a node's own nats-server admit the users in ``credentials.json``, also after that file has changed."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Final

import anyio.to_thread

from suite.bus import credentials
from suite.bus.accounts import User
from suite.bus.embedded import EmbeddedServer
from suite.errors import DataDirUnusable, Unavailable
from suite.node.address import Address
from suite.ticks import tick

logger = logging.getLogger("suite.node")

LOOK_SECONDS: Final = 1.0
"""How long a change of users may go unnoticed."""


class UsersWatch:
    """Watches the file, because whoever changes it (`suite credentials`) is another process."""

    def __init__(self, server: EmbeddedServer, file: Path, address: Address) -> None:
        self._server = server
        self._file = file
        self._address = address
        self._seen: tuple[int, ...] = ()
        self._told = ""

    async def run(self) -> None:
        """Admit who is in the file, whenever it changes, until cancelled."""
        while True:
            try:
                await self._look()
            except (DataDirUnusable, Unavailable, OSError) as error:
                self._tell(f"changes of users are not in force: {error}")
            await tick(LOOK_SECONDS)

    async def _look(self) -> None:
        if (seen := self._signature()) == self._seen:
            return
        known = await anyio.to_thread.run_sync(credentials.read, self._file)
        if (users := known.listed()) != self._server.users:
            await self._admit(users)
        self._seen = seen
        self._told = ""

    def _signature(self) -> tuple[int, ...]:
        # Not in a thread: two switches of threads cost more than the look.
        status = self._file.stat()
        return status.st_ino, status.st_mtime_ns, status.st_size

    async def _admit(self, users: tuple[User, ...]) -> None:
        # A client that is put out finds its new password in connection.json at once.
        await self._server.admit(users, announce=self._address.refresh)
        logger.info("the users of nats-server are now: %s", ", ".join(sorted(user.name for user in users)))

    def _tell(self, problem: str) -> None:
        if problem != self._told:
            logger.error("%s", problem)
        self._told = problem
