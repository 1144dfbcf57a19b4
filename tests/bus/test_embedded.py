"""A server of one's own: who may what, what it leaves on the disk, and that it dies with its parent."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import anyio
import msgspec
import psutil
import pytest

from suite.bus import embedded, store_lock
from suite.bus.connection import Connection, Message
from suite.bus.credentials import Credentials
from suite.bus.embedded import EmbeddedServer, find_server, last_port
from suite.bus.store_lock import StoreLock
from suite.errors import AccessDenied, DataDirInUse, DataDirUnusable, PortTaken, ServerNotFound, SuiteError
from suite.messages.actor import NatsAccess
from support.nats import eventually, restart_nats, running_nats

PARENT = """
import sys
from pathlib import Path
import anyio
from suite.bus.embedded import EmbeddedServer

async def main():
    async with EmbeddedServer.start(Path(sys.argv[1])) as server:
        print(server.pid, flush=True)
        await anyio.sleep_forever()

anyio.run(main)
"""


async def stored(connection: Connection) -> None:
    configuration = {"name": "SUITE", "subjects": ["suite.event.>"]}
    answer = await connection.request(
        "$JS.API.STREAM.CREATE.SUITE", msgspec.json.encode(configuration), timeout=10
    )
    assert b'"error"' not in answer.data
    for number in range(3):
        await connection.request(f"suite.event.test.{number}", str(number).encode(), timeout=10)


async def refused(connection: Connection, subject: str) -> bool:
    try:
        await connection.request(subject, b"{}", timeout=5)
    except AccessDenied:
        return True
    except SuiteError:
        return False
    return False


async def may_listen(connection: Connection, subject: str) -> bool:
    async def ignore(message: Message) -> None:
        del message

    try:
        await connection.subscribe(subject, ignore)
    except AccessDenied:
        return False
    return True


def files_below(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file()]


async def test_the_store_survives_the_server(tmp_path: Path) -> None:
    async with running_nats(tmp_path) as (server, connection):
        port = server.port
        await stored(connection)
        await restart_nats(server, connection)
        assert server.port == port
        answer = await connection.request("$JS.API.STREAM.INFO.SUITE", timeout=10)
        assert msgspec.json.decode(answer.data)["state"]["messages"] == 3
    async with running_nats(tmp_path) as (_, connection):
        answer = await connection.request("$JS.API.STREAM.INFO.SUITE", timeout=10)
        assert msgspec.json.decode(answer.data)["state"]["messages"] == 3


async def test_every_write_is_synced_and_only_loopback_is_listened_on(tmp_path: Path) -> None:
    async with running_nats(tmp_path) as (server, _):
        configuration = msgspec.json.decode((tmp_path / "nats" / "nats-server.conf").read_bytes())
        assert configuration["jetstream"]["sync_interval"] == "always"
        listening = [
            each.laddr.ip for each in psutil.Process(server.pid).net_connections() if each.status == "LISTEN"
        ]
        assert set(listening) == {"127.0.0.1"}


async def test_only_the_owner_reads_the_passwords(tmp_path: Path) -> None:
    directory = tmp_path / "nats"
    async with EmbeddedServer.start(directory) as server:
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        assert stat.S_IMODE((directory / "nats-server.conf").stat().st_mode) == 0o600
        secrets = [
            access.password
            for access in (server.access, server.operator, server.client, server.consumer, server.mirror)
        ]
        assert len(set(secrets)) == 5
        command = " ".join(psutil.Process(server.pid).cmdline())
        log = (directory / "nats-server.log").read_text()
        assert all(secret and secret not in command + log for secret in secrets)


async def test_a_client_asks_and_reads_its_own_answers_only(tmp_path: Path) -> None:
    async with running_nats(tmp_path) as (server, suite):
        await stored(suite)
        async with Connection.open(server.client, name="client") as client:
            for subject in (
                "suite.event.test.forged",
                "suite.actor.box1.x",
                "$JS.API.STREAM.INFO.SUITE",
                "_INBOX.suite.x",
            ):
                assert await refused(client, subject), subject
            for subject in ("suite.action.x", "$SRV.PING"):
                assert not await refused(client, subject), subject
            for subject in ("_INBOX.>", "_INBOX.operator.>", "suite.event.>", "suite.action.>", ">"):
                assert not await may_listen(client, subject), subject
            assert await may_listen(client, "_INBOX.client.>")


async def test_readers_are_in_an_account_of_their_own(tmp_path: Path) -> None:
    async with running_nats(tmp_path) as (server, suite):
        await stored(suite)
        async with Connection.open(server.consumer, name="consumer") as consumer:
            for subject in ("suite.action.x", "$JS.API.STREAM.DELETE.SUITE", "$JS.API.STREAM.CREATE.OTHER"):
                assert await refused(consumer, subject), subject
            assert await may_listen(consumer, "_INBOX.>")
            assert not await may_listen(consumer, "suite.event.>")
            answer = await consumer.request("$JS.API.STREAM.INFO.SUITE", timeout=5)
            assert b"stream not found" in answer.data, "the log is elsewhere, and nobody made a mirror"


async def test_nobody_gets_in_without_credentials(tmp_path: Path) -> None:
    async with EmbeddedServer.start(tmp_path / "nats") as server:
        for user in (None, "client", "mirror"):
            with pytest.raises(AccessDenied):
                async with Connection.open(NatsAccess(url=server.access.url, user=user), name="stranger"):
                    pass


async def test_an_operator_asks_and_never_reaches_jetstream(tmp_path: Path) -> None:
    async with running_nats(tmp_path) as (server, suite):
        await stored(suite)

        async def answer(message: Message) -> None:
            await suite.publish(message.reply, b"answer")

        await suite.subscribe("suite.action.ask", answer)
        async with Connection.open(server.operator, name="operator") as operator:
            assert (await operator.request("suite.action.ask", timeout=5)).data == b"answer"
            for subject in ("suite.event.test.forged", "suite.actor.box1.x", "$JS.API.STREAM.INFO.SUITE"):
                assert await refused(operator, subject), subject
            assert not await may_listen(operator, "_INBOX.client.>")


async def test_a_port_that_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "PORT_SECONDS", 0.0)
    async with EmbeddedServer.start(tmp_path / "one") as server:
        with pytest.raises(PortTaken):
            async with EmbeddedServer.start(tmp_path / "two", port=server.port):
                pass
        async with EmbeddedServer.start(tmp_path / "three") as other:
            assert other.port != server.port


async def test_a_port_that_is_asked_for(tmp_path: Path) -> None:
    async with EmbeddedServer.start(tmp_path / "one") as server:
        port = server.port
    async with EmbeddedServer.start(tmp_path / "two", port=port) as server:
        assert server.port == port


async def test_a_restart_takes_the_same_port_unless_another_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "PORT_SECONDS", 0.0)
    async with EmbeddedServer.start(tmp_path / "one") as server:
        port = server.port
    async with EmbeddedServer.start(tmp_path / "one") as server:
        assert server.port == port
    async with (
        EmbeddedServer.start(tmp_path / "two", port=port),
        EmbeddedServer.start(tmp_path / "one") as server,
    ):
        assert server.port not in (port, 0)
    for noise in ("", "none", "70000", "-1"):
        (tmp_path / "one" / "port").write_text(noise)
        assert last_port(tmp_path / "one") is None


async def test_the_suites_own_passwords_are_new_at_each_start_and_those_of_users_stay(tmp_path: Path) -> None:
    users = Credentials.new().listed()
    async with EmbeddedServer.start(tmp_path, users=users) as server:
        first = server.access, server.mirror, server.client
    async with EmbeddedServer.start(tmp_path, users=users) as server:
        assert server.client == first[2]
        for old, now in ((first[0], server.access), (first[1], server.mirror)):
            assert old.password != now.password
            with pytest.raises(AccessDenied):
                async with Connection.open(old, name="outlived its node"):
                    pass


async def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataDirUnusable, match="data-dir"):
        async with EmbeddedServer.start(tmp_path / "file" / "nats"):
            pass


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo nats-server: v2.11.9", "2.12"),
        ("echo v1", "no nats-server|v1"),
        ("exit 3", "no nats-server"),
        (None, "cannot be run|2.12"),
    ],
)
async def test_a_server_that_will_not_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str | None, words: str
) -> None:
    program = tmp_path / "nats-server"
    program.write_text(f"#!/bin/sh\n{script}\n" if script else "\x7fELF nothing")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(ServerNotFound, match=words):
        await find_server()


async def test_no_server_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(ServerNotFound, match="install"):
        await find_server()


async def test_the_server_beside_this_python_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert Path(await find_server()).parent == Path(sys.executable).parent


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
async def test_it_dies_with_its_parent_however_that_dies(tmp_path: Path, end: signal.Signals) -> None:
    async with await anyio.open_process(
        [sys.executable, "-c", PARENT, str(tmp_path / "nats")],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as parent:
        assert parent.stdout is not None
        server = int(await parent.stdout.receive())
        assert psutil.pid_exists(server)
        parent.send_signal(end)
        await parent.wait()
    await eventually(lambda: not running(server))


async def killed_parent(directory: Path, *, is_frozen: bool) -> int:
    """Kill the parent of a server, which may be frozen before. Returns the server's process id."""
    async with await anyio.open_process(
        [sys.executable, "-c", PARENT, str(directory)], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as parent:
        assert parent.stdout is not None
        server = int(await parent.stdout.receive())
        if is_frozen:
            os.kill(server, signal.SIGSTOP)
        parent.kill()
        await parent.wait()
    return server


async def test_the_server_of_a_killed_node_ends_in_order_before_the_next_one_begins(tmp_path: Path) -> None:
    before = await killed_parent(tmp_path / "nats", is_frozen=False)
    async with EmbeddedServer.start(tmp_path / "nats") as server:
        assert not running(before)
        assert server.pid != before
        assert "JetStream Shutdown" in (tmp_path / "nats" / "nats-server.log").read_text()


async def test_a_frozen_server_of_a_killed_node_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_lock, "PATIENCE_SECONDS", 0.2)
    before = await killed_parent(tmp_path / "nats", is_frozen=True)
    assert running(before)
    async with EmbeddedServer.start(tmp_path / "nats"):
        assert not running(before)


async def test_a_store_that_another_server_uses_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_lock, "PATIENCE_SECONDS", 0.2)
    monkeypatch.setattr(store_lock, "KILLED_SECONDS", 0.2)
    (tmp_path / "nats").mkdir()
    held = StoreLock.take(tmp_path / "nats")
    try:
        with pytest.raises(DataDirInUse, match="another nats-server uses"):
            async with EmbeddedServer.start(tmp_path / "nats"):
                pass
    finally:
        held.release()


def running(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


async def test_nothing_is_left_behind(tmp_path: Path) -> None:
    async with EmbeddedServer.start(tmp_path / "nats") as server:
        pid = server.pid
    assert not running(pid)
    names = {path.name for path in files_below(tmp_path) if "jetstream" not in path.parts}
    assert names == {"nats-server.conf", "nats-server.lock", "nats-server.log", "nats-server.out", "port"}
