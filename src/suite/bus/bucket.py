"""A bucket of the object store that is made when something is to travel, and not before."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import anyio

from suite.bus.connection import Connection
from suite.bus.object_store import ObjectStore, Storage
from suite.circuit_breaker import CircuitBreaker
from suite.domain.breaker import Policy
from suite.errors import ServerUnsuitable, StoreFull, Unavailable
from suite.identity import Clock, NewId

STORE_POLICY: Final = Policy(failures=3, first_pause_seconds=1.0, longest_pause_seconds=60.0)


def store_breaker(bucket: str, *, node: str, clock: Clock) -> CircuitBreaker:
    """The circuit breaker around a bucket, for one process."""
    return CircuitBreaker("object_store", bucket, STORE_POLICY, node=node, clock=clock)


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
        breaker: CircuitBreaker,
    ) -> None:
        """What nobody has removed after `ttl_seconds` expires. Objects never take more than `max_bytes`.

        While `breaker` is open, nobody waits for an object store that does not answer.
        """
        self._connection = connection
        self._name = name
        self._ttl_seconds = ttl_seconds
        self._max_bytes = max_bytes
        self._storage: Storage = storage
        self._replicas = replicas
        self._new_id = new_id
        self._breaker = breaker
        self._opening = anyio.Lock()
        self._store: ObjectStore | None = None

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[ObjectStore]:
        """The bucket. After a failure it is looked for anew: it may have gone with its server.

        Raises Unavailable, StoreFull and ServerUnsuitable.
        """
        try:
            with self._breaker.guarding(Unavailable, answers=(ServerUnsuitable, StoreFull)):
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
