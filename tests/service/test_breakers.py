"""What a gateway tells of the nodes that it does not reach is in the log of the node that it runs beside."""

from __future__ import annotations

from pathlib import Path

import anyio
import anyio.to_thread
import pytest

import suite
from suite.client import Client
from suite.config import ConnectionFile
from support.faults import KillableServer
from support.gateway import RunningGateway
from support.models import tiny_model
from support.service import facts, history, serving

SECONDS = 80.0
CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 2}


def gateway_of(data: Path) -> RunningGateway:
    url = ConnectionFile.read(data).http
    assert url is not None
    return RunningGateway("127.0.0.1", int(url.rpartition(":")[2]), data)


async def until_status(gateway: RunningGateway, status: int, words: str) -> None:
    """Ask from six clients at once, which is more than it takes, until one is answered like this."""
    async with anyio.create_task_group() as tasks:

        async def ask() -> None:
            while True:
                answer = await anyio.to_thread.run_sync(gateway.post, "/v1/chat/completions", CHAT)
                if answer.status == status and words in answer.body.decode():
                    tasks.cancel_scope.cancel()

        for _ in range(6):
            tasks.start_soon(ask)


async def told(client: Client) -> list[str]:
    return facts(await history(client, "breaker.*.service.nodes.>"))


@pytest.mark.timeout(120)
async def test_a_gateway_without_nats_refuses_at_once_and_its_node_tells_it(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    tiny_model(tmp_path / "models" / "tiny.gguf", chat_template="{{ messages[0].content }}")
    data = tmp_path / "data"
    async with (
        KillableServer.start(tmp_path) as server,
        serving(tmp_path / "models", data, "--nats-url", server.access.url, "--http", "127.0.0.1:0"),
    ):
        gateway = gateway_of(data)
        with anyio.fail_after(SECONDS):
            await until_status(gateway, 200, "choices")
            await server.kill()
            await until_status(gateway, 503, "the service behind the gateway is left alone")
            await server.up()
            await until_status(gateway, 200, "choices")
            async with suite.connect(server.access.url) as client:
                while (events := await told(client))[-1:] != ["breaker.closed"]:
                    await anyio.sleep(0.1)
                assert events[0] == "breaker.opened"
                errors = (await client.get_error_groups(error_type="breaker_opened")).groups
                assert [each.count >= 1 for each in errors] == [True]
                assert (await client.health_check()).breakers == ()
