"""Clients go on by themselves when the service was killed, or stopped, and is started again."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from subprocess import DEVNULL, PIPE
from urllib.parse import urlsplit

import anyio
import anyio.abc
import msgspec
import pytest
from anyio.streams.buffered import BufferedByteReceiveStream

import suite
from suite.bus import credentials
from suite.client import Client
from suite.errors import NodeStopping, NoService, RequestTimeout, SuiteError, Unavailable
from suite.tasks import background
from support.example_programs import javascript, python
from support.models import tiny_model
from support.nats import eventually
from support.service import Serving, history, serving

BACK_SECONDS = 40
GREETING = b'INFO {"server_id":"X","version":"2.12.0","headers":true,"max_payload":1048576}\r\n'


class Followed:
    """The sequences that a process has printed, which follows the events."""

    def __init__(self) -> None:
        self.seqs: list[int] = []

    async def read(self, process: anyio.abc.Process) -> None:
        assert process.stdout is not None
        lines = BufferedByteReceiveStream(process.stdout)
        while True:
            line = await lines.receive_until(b"\n", 1 << 20)
            self.seqs.append(msgspec.json.decode(line)["seq"] if line[:1] == b"{" else int(line.split()[0]))


@asynccontextmanager
async def following(*command: str | Path, errors: Path) -> AsyncIterator[Followed]:
    with errors.open("wb") as stderr:
        process = await anyio.open_process(
            [str(word) for word in command], stdin=DEVNULL, stdout=PIPE, stderr=stderr
        )
    async with process:
        followed = Followed()
        try:
            async with background() as tasks:
                tasks.start_soon(followed.read, process)
                yield followed
        finally:
            if process.returncode is None:
                process.kill()


async def logged(client: Client, value: float) -> None:
    """Log a sample, however long the service is away."""
    with anyio.fail_after(BACK_SECONDS):
        while True:
            try:
                await client.log_performance_metric("agent", "latency", value, metric_id=f"m{value}")
            except (Unavailable, NoService, RequestTimeout, NodeStopping):
                await anyio.sleep(0.05)
            else:
                return


async def cut_in_the_middle(client: Client, service: Serving, *, kill: bool) -> str:
    """End the service under a generation; the code of the error with which that ends."""
    with anyio.fail_after(BACK_SECONDS), pytest.raises(SuiteError) as error:
        async for chunk in client.generate("tiny", "x", max_tokens=4000):
            if chunk.index == 1:
                await (service.kill() if kill else service.stop())
    return error.value.code


async def test_clients_go_on_after_a_kill_and_after_a_stop(tmp_path: Path) -> None:
    models, data = tmp_path / "models", tmp_path / "data"
    models.mkdir()
    tiny_model(models / "tiny.gguf", context=4096)
    options = ("--data-dir", data)
    brief = {"SUITE_DRAIN_SECONDS": "0.1"}
    async with AsyncExitStack() as stack:
        service = await stack.enter_async_context(serving(models, data, environ=brief))
        url = service.connection_file().url
        own = await stack.enter_async_context(suite.connect(data_dir=data))
        password = credentials.read(credentials.path(data)).get("client").password
        by_url = await stack.enter_async_context(suite.connect(url, user="client", password=password))
        followers = [
            await stack.enter_async_context(following(*command, errors=tmp_path / f"{number}.stderr"))
            for number, command in enumerate(
                (
                    (sys.executable, "-m", "suite", "events", "--follow", "--json", *options),
                    javascript("consume_events.mjs", data),
                    python("consume_events.py", data),
                )
            )
        ]
        await logged(own, 0)
        for followed in followers:  # they must have come before they can come back
            await eventually(lambda f=followed: f.seqs)  # type: ignore[misc]
        for value, (kill, code) in enumerate(((True, "node_lost"), (False, "node_stopping")), 1):
            assert await cut_in_the_middle(own, service, kill=kill) == code
            service = await stack.enter_async_context(serving(models, data, environ=brief))
            assert service.connection_file().url == url
            await logged(own, value)
            await logged(by_url, value + 0.5)
            wanted = [event.seq for event in await history(own)]
            for followed in followers:
                await eventually(lambda f=followed, w=wanted: f.seqs[-1:] == w[-1:])  # type: ignore[misc]
            command_line, example, durable = (followed.seqs for followed in followers)
            assert command_line == example == wanted
            assert sorted(set(durable)) == wanted, "what was not acknowledged may come again"
        said = (tmp_path / "0.stderr").read_text()
        assert (said.count(" is lost "), said.count(" again\n")) == (2, 2), said


async def test_clients_go_on_although_another_process_has_taken_the_port(tmp_path: Path) -> None:
    models, data = tmp_path / "models", tmp_path / "data"
    models.mkdir()
    seen: list[int] = []
    strangers: list[bytes] = []

    async def follow(client: Client) -> None:
        async for event in client.events(follow=True):
            seen.append(event.seq)  # noqa: PERF401 - the test looks at it meanwhile

    async def listen(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            await stream.send(GREETING)
            async for received in stream:
                strangers.append(received)  # noqa: PERF401 - the test looks at it meanwhile

    async with AsyncExitStack() as stack:
        service = await stack.enter_async_context(serving(models, data))
        port = urlsplit(service.connection_file().url).port
        assert port is not None
        client = await stack.enter_async_context(suite.connect(data_dir=data))
        await service.kill()
        taken = await stack.enter_async_context(await bound(port))
        tasks = await stack.enter_async_context(background())
        tasks.start_soon(taken.serve, listen)
        # It connects as the reader only now, while nothing serves.
        tasks.start_soon(follow, client)
        service = await stack.enter_async_context(serving(models, data))
        assert urlsplit(service.connection_file().url).port != port
        await logged(client, 1)
        last = await client.last_seq()
        await eventually(lambda: seen[-1:] == [last])
        assert not strangers, "who listens there gets no password"


async def bound(port: int) -> anyio.abc.Listener[anyio.abc.SocketStream]:
    """Listen on this port as soon as the server of the service that was killed has died."""
    with anyio.fail_after(BACK_SECONDS):
        while True:
            try:
                return await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=port)
            except OSError:
                await anyio.sleep(0.05)
