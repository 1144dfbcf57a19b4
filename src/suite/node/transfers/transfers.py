"""What a node sends to others and gets from them through the object store (ADR 61)."""

from __future__ import annotations

from typing import Final

import anyio.abc

from suite.bus.connection import Connection
from suite.catalogue import Catalogue
from suite.config.settings import TransferSettings
from suite.identity import NewId
from suite.messages.subjects import Subjects
from suite.node.transfers.bucket import Bucket
from suite.node.transfers.fetches import Fetches
from suite.node.transfers.pushes import Pushes

PARTS_TTL_SECONDS: Final = 600.0
"""A part of a file that nobody has removed for so long, as its node was killed, expires."""


class Transfers:
    """The transfers of one node."""

    def __init__(
        self,
        node: str,
        settings: TransferSettings,
        connection: Connection,
        subjects: Subjects,
        catalogue: Catalogue,
        *,
        tasks: anyio.abc.TaskGroup,
        new_id: NewId,
    ) -> None:
        files = Bucket(
            connection,
            f"{subjects.stream}_FILES",
            ttl_seconds=PARTS_TTL_SECONDS,
            max_bytes=settings.store_mb << 20,
            storage="file",
            new_id=new_id,
        )
        self.pushes = Pushes(node, connection, subjects, catalogue, files, tasks=tasks, new_id=new_id)
        self.fetches = Fetches(node, connection, subjects, catalogue, files, tasks=tasks)

    async def listen(self) -> None:
        """Answer other nodes."""
        await self.pushes.listen()
        await self.fetches.listen()
