"""A gateway beside its node, with memory for one model: cold models, clients that are gone, its own end."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import msgspec
import psutil
import pytest

import suite
from suite.client import Client
from suite.config import ConnectionFile
from suite.messages.actions.status import ModelInfo
from suite.messages.events import Generated
from support.command import run_command
from support.gateway import Answered, RunningGateway, beside_a_node
from support.models import CHAT_TEMPLATE, slow_model
from support.service import facts, history

SECONDS = 30.0
SETTINGS = """
memory_limit_gb = 0.3
turn_seconds = 60
drain_seconds = 1
http.load_seconds = 2
http.max_body_mb = 0.1
"""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """Of a node with the models a and b, and memory for one of them."""
    directory = tmp_path_factory.mktemp("serving")
    for name in ("a", "b"):
        slow_model(directory / f"{name}.gguf", chat_template=CHAT_TEMPLATE)
    (directory / "suite.toml").write_text(SETTINGS)
    with beside_a_node(directory, directory / "data", "--config", str(directory / "suite.toml")) as running:
        yield running


def endless(model: str, *, stream: bool) -> dict[str, Any]:
    messages = [{"role": "user", "content": "Once"}]
    return {"model": model, "messages": messages, "max_tokens": 3900, "stream": stream}


@contextmanager
def asking(gateway: RunningGateway, body: dict[str, Any]) -> Iterator[socket.socket]:
    """A request whose answer is not read; its client is gone at the end of the block."""
    connection = gateway.connect()
    connection.request("POST", "/v1/chat/completions", msgspec.json.encode(body))
    assert connection.sock is not None
    try:
        yield connection.sock
    finally:
        connection.close()


async def until(client: Client, model_id: str, holds: Callable[[ModelInfo], bool]) -> ModelInfo:
    """Wait until something holds for the status of a model."""
    with anyio.fail_after(SECONDS):
        while True:
            model = (await client.get_model_status(model_id)).model
            assert model is not None
            if holds(model):
                return model
            await anyio.sleep(0.02)


def runs(model: ModelInfo) -> bool:
    return model.instance is not None and model.instance.running > 0


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_is_gone_cancels_its_generation(gateway: RunningGateway, stream: bool) -> None:
    async with suite.connect(data_dir=gateway.data_dir) as client:
        await client.load_model("a")
        seen = len(await history(client, "usage"))
        with asking(gateway, endless("a", stream=stream)):
            await until(client, "a", runs)
        await until(client, "a", lambda model: not runs(model))
        (event,) = (await history(client, "usage"))[seen:]
        assert isinstance(event.data, Generated)
        assert event.data.outcome in ("cancelled", "client_gone")


async def test_a_cold_model_that_takes_too_long_is_told_with_how_far_it_is(gateway: RunningGateway) -> None:
    answers: list[Answered] = []

    async def ask(path: str, body: dict[str, Any]) -> None:
        answers.append(await anyio.to_thread.run_sync(gateway.post, path, body))

    async with suite.connect(data_dir=gateway.data_dir) as client:
        await client.load_model("a")
        with asking(gateway, endless("a", stream=True)):
            await until(client, "a", runs)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(ask, "/v1/chat/completions", endless("b", stream=False))
                tasks.start_soon(ask, "/v1/chat/completions", endless("b", stream=True))
                tasks.start_soon(
                    ask, "/v1/chat/completions", {**endless("b", stream=True), "load_wait_ms": 9}
                )
                tasks.start_soon(ask, "/v1/embeddings", {"model": "b", "input": "x"})
            await until(client, "b", lambda model: model.waiting == 0)
    for answer in answers:
        assert (answer.status, answer.error["code"]) == (503, "model_loading")
        assert 1 <= int(answer.headers["retry-after"]) <= 120
        assert answer.document["loading"] == {"state": "waiting", "progress": None, "eta_seconds": None}


async def test_a_client_that_is_gone_no_longer_waits_for_a_model(gateway: RunningGateway) -> None:
    async with suite.connect(data_dir=gateway.data_dir) as client:
        await client.load_model("a")
        with asking(gateway, endless("a", stream=True)):
            await until(client, "a", runs)
            with asking(gateway, {**endless("b", stream=True), "load_wait_ms": 60_000}):
                await until(client, "b", lambda model: model.waiting == 1)
            await until(client, "b", lambda model: model.waiting == 0)


async def test_a_model_that_is_killed_in_mid_stream_ends_it_with_an_error(gateway: RunningGateway) -> None:
    async with suite.connect(data_dir=gateway.data_dir) as client:
        await client.load_model("a")
        connection = gateway.connect()
        connection.request("POST", "/v1/chat/completions", msgspec.json.encode(endless("a", stream=True)))
        response = await anyio.to_thread.run_sync(connection.getresponse)
        assert response.status == 200
        await anyio.to_thread.run_sync(response.readline)
        model = await until(client, "a", runs)
        assert model.instance is not None
        assert model.instance.pid is not None
        os.kill(model.instance.pid, signal.SIGKILL)
        rest = (await anyio.to_thread.run_sync(response.read)).decode()
        connection.close()
        last = rest.strip().split("\n\n")[-1]
        assert msgspec.json.decode(last.removeprefix("data: "))["error"]["code"] == "actor_crashed"
        assert "[DONE]" not in rest


async def test_a_gateway_that_ends_tells_the_clients_that_still_wait(gateway: RunningGateway) -> None:
    async with suite.connect(data_dir=gateway.data_dir) as client:
        await client.load_model("a")
        connection = gateway.connect()
        connection.request("POST", "/v1/chat/completions", msgspec.json.encode(endless("a", stream=True)))
        response = await anyio.to_thread.run_sync(connection.getresponse)
        await anyio.to_thread.run_sync(response.readline)
        (process,) = gateways(gateway.data_dir)
        process.terminate()
        rest = (await anyio.to_thread.run_sync(response.read)).decode()
        connection.close()
        last = rest.strip().split("\n\n")[-1]
        assert msgspec.json.decode(last.removeprefix("data: "))["error"]["code"] == "unavailable"
        await until(client, "a", lambda model: not runs(model))
        await is_back(gateway, client)


def test_a_body_over_the_limit_is_refused(gateway: RunningGateway) -> None:
    answer = gateway.post("/v1/chat/completions", b'"' + b"x" * 200_000 + b'"')
    assert (answer.status, answer.error["code"]) == (413, "too_large")


async def test_a_gateway_that_dies_is_started_again_and_meanwhile_requests_wait(
    gateway: RunningGateway,
) -> None:
    async with suite.connect(data_dir=gateway.data_dir) as client:
        (process,) = gateways(gateway.data_dir)
        process.kill()
        process.wait(SECONDS)
        with anyio.fail_after(SECONDS):
            while not any("HTTP" in problem for problem in (await client.health_check()).problems):
                await anyio.sleep(0.01)
        await is_back(gateway, client)
        with anyio.fail_after(SECONDS):
            while facts(await history(client, "breaker.*.gateway.http.>"))[-1:] != ["breaker.closed"]:
                await anyio.sleep(0.05)


async def is_back(gateway: RunningGateway, client: Client) -> None:
    """Wait until the gateway was started again."""
    answer = await anyio.to_thread.run_sync(gateway.get, "/v1/models")
    assert answer.status == 200
    with anyio.fail_after(SECONDS):
        while (await client.health_check()).problems:
            await anyio.sleep(0.02)


def gateways(data_dir: Path) -> list[psutil.Process]:
    """The processes that serve HTTP for a node."""
    node = psutil.Process(ConnectionFile.read(data_dir).pid)
    return [each for each in node.children() if "gateway" in each.cmdline()]


def test_a_port_that_is_taken_is_one_clear_line(gateway: RunningGateway, tmp_path: Path) -> None:
    options = ("--data-dir", str(tmp_path), "--http", f"127.0.0.1:{gateway.port}")
    done = run_command("serve", "--models-dir", str(tmp_path), *options)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error port_taken: port {gateway.port} of 127.0.0.1 is not free for HTTP")
    wrong = run_command("serve", "--models-dir", str(tmp_path), "--data-dir", str(tmp_path), "--http", "8080")
    assert "write it as 127.0.0.1:8080" in wrong.stderr
