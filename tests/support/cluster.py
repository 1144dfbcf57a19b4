"""Real clusters of nats-servers on loopback, whose servers can be killed, frozen and started again."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from functools import cache
from pathlib import Path

import anyio
import msgspec
from anyio import TASK_STATUS_IGNORED
from anyio.abc import TaskGroup, TaskStatus

from suite.bus.accounts import User
from suite.bus.cluster import Cluster, ClusterFile
from suite.bus.connection import Connection
from suite.bus.credentials import Credentials
from suite.bus.embedded import EmbeddedServer
from suite.bus.jetstream import JetStream, NoAnswer, NotSent, Refused, StreamInfo
from suite.errors import SuiteError
from suite.identity import new_id
from suite.node.cluster import wait_for_cluster
from suite.tasks import background
from support.ports import free_ports

PATIENCE_SECONDS = 40.0


@cache
def cluster_file() -> ClusterFile:
    """One for all tests."""
    return ClusterFile.new("suite-test")


class Cable:
    """A network between one server and the others, which can be cut. What is sent meanwhile comes later."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._whole = asyncio.Event()
        self._whole.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self.port = 0

    @classmethod
    @asynccontextmanager
    async def to(cls, target_port: int) -> AsyncIterator[Cable]:
        """A cable to a port on loopback."""
        cable = cls(target_port)
        listener = await asyncio.start_server(cable._serve, "127.0.0.1", 0)
        cable.port = listener.sockets[0].getsockname()[1]
        try:
            yield cable
        finally:
            cable.mend()
            listener.close()
            for writer in cable._writers:
                writer.transport.abort()
            while cable._writers:
                await asyncio.sleep(0.01)

    def cut(self) -> None:
        self._whole.clear()

    def mend(self) -> None:
        self._whole.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
        except OSError:
            writer.transport.abort()
            return
        ends = {writer, far_writer}
        self._writers |= ends
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._copy, reader, far_writer)
                tasks.start_soon(self._copy, far_reader, writer)
        finally:
            for each in ends:
                each.transport.abort()
            self._writers -= ends

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                await self._whole.wait()
                writer.write(data)
                await writer.drain()
        writer.transport.abort()


NOWHERE = "127.0.0.1:1"
"""An address at which nobody listens."""


class NatsCluster:
    """Servers that know each other's addresses. Each can be started on its own.

    One of them may be apart from the others, who reach it by a cable only, as it does them.
    """

    def __init__(
        self,
        directory: Path,
        tasks: TaskGroup,
        names: Sequence[str],
        *,
        apart: str | None = None,
    ) -> None:
        self.directory = directory
        self._apart = apart
        self.cable: Cable | None = None
        self._tasks = tasks
        self.ports = dict(zip(names, free_ports(len(names)), strict=True))
        self.users = tuple(
            User(name, each.role, each.password) for name, each in Credentials.new().users.items()
        )
        self.servers: dict[str, EmbeddedServer] = {}
        self._lives: dict[str, anyio.CancelScope] = {}

    async def start(self, name: str) -> EmbeddedServer:
        """Start one of the servers, until the end of the test."""
        cluster = Cluster(
            shared=cluster_file(),
            server=name,
            listen=f"127.0.0.1:{self.ports[name]}",
            advertise=self._advertised(name),
            join=self._join(name),
        )
        self._lives[name] = anyio.CancelScope()
        self.servers[name] = await self._tasks.start(self._run, name, cluster)
        return self.servers[name]

    def stop(self, name: str) -> None:
        """End a server in order; it stays away."""
        del self.servers[name]
        self._lives[name].cancel()

    def _advertised(self, name: str) -> str | None:
        """What a server tells the others of its address: none must find a way around the cable."""
        if self.cable is None:
            return None
        return f"127.0.0.1:{self.cable.port}" if name == self._apart else NOWHERE

    def _join(self, name: str) -> tuple[str, ...]:
        if self.cable is None:
            return tuple(f"127.0.0.1:{port}" for other, port in self.ports.items() if other != name)
        by_cable = f"127.0.0.1:{self.cable.port}"
        if name == self._apart:
            return (by_cable,)  # to itself: the others come
        near = (each for each in self.ports if each not in (name, self._apart))
        return (by_cable, *(f"127.0.0.1:{self.ports[each]}" for each in near))

    async def _run(
        self, name: str, cluster: Cluster, *, task_status: TaskStatus[EmbeddedServer] = TASK_STATUS_IGNORED
    ) -> None:
        with self._lives[name]:
            async with EmbeddedServer.start(
                self.directory / name, users=self.users, cluster=cluster
            ) as server:
                task_status.started(server)
                await anyio.sleep_forever()

    async def leader(self, connection: Connection, stream: str = "SUITE") -> str:
        """The name of the server that leads a stream."""
        with anyio.fail_after(PATIENCE_SECONDS):
            while True:
                info = await stream_info(connection, stream)
                if info is not None and info.cluster.leader:
                    return info.cluster.leader
                await anyio.sleep(0.05)
        raise AssertionError

    def kill(self, name: str) -> None:
        """End a server as a power cut would. It is started again by itself."""
        os.kill(self.servers[name].pid, signal.SIGKILL)

    def freeze(self, name: str) -> None:
        """Stop a server without its connections being lost, as a cut network does."""
        os.kill(self.servers[name].pid, signal.SIGSTOP)

    def thaw(self, name: str) -> None:
        """Have it go on."""
        os.kill(self.servers[name].pid, signal.SIGCONT)


