"""The object store through which conversations go from node to node (ADR 61)."""

from __future__ import annotations

import logging
from typing import Final

import anyio
import anyio.to_thread

from suite.bus.bucket import Bucket
from suite.bus.connection import Connection
from suite.circuit_breaker import CircuitBreaker
from suite.domain.moving import StoreSpeed, is_worth_moving, patience_seconds
from suite.engine.snapshots.file import Saved, from_bytes, to_bytes
from suite.errors import SuiteError
from suite.identity import Clock, NewId
from suite.messages.actor import ConversationStored, GetConversation, MovingSpec

logger = logging.getLogger("suite.transfers")

REMOVE_SECONDS: Final = 0.5


class ConversationStore:
    """Takes the states of conversations to give them to other nodes, and measures how fast that is."""

    def __init__(
        self,
        connection: Connection,
        spec: MovingSpec,
        *,
        breaker: CircuitBreaker,
        new_id: NewId,
        clock: Clock,
    ) -> None:
        self._bucket = Bucket(
            connection,
            spec.bucket,
            ttl_seconds=spec.ttl_seconds,
            max_bytes=spec.max_bytes,
            storage="memory",  # conversations are on no other disk
            replicas=spec.replicas,
            new_id=new_id,
            breaker=breaker,
        )
        self._new_id = new_id
        self._clock = clock
        self._speed = StoreSpeed()

    async def give(
        self, asked: GetConversation, saved: Saved, *, reading_seconds: float | None
    ) -> ConversationStored:
        """Put a state in for who has asked for it, unless its tokens are read sooner.

        `reading_seconds`: how long that takes, as far as it is known. Raises StoreFull and Unavailable.
        """
        is_worth = is_worth_moving(
            saved.size,
            reading_seconds=patience_seconds(saved.token_count, reading_seconds=reading_seconds),
            bytes_per_second=self._speed.bytes_per_second,
        )
        if not asked.is_needed and not is_worth:
            return ConversationStored()
        name, data = self._new_id(), await anyio.to_thread.run_sync(to_bytes, asked.key, saved)
        began = self._clock()
        async with self._bucket.opened() as store:
            await store.put(name, data)
        self._speed.note(len(data), self._clock() - began)
        return ConversationStored(name=name)

    async def take(self, name: str, key: str) -> Saved | None:
        """A state of this key, which is removed from the store; None if it is not there.

        Raises InvalidSnapshotFile and Unavailable.
        """
        try:
            data = await self._read(name)
        finally:
            with anyio.move_on_after(REMOVE_SECONDS, shield=True):
                await self._remove(name)
        return None if data is None else await anyio.to_thread.run_sync(from_bytes, key, data)

    async def _read(self, name: str) -> bytes | None:
        began = self._clock()
        async with self._bucket.opened() as store:
            data = await store.get(name)
        if data is not None:
            self._speed.note(len(data), self._clock() - began)
        return data

    async def _remove(self, name: str) -> None:
        try:
            async with self._bucket.opened() as store:
                await store.delete(name)
        except SuiteError as error:
            logger.warning("a conversation is left in the object store until it expires: %s", error)
