"""Servers of several nodes become one cluster, and what they store is on as many of them as there can be."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import anyio
import msgspec
import pytest

from suite.bus.cluster import Cluster, ClusterFile, address_of, split_address
from suite.bus.connection import Connection
from suite.bus.embedded import EmbeddedServer
from suite.bus.jetstream import JetStream
from suite.bus.kv import Leases
from suite.errors import (
    AccessDenied,
    ClusterFileUnusable,
    InvalidConfiguration,
    LogOfOtherKind,
    NoLeader,
    OpensslNotFound,
    Unavailable,
    UnknownOutcome,
)
from suite.identity import new_id, utc_now
from suite.log import Log
from suite.log.mirror import Mirror
from suite.messages.events import UsageRecorded
from suite.messages.subjects import Subjects
from suite.node.cluster import ClusterWatch, wait_for_cluster
from support.cluster import cluster_file, lead, nats_cluster, stream_info
from support.nats import running_nats
from support.ports import free_ports

USED = UsageRecorded(model_id="m", usage_type="x")


@asynccontextmanager
async def log_of(connection: Connection, *, replicas: int = 3) -> AsyncIterator[Log]:
    async with Log.open(
        connection, Subjects(), source="/test", new_id=new_id, now=utc_now, replicas=replicas
    ) as log:
        yield log


async def replicas_of(connection: Connection, stream: str) -> int:
    info = await stream_info(connection, stream)
    return 0 if info is None else int(info.config["num_replicas"])


async def test_servers_join_one_after_the_other_and_the_log_gets_its_replicas(tmp_path: Path) -> None:
    async with nats_cluster(tmp_path, started=1) as servers:
        async with Connection.open(servers.servers["n1"].access, name="n1") as connection:
            with anyio.move_on_after(1.0) as alone:
                await wait_for_cluster(connection, ("n2", "n3"))
            assert alone.cancelled_caught
            await servers.start("n2")
            await wait_for_cluster(connection, ("n2", "n3"))
            watch = ClusterWatch(connection, Subjects(), replicas=3, new_id=new_id)
            async with log_of(connection) as log, AsyncExitStack() as stack:
                await Leases.open(connection, "SUITE_NODES", 5.0, replicas=3)
                seq = await log.append(USED)
                readers = await stack.enter_async_context(
                    Connection.open(servers.servers["n1"].mirror, name="mirror")
                )
                assert await mirror(connection, readers, replicas=1) == ""
                await watch.look()
                assert watch.problem is not None and "1 of 3 replicas" in watch.problem
                await servers.start("n3")
                with anyio.fail_after(40):
                    while watch.log is None or watch.problem is not None:
                        await anyio.sleep(0.1)
                        await watch.look()
                assert watch.log.survives_loss
                assert await replicas_of(connection, "SUITE") == 3
                assert await replicas_of(connection, "KV_SUITE_NODES") == 3
                assert await log.append(USED) == seq + 1
                assert await mirror(connection, readers, replicas=3) == ""
                assert await replicas_of(readers, "SUITE") == 3
                # What an operator has changed stays, whatever a node is set to.
                found = await log._jetstream.info()
                await log._jetstream.update(found.config | {"description": "mine"})
                await ClusterWatch(connection, Subjects(), replicas=1, new_id=new_id).look()
                config = (await log._jetstream.info()).config
                assert (config["description"], config["num_replicas"]) == ("mine", 3)


async def mirror(connection: Connection, readers: Connection, *, replicas: int) -> str:
    """Make or mend the readers' mirror; the problem, if that fails."""
    log, copy = (JetStream(each, "SUITE", new_id=new_id) for each in (connection, readers))
    return await Mirror(log, copy, Subjects(), replicas=replicas).problem()


async def test_without_a_leader_nothing_is_stored_and_the_code_says_so(tmp_path: Path) -> None:
    async with (
        nats_cluster(tmp_path) as servers,
        Connection.open(servers.servers["n1"].access, name="n1") as connection,
        Log.open(
            connection,
            Subjects(),
            source="/test",
            new_id=new_id,
            now=utc_now,
            replicas=3,
            settle_seconds=1.0,
        ) as log,
    ):
        await lead(connection, "n2")
        for name in ("n2", "n3"):
            servers.stop(name)
        with anyio.fail_after(20):
            while True:
                try:
                    await log.append(USED)
                except UnknownOutcome:  # it was on its way to the leader that went
                    continue
                except Unavailable as error:
                    assert isinstance(error, NoLeader) and error.code == "no_leader"
                    break


async def test_replicas_asked_of_one_server_are_one_and_health_says_so(tmp_path: Path) -> None:
    async with running_nats(tmp_path) as (_, connection), log_of(connection) as log:
        assert await log.append(USED) == 1
        await Leases.open(connection, "SUITE_NODES", 5.0, replicas=3)
        watch = ClusterWatch(connection, Subjects(), replicas=3, new_id=new_id)
        await watch.look()
        assert "1 of 3 replicas, because NATS is a single server" in (watch.problem or "")


async def test_who_has_another_key_is_not_let_in(tmp_path: Path) -> None:
    async with nats_cluster(tmp_path) as servers:
        stranger = Cluster(
            shared=msgspec.structs.replace(ClusterFile.new("stranger"), name=cluster_file().name),
            server="stranger",
            listen=f"127.0.0.1:{free_ports(1)[0]}",
            join=tuple(f"127.0.0.1:{port}" for port in servers.ports.values()),
        )
        async with (
            EmbeddedServer.start(tmp_path / "stranger", cluster=stranger) as server,
            Connection.open(server.access, name="stranger") as connection,
        ):
            await refused(tmp_path / "stranger")
            assert not await works(connection)


