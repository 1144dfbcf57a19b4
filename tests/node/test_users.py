"""A node on a NATS of somebody else, who changes the users there."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

import suite
from suite.bus.accounts import User
from suite.bus.embedded import EmbeddedServer
from suite.client import Client
from suite.config import ConnectionFile, NatsSettings, Settings
from suite.errors import NoService, RequestTimeout
from suite.node.serving import running_node
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
                life = node.connection.connections
                await server.admit([User(NODE.name, "client", NODE.password), CLIENT])
                await eventually(lambda: "msg.get.suite: permissions violation" in caplog.text)
                await server.admit([NODE, CLIENT])
                await served_again(client)
                assert node.connection.connections > life
                await server.admit([CLIENT])
                await eventually(lambda: node.connection.refusal)
                await server.admit([NODE, CLIENT])
                await served_again(client)
