"""Users who change while a node runs: on its own server by a file, on that of somebody else by surprise."""

from __future__ import annotations

from collections.abc import Callable
from errno import ENOSPC
from pathlib import Path

import anyio
import pytest

import suite
from suite.bus import credentials
from suite.bus.accounts import User
from suite.bus.connection import Connection
from suite.bus.embedded import EmbeddedServer
from suite.client import Client
from suite.config import ConnectionFile, NatsSettings, Settings
from suite.errors import AccessDenied, NoService, RequestTimeout
from suite.node.address import Address
from suite.node.startup import running_node
from suite.node.users import UsersWatch
from suite.tasks import background
from support.nats import PATIENCE_SECONDS, eventually

NODE = User("node", "suite", "n")
CLIENT = User("someone", "client", "s")


async def served_again(client: Client) -> None:
    with anyio.fail_after(PATIENCE_SECONDS):
        while True:
            try:
                await client.list_models()
            except (NoService, RequestTimeout):
                await anyio.sleep(0.05)
            else:
                return


async def test_a_node_outlives_changes_of_its_own_user(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("suite.bus.connection.REGAIN_SECONDS", 0.2)
    monkeypatch.setattr("suite.node.membership.RENEW_SECONDS", 0.05)
    monkeypatch.setenv("SUITE_NATS_USER", CLIENT.name)
    monkeypatch.setenv("SUITE_NATS_PASSWORD", CLIENT.password)
    async with EmbeddedServer.start(tmp_path / "nats", users=[NODE, CLIENT]) as server:
        access = server.access_of(NODE.name)
        settings = Settings(
            node="box1",
            data_dir=tmp_path / "data",
            models_directories=(tmp_path,),
            standby=False,
            nats=NatsSettings(
                url=access.url, user=NODE.name, password=NODE.password, inbox_prefix=access.inbox_prefix
            ),
        )
        async with running_node(settings) as node:
            assert NODE.password not in ConnectionFile.path(settings.data_dir).read_text().split('"')
            # Who this is, the environment says; where the service is, connection.json.
            async with suite.connect(data_dir=settings.data_dir, request_seconds=1) as client:
                await client.list_models()
                await server.admit([User(NODE.name, "client", NODE.password), CLIENT])
                await eventually(lambda: "this user may not" in caplog.text)
                await server.admit([NODE, CLIENT])
                await served_again(client)
                assert node.connection.connections == 1, "nothing else on it was disturbed"
                await server.admit([CLIENT])
                await eventually(lambda: node.connection.refusal)
                await server.admit([NODE, CLIENT])
                await served_again(client)


async def test_a_file_that_cannot_be_used_changes_nobody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("suite.node.users.LOOK_SECONDS", 0.01)
    file = credentials.path(tmp_path)
    users = credentials.change(file).listed()
    async with EmbeddedServer.start(tmp_path / "nats", users=users) as server, background() as tasks:
        address = Address(Settings(node="n", data_dir=tmp_path), server)
        address.publish()
        tasks.start_soon(UsersWatch(server, file, address).run)
        good = file.read_bytes()
        file.write_bytes(b"{")
        await eventually(lambda: "is damaged" in caplog.text)
        file.unlink()
        await eventually(lambda: "No such file" in caplog.text)
        assert server.users == users
        file.write_bytes(good)
        file.chmod(0o600)
        operator = credentials.change(file, lambda known: known.rotate("operator", "new")).listed()
        await eventually(lambda: ConnectionFile.read(tmp_path).password == "new")
        await eventually(lambda: server.users == operator)
        address.withdraw()
        credentials.change(file, lambda known: known.revoke("client"))
        await eventually(lambda: len(server.users) == 2)
        assert not ConnectionFile.path(tmp_path).exists(), "a node that stops serving is not found again"
        assert caplog.text.count("is damaged") == 1


async def test_a_change_that_fails_is_made_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("suite.node.users.LOOK_SECONDS", 0.01)
    monkeypatch.setattr("suite.bus.embedded.RELOAD_SECONDS", 0.5)
    caplog.set_level("INFO", "suite.node")
    file = credentials.path(tmp_path)
    users = credentials.change(file).listed()

    def failing_once(target: object, name: str, failure: Callable[[], object]) -> None:
        works, faults = getattr(target, name), [failure]
        monkeypatch.setattr(target, name, lambda *given: faults.pop()() if faults else works(*given))

    def disk_full() -> None:
        raise OSError(ENOSPC, "No space left on device")

    async with EmbeddedServer.start(tmp_path / "nats", users=users) as server, background() as tasks:
        address = Address(Settings(node="n", data_dir=tmp_path), server)
        address.publish()
        tasks.start_soon(UsersWatch(server, file, address).run)
        for number, (target, name, failure, told) in enumerate(
            (
                (server, "_write_configuration", disk_full, "No space left"),
                (address, "refresh", disk_full, "No space left"),
                (
                    server,
                    "_configuration",
                    lambda: {"accounts": 1},
                    "nats-server refuses its configuration: ",
                ),
                (server._process, "send_signal", lambda: None, "nats-server has not read its configuration"),
            )
        ):
            caplog.clear()
            failing_once(target, name, failure)
            old, new = server.operator, f"new{number}"
            changed = credentials.change(file, lambda known, n=new: known.rotate("operator", n)).listed()  # type: ignore[misc]
            await eventually(lambda: "the users of nats-server are now" in caplog.text)
            assert server.users == changed
            assert f"changes of users are not in force: {told}" in caplog.text.replace("[Errno 28] ", "")
            assert ConnectionFile.read(tmp_path).password == new
            async with Connection.open(server.operator, name="new"):
                with pytest.raises(AccessDenied):
                    async with Connection.open(old, name="old"):
                        pass