async def stream_info(connection: Connection, stream: str = "SUITE") -> StreamInfo | None:
    """A stream as its leader says; None while nobody says anything."""
    try:
        return await JetStream(connection, stream, new_id=new_id).info(timeout=1.0)
    except (Refused, NotSent, NoAnswer, SuiteError):
        return None


async def lead(connection: Connection, server: str) -> None:
    """Have a server lead the log."""
    asked = msgspec.json.encode({"placement": {"preferred": server}})
    with anyio.fail_after(PATIENCE_SECONDS):
        while True:
            info = await stream_info(connection)
            if info is not None and info.cluster.leader == server:
                return
            await connection.request("$JS.API.STREAM.LEADER.STEPDOWN.SUITE", asked, timeout=5)
            await anyio.sleep(0.2)


async def all_known(connection: Connection, number: int) -> None:
    """Wait until a stream can be on all of so many servers."""
    probe = JetStream(connection, "PROBE", new_id=new_id)
    with anyio.fail_after(PATIENCE_SECONDS):
        while True:
            try:
                await probe.create({"name": "PROBE", "subjects": ["suite.probe"], "num_replicas": number})
                return await probe.delete()
            except (Refused, NotSent, NoAnswer):
                await anyio.sleep(0.05)


NAMES = ("n1", "n2", "n3")


@asynccontextmanager
async def nats_cluster(directory: Path, *, started: int = 3) -> AsyncIterator[NatsCluster]:
    """A cluster of three, of which the first `started` servers run. It is ready to be used then."""
    async with background() as tasks:
        async with _running(NatsCluster(directory, tasks, NAMES), NAMES[:started]) as cluster:
            yield cluster
        tasks.cancel_scope.cancel()


@asynccontextmanager
async def nats_cluster_with_cable(directory: Path) -> AsyncIterator[tuple[NatsCluster, Cable]]:
    """A cluster of three, and the cable by which the last of them and the others reach each other."""
    *_, apart = NAMES
    async with background() as tasks:
        cluster = NatsCluster(directory, tasks, NAMES, apart=apart)
        async with Cable.to(cluster.ports[apart]) as cluster.cable, _running(cluster, NAMES):
            yield cluster, cluster.cable
            tasks.cancel_scope.cancel()


@asynccontextmanager
async def _running(cluster: NatsCluster, names: Sequence[str]) -> AsyncIterator[NatsCluster]:
    try:
        for name in names:
            await cluster.start(name)
        if len(names) > 1:
            access = cluster.servers[names[0]].access
            async with Connection.open(access, name="test") as connection:
                await wait_for_cluster(connection, ())
                await all_known(connection, len(names))
        yield cluster
    finally:
        for name in cluster.servers:
            cluster.thaw(name)
