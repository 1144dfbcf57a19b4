"""Faults that can be made for real: a nats-server that is killed, a wire that loses what comes back."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio

from suite.bus.connection import Connection
from suite.messages.actor import NatsAccess
from support.ports import free_port

_BINARY = Path(sys.executable).with_name("nats-server")


class KillableServer:
    """A nats-server with JetStream that syncs every write, on one port and store for its whole test."""

    def __init__(self, directory: Path, *, jetstream: bool) -> None:
        self.port = free_port()
        self._config = directory / "scratch.conf"
        self._config.write_text(
            f'listen: "127.0.0.1:{self.port}"\n'
            + f'jetstream {{ store_dir: "{directory / "store"}", sync_interval: always }}\n' * jetstream
        )
        self._process: asyncio.subprocess.Process | None = None

    @classmethod
    @asynccontextmanager
    async def start(cls, directory: Path, *, jetstream: bool = True) -> AsyncIterator[KillableServer]:
        server = cls(directory, jetstream=jetstream)
        await server.up()
        try:
            yield server
        finally:
            with anyio.CancelScope(shield=True):
                await server.kill()

    @property
    def access(self) -> NatsAccess:
        return NatsAccess(url=f"nats://127.0.0.1:{self.port}")

    async def up(self) -> None:
        binary = str(_BINARY) if await anyio.Path(_BINARY).exists() else "nats-server"
        self._process = await asyncio.create_subprocess_exec(
            binary,
            "-c",
            str(self._config),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        with anyio.fail_after(10):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                except OSError:
                    await anyio.sleep(0.02)
                else:
                    writer.close()
                    return

    async def kill(self) -> None:
        """As a power switch for the process: SIGKILL."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            await process.wait()

    def freeze(self) -> None:
        """As a machine that hangs: connections stay, and nothing is answered."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    async def delete_stream(self, name: str) -> None:
        """As somebody with all rights."""
        async with Connection.open(self.access, name="somebody") as connection:
            await connection.request(f"$JS.API.STREAM.DELETE.{name}", timeout=5)


class LossyWire:
    """A TCP proxy in front of a server that can lose what the server sends, and then the connection."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._writers: set[asyncio.StreamWriter] = set()
        self.port = 0
        self.deaf = False
        """While it is set, what the server sends is dropped."""

    @classmethod
    @asynccontextmanager
    async def open(cls, target_port: int) -> AsyncIterator[LossyWire]:
        wire = cls(target_port)
        listener = await asyncio.start_server(wire._serve, "127.0.0.1", 0)
        wire.port = listener.sockets[0].getsockname()[1]
        try:
            yield wire
        finally:
            listener.close()
            wire.cut()

    @property
    def access(self) -> NatsAccess:
        return NatsAccess(url=f"nats://127.0.0.1:{self.port}")

    def cut(self) -> None:
        """End every connection at once, and hear again on the next ones."""
        self.deaf = False
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            behind_reader, behind_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, behind_writer}
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._copy, reader, behind_writer, False)
                await self._copy(behind_reader, writer, True)
                tasks.cancel_scope.cancel()
        finally:
            writer.transport.abort()
            behind_writer.transport.abort()
            self._writers -= {writer, behind_writer}

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, lossy: bool) -> None:
        try:
            while data := await reader.read(65536):
                if not (lossy and self.deaf):
                    writer.write(data)
                    await writer.drain()
        except OSError:
            pass
        writer.transport.abort()
