"""Older clients are answered over ZeroMQ: many at once, exactly once each, whatever they send."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
import zmq
import zmq.asyncio

from suite.bus.action import Action
from suite.bus.connection import Connection
from suite.bus.embedded import EmbeddedServer
from suite.bus.service import Call, Service, action
from suite.errors import InvalidConfiguration, ModelNotFound, NotInstalled, PortTaken
from suite.identity import new_id
from suite.legacy.bridge import LIMIT, Ports, serve_old_clients
from suite.legacy.sockets import CONNECTION_LIMIT
from suite.messages.actions.base import Reply, Request
from suite.messages.signals import Chunk, Heartbeat
from suite.messages.subjects import Subjects
from suite.tasks import background
from support.nats import eventually, running_nats

PATIENCE_MS = 20_000


class World:
    def __init__(self) -> None:
        self.go_on = anyio.Event()
        self.running = 0


class EchoRequest(Request, frozen=True, kw_only=True):
    text: str
    times: int = 1


class EchoReply(Reply, frozen=True, kw_only=True):
    text: str


class NoRequest(Request, frozen=True, kw_only=True):
    pass


class WriteRequest(Request, frozen=True, kw_only=True):
    prompt: str
    temperature: float = 0.7
    stream: bool = False


class WriteReply(Reply, frozen=True, kw_only=True):
    text: str
    streamed: bool


class HealthReply(Reply, frozen=True, kw_only=True):
    status: str = "HEALTHY"  # type: ignore[assignment]
    agent: str = "ModelManagerSuite"


@action("echo")
async def echo(_: World, request: EchoRequest, __: Call) -> EchoReply:
    """Give the text back."""
    if request.text == "refuse":
        raise ModelNotFound("no model refuse")
    return EchoReply(text=request.text * request.times)


@action("wait", limit=LIMIT)
async def wait(world: World, _: NoRequest, __: Call) -> EchoReply:
    """Answer when the world goes on."""
    world.running += 1
    try:
        await world.go_on.wait()
    finally:
        world.running -= 1
    return EchoReply(text="went on")


@action("write", aliases=("compose",), wrappers=("params",))
async def write(_: World, request: WriteRequest, call: Call) -> WriteReply:
    """Show signs of life, then answer."""
    if request.stream:
        await call.send(Heartbeat())
        await call.send(Chunk(index=0, text='{"status": "success"}'))
    return WriteReply(text=f"{request.prompt} at {request.temperature}", streamed=request.stream)


@action("health_check")
async def health_check(_: World, __: NoRequest, ___: Call) -> HealthReply:
    """How another node is that gets the request."""
    return HealthReply(agent="another node")


ACTIONS: tuple[Action[World], ...] = (echo, wait, write, health_check)


class Old:
    """The older clients of a test, and where they connect to."""

    def __init__(self, ports: Ports, context: zmq.asyncio.Context) -> None:
        self.ports = ports
        self._context = context

    def client(
        self, kind: int = zmq.REQ, *, port: int | None = None, name: bytes = b""
    ) -> zmq.asyncio.Socket:
        socket = self._context.socket(kind)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.RCVTIMEO, PATIENCE_MS)
        socket.setsockopt(zmq.SNDTIMEO, PATIENCE_MS)
        if name:
            socket.setsockopt(zmq.IDENTITY, name)
        socket.connect(f"tcp://127.0.0.1:{port or self.ports.port}")
        return socket

    async def send(self, *frames: bytes, port: int | None = None) -> dict[str, Any]:
        """What a REQ client gets that sends these frames."""
        with self.client(port=port) as client:
            await client.send_multipart(frames)
            return one(await client.recv_multipart())

    async def ask(self, action: object, **fields: Any) -> dict[str, Any]:
        return await self.send(msgspec.json.encode({"action": action, **fields}))


def one(frames: Sequence[bytes]) -> dict[str, Any]:
    (frame,) = frames
    reply: dict[str, Any] = msgspec.json.decode(frame)
    return reply


@asynccontextmanager
async def old_clients() -> AsyncIterator[zmq.asyncio.Context]:
    context = zmq.asyncio.Context()
    try:
        yield context
    finally:
        context.destroy(linger=0)


@asynccontextmanager
async def bridged(
    tmp_path: Path, *, limit: int = LIMIT, connection_limit: int = CONNECTION_LIMIT
) -> AsyncIterator[tuple[Old, World, EmbeddedServer, Connection]]:
    world = World()
    async with (
        running_nats(tmp_path) as (server, connection),
        Service.serve(
            connection,
            ACTIONS,
            world,
            subjects=Subjects(),
            version="1.0.0",
            metadata={},
            new_id=new_id,
            drain_seconds=0.1,
        ),
        old_clients() as context,
        background() as tasks,
    ):
        ports = await started(tasks, connection, limit=limit, connection_limit=connection_limit)
        yield Old(ports, context), world, server, connection


async def started(
    tasks: anyio.abc.TaskGroup,
    connection: Connection,
    *,
    port: int = 0,
    limit: int = LIMIT,
    connection_limit: int = CONNECTION_LIMIT,
) -> Ports:
    serve = partial(
        serve_old_clients,
        connection,
        Subjects(),
        ACTIONS,
        health=HealthReply,
        host="127.0.0.1",
        port=port,
        health_check_port=0,
        limit=limit,
        connection_limit=connection_limit,
    )
    ports: Ports = await tasks.start(serve)
    return ports


async def test_a_request_gets_the_reply_that_nats_gives(tmp_path: Path) -> None:
    async with bridged(tmp_path) as (old, _, _, _):
        expected = {"status": "success", "node": "", "warnings": [], "text": "hi"}
        assert await old.ask("echo", text="hi") == expected
        assert await old.ask("/echo", data={"text": "hi"}) == expected
        assert await old.ask("echo", text="hi", times=None) == expected
        refused = await old.ask("echo", text="refuse")
        assert (refused["status"], refused["code"], refused["message"]) == (
            "error",
            "model_not_found",
            "no model refuse",
        )
        warned = await old.ask("echo", text="hi", mood="good")
        assert warned["warnings"] == ["unknown field 'mood' ignored"]


async def test_one_that_shows_signs_of_life_is_waited_for_and_answered_once(tmp_path: Path) -> None:
    async with bridged(tmp_path) as (old, _, _, _):
        for name, fields in (
            ("write", {"prompt": "a", "params": {"temperature": 0.5}}),
            ("compose", {"data": {"prompt": "a", "params": {"temperature": 0.5}}}),
            ("/compose", {"prompt": "a", "temperature": 0.5, "stream": False}),
            ("write", {"prompt": "a", "temperature": 0.5, "stream": True}),
        ):
            reply = await old.ask(name, **fields)
            assert (reply["text"], reply["streamed"], reply["warnings"]) == ("a at 0.5", True, [])


async def test_anything_on_the_health_port_gets_the_health_of_this_node(tmp_path: Path) -> None:
    async with bridged(tmp_path) as (old, _, _, _):
        for frames in ((b"",), (b"ping",), (b"\xff\x00",), (b'{"action": "fly"}',), (b"a", b"", b"b")):
            reply = await old.send(*frames, port=old.ports.health_check_port)
            assert (reply["status"], reply["agent"]) == ("HEALTHY", "ModelManagerSuite")
        assert (await old.ask("health_check"))["agent"] == "another node"


async def test_a_slow_request_of_one_does_not_hold_up_the_others(tmp_path: Path) -> None:
    async with bridged(tmp_path) as (old, world, _, _):
        slow: list[dict[str, Any]] = []

        async def ask_slow() -> None:
            slow.append(await old.ask("wait"))

        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(ask_slow)
            await eventually(lambda: world.running == 20)
            got: dict[int, dict[str, Any]] = {}

            async def ask_fast(number: int) -> None:
                got[number] = await old.ask("echo", text=str(number))

            async with anyio.create_task_group() as fast:
                for number in range(50):
                    fast.start_soon(ask_fast, number)
            assert {number: reply["text"] for number, reply in got.items()} == {n: str(n) for n in range(50)}
            assert not slow
            world.go_on.set()
        assert [reply["text"] for reply in slow] == ["went on"] * 20


async def test_more_than_the_limit_are_told_overloaded_and_a_flood_stops_nothing(tmp_path: Path) -> None:
    async with bridged(tmp_path, limit=4) as (old, world, _, connection):
        with old.client(zmq.DEALER) as flood:
            wait_body = msgspec.json.encode({"action": "wait"})
            for count in range(500):
                await flood.send_multipart([str(count).encode(), b"", wait_body])
            await eventually(lambda: world.running == 4)
            answer = await connection.request("suite.action.echo", b'{"text": "nats"}', timeout=20)
            assert msgspec.json.decode(answer.data)["text"] == "nats"
            health = await old.send(b"", port=old.ports.health_check_port)
            assert health["status"] == "HEALTHY"
            overloaded = set()
            for _ in range(496):
                number, empty, reply = await flood.recv_multipart()
                assert empty == b""
                refusal = one([reply])
                assert (refusal["code"], refusal["retry_after_ms"]) == ("overloaded", 1000)
                overloaded.add(number)
            world.go_on.set()
            served = {(await flood.recv_multipart())[0] for _ in range(4)}
            assert len(overloaded | served) == 500
        assert (await old.ask("echo", text="again"))["text"] == "again"


ASK_AND_DIE = """
import sys, zmq
client = zmq.Context().socket(zmq.REQ)
client.connect(f"tcp://127.0.0.1:{sys.argv[1]}")
client.send(b'{"action": "wait"}')
sys.stdin.read()
"""


async def test_a_client_that_dies_while_it_waits_harms_nobody(tmp_path: Path) -> None:
    async with bridged(tmp_path) as (old, world, _, _):
        dying = await anyio.open_process(
            [sys.executable, "-c", ASK_AND_DIE, str(old.ports.port)], stderr=subprocess.DEVNULL
        )
        with old.client() as leaving:
            await leaving.send(b'{"action": "wait"}')
            await eventually(lambda: world.running == 2)
        dying.send_signal(signal.SIGKILL)
        await dying.aclose()
        assert (await old.ask("echo", text="alive"))["text"] == "alive"
        world.go_on.set()
        await eventually(lambda: world.running == 0)
        assert (await old.ask("echo", text="after"))["text"] == "after"


async def test_a_client_that_comes_back_under_its_name_is_answered(tmp_path: Path) -> None:
    async with bridged(tmp_path) as (old, world, _, _):
        with old.client(name=b"agent") as hanging:
            await hanging.send(b'{"action": "wait"}')
            await eventually(lambda: world.running == 1)
            with old.client(name=b"agent") as client:
                await client.send(b'{"action": "echo", "text": "back"}')
                assert one(await client.recv_multipart())["text"] == "back"


MALFORMED: dict[str, tuple[Sequence[bytes], str, str]] = {
    "not JSON": ([b"action=echo"], "invalid_json", "not JSON"),
    "binary": ([bytes(range(256))], "invalid_json", "not JSON"),
    "not UTF-8": ([b'{"action": "\xff"}'], "invalid_json", "not JSON"),
    "NaN": ([b'{"action": "echo", "text": "x", "value": NaN}'], "invalid_json", "no NaN"),
    "Infinity": ([b'{"action": "echo", "values": [-Infinity]}'], "invalid_json", "no Infinity"),
    "too deep": ([b"[" * 100_000], "invalid_json", "not JSON"),
    "a list": ([b'["echo"]'], "invalid_request", "object"),
    "a text": ([b'"echo"'], "invalid_request", "object"),
    "no action": ([b'{"text": "hi"}'], "invalid_request", "'action' is missing"),
    "action in data only": ([b'{"data": {"action": "echo"}}'], "invalid_request", "'action' is missing"),
    "action is null": ([b'{"action": null}'], "invalid_request", "'action' is missing"),
    "action is a number": ([b'{"action": 7}'], "invalid_request", "'action'"),
    "action is a list": ([b'{"action": ["echo"]}'], "invalid_request", "'action'"),
    "empty": ([b""], "invalid_request", "no content"),
    "two parts": ([b'{"action": "echo"}', b"{}"], "invalid_request", "2 parts"),
    "empty parts": ([b"", b"", b""], "invalid_request", "3 parts"),
    "unknown": ([b'{"action": "fly"}'], "unknown_action", "Unknown action: fly"),
    "empty name": ([b'{"action": ""}'], "unknown_action", "Unknown action: "),
    "a slash": ([b'{"action": "/"}'], "unknown_action", "Unknown action: /"),
    "dots": ([b'{"action": "echo.me"}'], "unknown_action", "Unknown action: echo.me"),
    "all": ([b'{"action": ">"}'], "unknown_action", "Unknown action: >"),
    "any": ([b'{"action": "*"}'], "unknown_action", "Unknown action: *"),
    "another subject": ([b'{"action": "x\\r\\nPUB suite.event.x 0"}'], "unknown_action", "Unknown action: x"),
    "spaces": ([b'{"action": " echo "}'], "unknown_action", "Unknown action:  echo "),
    "a long name": ([b'{"action": "' + b"x" * 100_000 + b'"}'], "unknown_action", "Unknown action: xxx"),
    "a missing field": ([b'{"action": "echo"}'], "invalid_request", "'text' is missing"),
    "a null for a field": ([b'{"action": "echo", "text": null}'], "invalid_request", "'text' is missing"),
    "twice": ([b'{"action": "echo", "text": "a", "data": {"text": "b"}}'], "invalid_request", "'text'"),
    "10 MB": ([b'{"action": "echo", "text": "' + b"x" * 10_000_000 + b'"}'], "too_large", "1048576"),
    "10 MB of nothing": ([bytes(10_000_000)], "too_large", "1048576"),
    "as large as may be": (
        [b'{"action":"echo","text":"' + b"x" * (2**20 - 27) + b'"}'],
        "too_large",
        "1048576",
    ),
    "a reply too large": ([b'{"action": "echo", "text": "xxxx", "times": 500000}'], "too_large", "bytes"),
}


async def test_what_is_malformed_gets_one_reply_that_says_so(tmp_path: Path) -> None:
    async with bridged(tmp_path) as (old, _, _, connection):
        for case, (frames, code, words) in MALFORMED.items():
            reply = await old.send(*frames)
            assert (reply["status"], reply["code"]) == ("error", code), case
            assert words in reply["message"], case
            assert len(reply["message"]) < 400, case
            assert (await old.ask("echo", text="still"))["text"] == "still", case
        assert connection.connections == 1


async def test_frames_of_other_sockets_than_req_are_answered_in_kind(tmp_path: Path) -> None:
    async with bridged(tmp_path) as (old, _, _, _):
        body = b'{"action": "echo", "text": "hi"}'
        with old.client(zmq.DEALER) as dealer:
            for sent, envelope in (
                ([body], []),
                ([b"", body], [b""]),
                ([b"far", b"", body], [b"far", b""]),
                ([b"farther", b"far", b"", body], [b"farther", b"far", b""]),
            ):
                await dealer.send_multipart(sent)
                got = await dealer.recv_multipart()
                assert got[:-1] == envelope
                assert one(got[-1:])["text"] == "hi"
            for sent in ([b""], [b"", b""], [body, b""], [body, body], [b"x"] * 1000):
                await dealer.send_multipart(sent)
                assert one((await dealer.recv_multipart())[-1:])["status"] == "error"


async def test_what_does_not_speak_zeromq_is_hung_up_on(tmp_path: Path) -> None:
    async with bridged(tmp_path) as (old, _, _, _):
        for sent in (b"GET / HTTP/1.1\r\n\r\n" * 100, bytes(1000), b"\xff" * 1000):
            async with await anyio.connect_tcp("127.0.0.1", old.ports.port) as stream:
                await stream.send(sent)
        assert (await old.ask("echo", text="still"))["text"] == "still"


async def test_a_port_has_so_many_connections_at_most(tmp_path: Path) -> None:
    async with bridged(tmp_path, connection_limit=4) as (old, _, _, _), AsyncExitStack() as stack:
        early = stack.enter_context(old.client())
        await early.send(b'{"action": "echo", "text": "early"}')
        assert one(await early.recv_multipart())["text"] == "early"
        idle = [
            await stack.enter_async_context(await anyio.connect_tcp("127.0.0.1", old.ports.port))
            for _ in range(3)
        ]
        with anyio.fail_after(PATIENCE_MS / 1000):
            for _ in range(5):
                late = await anyio.connect_tcp("127.0.0.1", old.ports.port)
                with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
                    while True:
                        await late.receive()  # a greeting at most, and then the end
                await late.aclose()
        await early.send(b'{"action": "echo", "text": "still"}')
        assert one(await early.recv_multipart())["text"] == "still"
        await idle[0].aclose()
        assert (await old.ask("echo", text="room again"))["text"] == "room again"


async def test_what_is_for_operators_is_refused_to_who_gives_no_credentials(tmp_path: Path) -> None:
    async with bridged(tmp_path) as (old, _, _, _):
        refused = await old.ask("rebuild_projection", projection="usage")
        assert refused["code"] == "access_denied"


async def test_without_nats_clients_are_told_so(tmp_path: Path) -> None:
    async with running_nats(tmp_path) as (_, connection), old_clients() as context, background() as tasks:
        old = Old(await started(tasks, connection), context)
        for name in ("echo", "write"):
            reply = await old.ask(name, text="hi", prompt="hi")
            assert (reply["status"], reply["code"]) == ("error", "no_service")
        health = await old.send(b"", port=old.ports.health_check_port)
        assert health["status"] == "HEALTHY", "what is wrong is for the node to say"


async def test_who_waits_at_the_end_is_told_so_and_the_port_is_free_again(tmp_path: Path) -> None:
    async with running_nats(tmp_path) as (_, connection), old_clients() as context:
        world = World()
        async with Service.serve(
            connection,
            ACTIONS,
            world,
            subjects=Subjects(),
            version="1.0.0",
            metadata={},
            new_id=new_id,
            drain_seconds=0,
        ):
            async with background() as tasks:
                ports = await started(tasks, connection)
                client = Old(ports, context).client()
                await client.send(b'{"action": "wait"}')
                await eventually(lambda: world.running == 1)
            assert one(await client.recv_multipart())["code"] == "node_stopping"
            client.close()
            async with background() as tasks:
                again = await started(tasks, connection, port=ports.port)
                assert again.port == ports.port
                assert (await Old(again, context).ask("echo", text="hi"))["text"] == "hi"


async def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    async with running_nats(tmp_path) as (_, connection), background() as tasks:
        ports = await started(tasks, connection)
        with pytest.raises(PortTaken, match=rf"port {ports.port} on 127\.0\.0\.1 is in use.*legacy\.port"):
            await serve_old_clients(
                connection,
                Subjects(),
                ACTIONS,
                health=HealthReply,
                host="127.0.0.1",
                port=ports.port,
                health_check_port=0,
            )
        with pytest.raises(PortTaken, match=r"legacy\.health_check_port"):
            await serve_old_clients(
                connection,
                Subjects(),
                ACTIONS,
                health=HealthReply,
                host="localhost",
                port=0,
                health_check_port=ports.port,
            )


@pytest.mark.parametrize("host", ["203.0.113.1", "no such host", ""])
async def test_a_host_that_is_none_of_this_machine_is_refused(tmp_path: Path, host: str) -> None:
    async with running_nats(tmp_path) as (_, connection):
        with pytest.raises(InvalidConfiguration, match=r"legacy\.host"):
            await serve_old_clients(
                connection, Subjects(), ACTIONS, health=HealthReply, host=host, port=0, health_check_port=0
            )


async def test_without_zeromq_it_is_said_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "zmq", None)
    async with running_nats(tmp_path) as (_, connection):
        with pytest.raises(NotInstalled, match=r"model-manager-suite\[zmq\]"):
            await serve_old_clients(
                connection,
                Subjects(),
                ACTIONS,
                health=HealthReply,
                host="127.0.0.1",
                port=0,
                health_check_port=0,
            )


async def test_the_suite_is_imported_without_zeromq() -> None:
    script = (
        "import suite.cli.main, suite.node.serving, suite.legacy.bridge, suite.legacy.error_publisher, sys; "
    )
    script += "assert 'zmq' not in sys.modules"
    await anyio.run_process([sys.executable, "-c", script], stderr=None)
