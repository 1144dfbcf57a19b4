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


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seconds: float) -> None:
    loop = asyncio.get_running_loop()
    with suppress(OSError):
        while data := await reader.read(65536):
            loop.call_later(seconds, writer.write, data)
    loop.call_later(seconds, writer.close)
