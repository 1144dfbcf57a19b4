"""A bucket of the object store that is made when something is to travel, and not before."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio

from suite.bus.connection import Connection
from suite.bus.object_store import ObjectStore, Storage
from suite.errors import Unavailable
from suite.identity import NewId


class Bucket:
    """One bucket of all nodes."""

    def __init__(
        self,
        connection: Connection,
        name: str,
        *,
        ttl_seconds: float,
        max_bytes: int,
        storage: Storage,
        replicas: int,
        new_id: NewId,
    ) -> None:
        """What nobody has removed after `ttl_seconds` expires. Objects never take more than `max_bytes`."""
        self._connection = connection
        self._name = name
        self._ttl_seconds = ttl_seconds
        self._max_bytes = max_bytes
        self._storage: Storage = storage
        self._replicas = replicas
        self._new_id = new_id
        self._opening = anyio.Lock()
        self._store: ObjectStore | None = None

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[ObjectStore]:
        """The bucket. After a failure it is looked for anew: it may have gone with its server.

        Raises Unavailable, StoreFull and ServerUnsuitable.
        """
        try:
            yield await self._open()
        except Unavailable:
            self._store = None
            raise

    async def _open(self) -> ObjectStore:
        async with self._opening:
            if self._store is None:
                self._store = await ObjectStore.open(
                    self._connection,
                    self._name,
                    ttl_seconds=self._ttl_seconds,
                    max_bytes=self._max_bytes,
                    storage=self._storage,
                    replicas=self._replicas,
                    new_id=self._new_id,
                )
            return self._store
