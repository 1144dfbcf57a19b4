"""The parts of files that are in the object store while nodes fetch them.

A few parts are there at a time, however big the files: one goes in when the first node asks for it, and comes
out when all nodes have it. A node that is far behind the others has its parts put in again.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import anyio
import anyio.to_thread

from suite.bus.bucket import Bucket
from suite.errors import ModelFileGone

PART_BYTES: Final = 4 << 20
"""How long a part is; the last one of a file is shorter."""
MOST_PARTS: Final = 16
"""The most parts that one transfer has in the object store."""


class Place(NamedTuple):
    """Where a part is; places are in the order in which parts travel."""

    file: int
    offset: int


class Parts:
    """The parts of some files, for some nodes."""

    def __init__(self, paths: Sequence[Path], nodes: Iterable[str], bucket: Bucket) -> None:
        self._paths = paths
        self._bucket = bucket
        self._turn = anyio.Lock()
        self._reached = dict.fromkeys(nodes, Place(0, 0))
        """What each node has asked for last: it has all parts before that."""
        self._stored: OrderedDict[Place, str] = OrderedDict()
        """The digests of the parts that are in the store, the oldest first."""

    async def provide(self, place: Place, node: str) -> str:
        """Have a part in the store for a node, and return its digest, under which it is there.

        Raises ModelFileGone, StoreFull and Unavailable.
        """
        async with self._turn:  # so that one part is in memory at a time
            if node in self._reached:
                self._reached[node] = place
            await self._remove_passed()
            known = self._stored.get(place)
            if known is None or not await self._is_there(known):
                known = await self._store(place)
            self._stored[place] = known
            return known

    async def end(self, node: str) -> None:
        """Note that a node needs no more parts."""
        async with self._turn:
            self._reached.pop(node, None)
            await self._remove_passed()

    async def remove_all(self) -> None:
        """Remove all parts that are still there. Raises Unavailable."""
        async with self._turn:
            while self._stored:
                await self._remove(next(iter(self._stored)))

    async def _remove_passed(self) -> None:
        """Remove the parts that all nodes have, and the oldest where there are too many."""
        slowest = min(self._reached.values(), default=None)
        for place in [each for each in self._stored if slowest is None or each < slowest]:
            await self._remove(place)
        while len(self._stored) >= MOST_PARTS:
            await self._remove(next(iter(self._stored)))

    async def _remove(self, place: Place) -> None:
        digest = self._stored.pop(place)
        if digest not in self._stored.values():
            async with self._bucket.opened() as store:
                await store.delete(digest)

    async def _is_there(self, digest: str) -> bool:
        async with self._bucket.opened() as store:
            return await store.info(digest) is not None

    async def _store(self, place: Place) -> str:
        """Put a part into the store, unless it is left there from before."""
        try:
            data = await anyio.to_thread.run_sync(_read, self._paths[place.file], place.offset)
        except OSError as error:
            name = self._paths[place.file].name
            raise ModelFileGone(f"{name} cannot be read any more: {error.strerror}") from None
        digest = await anyio.to_thread.run_sync(sha256_of, data)
        if not await self._is_there(digest):
            async with self._bucket.opened() as store:
                await store.put(digest, data)
        return digest


def _read(path: Path, offset: int) -> bytes:
    with path.open("rb", buffering=0) as file:
        file.seek(offset)
        return file.read(PART_BYTES)


def sha256_of(data: bytes) -> str:
    """The digest under which a part is in the store."""
    return hashlib.sha256(data).hexdigest()
