"""Real clusters of nats-servers on loopback, whose servers can be killed, frozen and started again."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path

import anyio
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

PATIENCE_SECONDS = 40.0


@cache
def cluster_file() -> ClusterFile:
    """One for all tests."""
    return ClusterFile.new("suite-test")


def free_ports(number: int) -> list[int]:
    """Ports on loopback that nobody has at the moment."""
    sockets = [socket.socket() for _ in range(number)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


class NatsCluster:
    """Servers that know each other's addresses. Each can be started on its own."""

    def __init__(self, directory: Path, tasks: TaskGroup, names: Sequence[str]) -> None:
        self.directory = directory
        self._tasks = tasks
        self.ports = dict(zip(names, free_ports(len(names)), strict=True))
        self.users = tuple(
            User(name, each.role, each.password) for name, each in Credentials.new().users.items()
        )
        self.servers: dict[str, EmbeddedServer] = {}

    async def start(self, name: str) -> EmbeddedServer:
        """Start one of the servers, until the end of the test."""
        cluster = Cluster(
            shared=cluster_file(),
            server=name,
            listen=f"127.0.0.1:{self.ports[name]}",
            join=tuple(f"127.0.0.1:{port}" for other, port in self.ports.items() if other != name),
        )
        self.servers[name] = await self._tasks.start(self._run, name, cluster)
        return self.servers[name]

    async def _run(
        self, name: str, cluster: Cluster, *, task_status: TaskStatus[EmbeddedServer] = TASK_STATUS_IGNORED
    ) -> None:
        async with EmbeddedServer.start(self.directory / name, users=self.users, cluster=cluster) as server:
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


@asynccontextmanager
async def nats_cluster(
    directory: Path, names: Sequence[str] = ("n1", "n2", "n3"), *, started: int | None = None
) -> AsyncIterator[NatsCluster]:
    """A cluster of which the first `started` servers run; all, if not said. It is ready to be used then."""
    async with background() as tasks:
        cluster = NatsCluster(directory, tasks, names)
        try:
            for name in names[:started]:
                await cluster.start(name)
            if started != 1:
                access = cluster.servers[names[0]].access
                async with Connection.open(access, name="test") as connection:
                    await wait_for_cluster(connection, ())
                    await all_known(connection, len(cluster.servers))
            yield cluster
        finally:
            for name in cluster.servers:
                cluster.thaw(name)
