"""All that goes to other nodes through the object store, and comes from them (ADR 61)."""

from __future__ import annotations

from typing import Final

import anyio.abc

from suite.bus.bucket import STORE_POLICY, Bucket
from suite.bus.connection import Connection
from suite.catalogue import Catalogue
from suite.config import Settings
from suite.conversation_store import ConversationStore
from suite.identity import Clock, NewId
from suite.messages.actor import MovingSpec
from suite.messages.subjects import Subjects
from suite.node.breakers import Breakers
from suite.node.supervisor import Supervisor
from suite.node.transfers.conversations import Conversations
from suite.node.transfers.fetches import Fetches
from suite.node.transfers.pushes import Pushes

CONVERSATIONS_TTL_SECONDS: Final = 60.0
"""A conversation that nobody has fetched for so long expires."""
PARTS_TTL_SECONDS: Final = 600.0
"""A part of a file that nobody has removed for so long, as its node was killed, expires."""


class Transfers:
    """The transfers of one node."""

    def __init__(
        self,
        settings: Settings,
        connection: Connection,
        subjects: Subjects,
        catalogue: Catalogue,
        supervisor: Supervisor,
        *,
        tasks: anyio.abc.TaskGroup,
        breakers: Breakers,
        new_id: NewId,
        clock: Clock,
    ) -> None:
        name = f"{subjects.stream}_FILES"
        files = Bucket(
            connection,
            name,
            ttl_seconds=PARTS_TTL_SECONDS,
            max_bytes=settings.transfers.store_mb << 20,
            storage="file",
            replicas=settings.nats.wanted_replicas,
            new_id=new_id,
            breaker=breakers.make("object_store", name, STORE_POLICY),
        )
        node = settings.node
        self.pushes = Pushes(node, connection, subjects, catalogue, files, tasks=tasks, new_id=new_id)
        self.fetches = Fetches(node, connection, subjects, catalogue, files, tasks=tasks)
        self._conversations: Conversations | None = None
        if (moving := moving_spec(settings, subjects)) is not None:
            store = ConversationStore(
                connection,
                moving,
                breaker=breakers.make("object_store", moving.bucket, STORE_POLICY),
                new_id=new_id,
                clock=clock,
            )
            self._conversations = Conversations(
                settings, connection, subjects, supervisor, store, tasks=tasks
            )

    async def listen(self) -> None:
        """Answer other nodes."""
        await self.pushes.listen()
        await self.fetches.listen()
        if self._conversations is not None:
            await self._conversations.listen()


def moving_spec(settings: Settings, subjects: Subjects) -> MovingSpec | None:
    """Through what conversations go to other nodes; None: they do not."""
    most = settings.transfers.conversations_mb << 20
    if not most or not settings.snapshots.enabled:
        return None
    return MovingSpec(
        bucket=f"{subjects.stream}_CONVERSATIONS",
        max_bytes=most,
        ttl_seconds=CONVERSATIONS_TTL_SECONDS,
        replicas=settings.nats.wanted_replicas,
    )
