"""Several real nodes on one NATS, which work as one fleet."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import anyio

from suite.bus.embedded import EmbeddedServer
from suite.client import Client
from suite.errors import NodeLost, NodeNotFound, NodeStopping
from support.nats import mirrored_nats, operator_of
from support.service import Serving, serving

PATIENCE_SECONDS = 20.0


class Fleet:
    """The nodes of a test by name, and a client whose requests any of them may take."""

    def __init__(self, server: EmbeddedServer, client: Client, directory: Path) -> None:
        self.server = server
        self.client = client
        self.directory = directory
        self.nodes: dict[str, Serving] = {}

    @asynccontextmanager
    async def node(self, name: str, models: Path, *options: str) -> AsyncIterator[Serving]:
        """A node with these models, until the block ends."""
        environ = access(self.server) | {"SUITE_NODE": name}
        async with serving(models, self.directory / name, *options, environ=environ) as service:
            self.nodes[name] = service
            yield service

    async def acquainted(self) -> None:
        """Wait until each node knows all others with what they could load."""
        for name in self.nodes:
            with anyio.fail_after(PATIENCE_SECONDS):
                while not await self._knows_all(name):
                    await anyio.sleep(0.05)

    async def _knows_all(self, name: str) -> bool:
        try:
            return set((await self.client.on_node(name).health_check()).nodes) >= set(self.nodes)
        except (NodeNotFound, NodeLost, NodeStopping):  # it does not serve yet, or is not known
            return False


@asynccontextmanager
async def fleet(models: Mapping[str, Path], directory: Path, *options: str) -> AsyncIterator[Fleet]:
    """Nodes by name, each with its directory of models, that know each other."""
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(mirrored_nats(directory, is_shared=True))
        client = await stack.enter_async_context(operator_of(server))
        found = Fleet(server, client, directory)
        async with anyio.create_task_group() as tasks:
            for name, each in models.items():
                tasks.start_soon(stack.enter_async_context, found.node(name, each, *options))
        await found.acquainted()
        yield found


def access(server: EmbeddedServer) -> dict[str, str]:
    """The environment of a node that uses this NATS."""
    own = server.access
    return {
        "SUITE_NATS_URL": own.url,
        "SUITE_NATS_USER": own.user or "",
        "SUITE_NATS_PASSWORD": own.password or "",
        "SUITE_NATS_INBOX_PREFIX": own.inbox_prefix,
    }
