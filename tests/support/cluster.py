"""Real clusters of nats-servers on loopback, whose servers can be killed, frozen and started again."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import cache
from pathlib import Path

import anyio

from suite.bus.accounts import User
from suite.bus.cluster import Cluster, ClusterFile
from suite.bus.connection import Connection
from suite.bus.credentials import Credentials
from suite.bus.embedded import EmbeddedServer
from suite.bus.jetstream import JetStream, NoAnswer, NotSent, Refused, StreamInfo
from suite.errors import SuiteError
from suite.identity import new_id
from suite.messages.actor import NatsAccess
from suite.node.cluster import wait_for_cluster

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

    def __init__(self, directory: Path, stack: AsyncExitStack, names: Sequence[str]) -> None:
        self.directory = directory
        self._stack = stack
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
        self.servers[name] = await self._stack.enter_async_context(
            EmbeddedServer.start(self.directory / name, users=self.users, cluster=cluster)
        )
        return self.servers[name]

    def access(self, *names: str) -> NatsAccess:
        """Access for a node of these servers; each has the same password for it in tests."""
        return self.servers[names[0]].access

    async def leader(self, connection: Connection, stream: str = "SUITE") -> str:
        """The name of the server that leads a stream."""
        with anyio.fail_after(PATIENCE_SECONDS):
            while True:
                info = await stream_info(connection, stream)
                if info is not None and info.cluster is not None and info.cluster.leader:
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


@asynccontextmanager
async def nats_cluster(
    directory: Path, names: Sequence[str] = ("n1", "n2", "n3"), *, started: int | None = None
) -> AsyncIterator[NatsCluster]:
    """A cluster of which the first `started` servers run; all, if not said. It is ready to be used then."""
    async with AsyncExitStack() as stack:
        cluster = NatsCluster(directory, stack, names)
        try:
            for name in names[:started]:
                await cluster.start(name)
            if started != 1:
                access = cluster.servers[names[0]].access
                async with Connection.open(access, name="test") as connection:
                    await wait_for_cluster(connection, ())
            yield cluster
        finally:
            for name in cluster.servers:
                cluster.thaw(name)
