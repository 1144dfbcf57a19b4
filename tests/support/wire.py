"""A TCP connection that takes its time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import anyio
import anyio.lowlevel


@asynccontextmanager
async def slow_wire(target_port: int, *, seconds: float) -> AsyncIterator[int]:
    """The port of a proxy that passes on what it gets so many seconds later, both ways."""
    writers: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind, to_behind = await asyncio.open_connection("127.0.0.1", target_port)
        writers.extend((writer, to_behind))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_copy, reader, to_behind, seconds)
            tasks.start_soon(_copy, behind, writer, seconds)

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield listener.sockets[0].getsockname()[1]
    finally:
        listener.close()
        for writer in writers:
            writer.transport.abort()
        await anyio.lowlevel.checkpoint()  # for the copies to end


class MortalWire:
    """A proxy whose connections can die: those that have sent certain bytes stay open, and are silent."""

    def __init__(self, target_port: int, *, mark: bytes) -> None:
        self._target_port = target_port
        self._mark = mark
        self._marked: set[asyncio.StreamWriter] = set()
        self._dead: set[asyncio.StreamWriter] = set()
        self._writers: list[asyncio.StreamWriter] = []
        self.port = 0

    def die(self) -> None:
        """Have the connections that have sent the mark pass on nothing any more. Later ones work."""
        self._dead |= self._marked

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[MortalWire]:
        """Listen until the block ends."""
        listener = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = listener.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            listener.close()
            for writer in self._writers:
                writer.transport.abort()
            await anyio.lowlevel.checkpoint()  # for the copies to end

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind, to_behind = await asyncio.open_connection("127.0.0.1", self._target_port)
        self._writers.extend((writer, to_behind))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._send, reader, to_behind, writer)
            tasks.start_soon(self._receive, behind, writer)

    async def _send(
        self, reader: asyncio.StreamReader, to_behind: asyncio.StreamWriter, client: asyncio.StreamWriter
    ) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                if self._mark in data:
                    self._marked.add(client)
                to_behind.write(data)
        to_behind.close()

    async def _receive(self, behind: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await behind.read(65536):
                if client not in self._dead:
                    client.write(data)
        client.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seconds: float) -> None:
    loop = asyncio.get_running_loop()
    with suppress(OSError):
        while data := await reader.read(65536):
            loop.call_later(seconds, writer.write, data)
    loop.call_later(seconds, writer.close)