async def test_a_server_that_pretends_to_be_one_of_them_is_not_believed(tmp_path: Path) -> None:
    # Nobody proves by a name who it is: `insecure` in the configuration leaves that to the pinned key.
    mine, other = free_ports(2)
    impostor = Cluster(
        shared=msgspec.structs.replace(ClusterFile.new("impostor"), name=cluster_file().name),
        server="impostor",
        listen=f"127.0.0.1:{other}",
        join=(f"127.0.0.1:{mine}",),
    )
    real = Cluster(
        shared=cluster_file(), server="n1", listen=f"127.0.0.1:{mine}", join=(f"127.0.0.1:{other}",)
    )
    async with (
        EmbeddedServer.start(tmp_path / "impostor", cluster=impostor),
        EmbeddedServer.start(tmp_path / "n1", cluster=real) as server,
        Connection.open(server.access, name="n1") as connection,
    ):
        await refused(tmp_path / "n1")
        assert not await works(connection)


async def refused(directory: Path) -> None:
    """Wait until a server's log says that a connection between servers was not made."""
    with anyio.fail_after(20):
        while "TLS route handshake error" not in (directory / "nats-server.log").read_text():
            await anyio.sleep(0.05)


async def works(connection: Connection) -> bool:
    with anyio.move_on_after(0.5):
        await wait_for_cluster(connection, ())
        return True
    return False


async def test_clients_on_other_machines_come_in_encrypted_and_check_the_server(tmp_path: Path) -> None:
    port, nobody = free_ports(2)
    part = Cluster(
        shared=cluster_file(), server="n1", listen=f"127.0.0.1:{port}", join=(f"127.0.0.1:{nobody}",)
    )
    async with EmbeddedServer.start(tmp_path / "n1", cluster=part, host="0.0.0.0") as server:
        access = server.client
        assert access.url.startswith("tls://127.0.0.1:") and access.ca_file is not None
        async with Connection.open(access, name="client") as connection:
            await connection.flush()
        for strange in (
            msgspec.structs.replace(access, ca_file=None),
            msgspec.structs.replace(access, url=access.url.replace("tls://", "nats://"), ca_file=None),
        ):
            with pytest.raises((Unavailable, AccessDenied)):
                async with Connection.open(strange, name="strange"):
                    pass


async def test_a_log_of_one_server_is_not_taken_into_a_cluster_which_would_delete_it(tmp_path: Path) -> None:
    async with (
        EmbeddedServer.start(tmp_path / "n1") as server,
        Connection.open(server.access, name="n1") as connection,
        log_of(connection, replicas=1) as log,
    ):
        await log.append(USED)
    part = Cluster(shared=cluster_file(), server="n1", listen="127.0.0.1:6222", join=("127.0.0.1:6223",))
    with pytest.raises(LogOfOtherKind, match="would be deleted"):
        async with EmbeddedServer.start(tmp_path / "n1", cluster=part):
            pass
    async with (
        EmbeddedServer.start(tmp_path / "n1") as server,
        Connection.open(server.access, name="n1") as connection,
        log_of(connection, replicas=1) as log,
    ):
        assert (await log.extent()).last_seq == 1


async def test_a_server_of_a_cluster_does_not_start_alone(tmp_path: Path) -> None:
    async with nats_cluster(tmp_path, started=1):
        pass
    with pytest.raises(LogOfOtherKind, match="--join and --cluster-file"):
        async with EmbeddedServer.start(tmp_path / "n1"):
            pass


def test_a_cluster_file_is_private_and_is_not_written_over(tmp_path: Path) -> None:
    file = tmp_path / "fleet.cluster"
    cluster_file().write(file)
    assert file.stat().st_mode & 0o077 == 0
    assert ClusterFile.read(file) == cluster_file()
    with pytest.raises(ClusterFileUnusable, match="already"):
        cluster_file().write(file)
    file.chmod(0o644)
    ClusterFile.read(file)
    assert file.stat().st_mode & 0o077 == 0
    assert cluster_file().key not in repr(cluster_file())


@pytest.mark.parametrize("content", [None, "{}", "no file of ours", '{"name": 1}'])
def test_what_is_no_cluster_file_is_said_in_one_line(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "fleet.cluster"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ClusterFileUnusable) as raised:
        ClusterFile.read(file)
    assert "\n" not in raised.value.message


def test_without_openssl_the_refusal_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(OpensslNotFound, match="install it"):
        ClusterFile.new("x")


@pytest.mark.parametrize("host", ["", "a,b", "box1:6222", "a b", "DNS:x/y"])
def test_a_host_that_no_certificate_can_name_is_refused(host: str) -> None:
    with pytest.raises(InvalidConfiguration, match="is no host"):
        ClusterFile.new("x", [host])


@pytest.mark.parametrize(
    ("address", "host", "port"),
    [
        ("box1", "box1", 6222),
        ("box1:7000", "box1", 7000),
        ("10.0.0.2:7000", "10.0.0.2", 7000),
        ("[::1]:7000", "::1", 7000),
        ("::1", "::1", 6222),
        ("[fd00::2]", "fd00::2", 6222),
    ],
)
def test_addresses_have_a_port_or_get_the_usual_one(address: str, host: str, port: int) -> None:
    assert split_address(address) == (host, port)
    assert split_address(address_of(address)) == (host, port)


@pytest.mark.parametrize(
    "address", ["", ":7000", "box1:", "box1:0", "box1:70000", "nats://box1", "a b", "u@b"]
)
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(InvalidConfiguration, match=r"is no address|no port"):
        split_address(address)
