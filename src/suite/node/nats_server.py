"""The NATS server that a node uses: one that is there, or its own, which is its child.

A start has this before everything else, so it imports no more than it needs.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

import anyio.to_thread

from suite.bus import credentials
from suite.bus.cluster import Cluster, ClusterFile, address_of, is_loopback, split_address
from suite.bus.embedded import EmbeddedServer
from suite.config import Settings
from suite.errors import InvalidConfiguration
from suite.messages.actor import NatsAccess
from suite.messages.subjects import escape
from suite.node.address import Address


class Nats(NamedTuple):
    """How the node and its clients connect to NATS."""

    access: NatsAccess
    mirror: NatsAccess | None
    """Access for keeping the readers' mirror (ADR 18); None if the server is not the node's own."""
    address: Address
    server: EmbeddedServer | None
    """The node's own server; None if it uses an existing one."""


@asynccontextmanager
async def reached_nats(settings: Settings) -> AsyncIterator[Nats]:
    """Use the configured NATS server, or run an embedded one until the block ends."""
    if settings.nats.url is not None:
        access = NatsAccess(
            url=settings.nats.url,
            user=settings.nats.user,
            password=settings.nats.password,
            credentials_file=settings.nats.credentials,
            ca_file=None if settings.nats.ca is None else str(settings.nats.ca.absolute()),
            inbox_prefix=settings.nats.inbox_prefix,
        )
        yield Nats(access, None, Address(settings, None), None)
        return
    cluster = await anyio.to_thread.run_sync(part_in_cluster, settings)
    shared = {} if cluster is None else cluster.shared.users
    known = await anyio.to_thread.run_sync(
        credentials.change, credentials.path(settings.data_dir), lambda known: known.sharing(shared)
    )
    async with EmbeddedServer.start(
        settings.data_dir / "nats",
        subjects_root=settings.subject_root,
        port=settings.nats.port,
        users=known.listed(),
        host=settings.nats.listen,
        cluster=cluster,
    ) as server:
        yield Nats(server.access, server.mirror, Address(settings, server), server)


def part_in_cluster(settings: Settings) -> Cluster | None:
    """The part of the node's own server in a cluster; None if it is alone.

    Raises ClusterFileUnusable, and InvalidConfiguration for settings that do not go together.
    """
    nats = settings.nats
    if not nats.join:
        if nats.cluster_file is not None:
            raise InvalidConfiguration(
                "nats.cluster_file without nats.join: name the other machines with --join"
            )
        if not is_loopback(nats.listen):
            raise InvalidConfiguration(
                f"nats.listen is {nats.listen}, which other machines reach: passwords would cross the "
                "network in the clear. Use --join and --cluster-file, or a NATS of your own with TLS"
            )
        return None
    if nats.cluster_file is None:
        raise InvalidConfiguration(
            "--join needs --cluster-file: make one with `suite cluster create`, and copy it to each machine"
        )
    split_address(nats.cluster_listen)
    return Cluster(
        shared=ClusterFile.read(nats.cluster_file),
        server=escape(settings.node),
        listen=nats.cluster_listen,
        advertise=None if nats.cluster_advertise is None else address_of(nats.cluster_advertise),
        join=tuple(map(address_of, nats.join)),
    )
