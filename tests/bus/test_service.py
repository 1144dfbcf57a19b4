"""Actions are answered, refused, limited, counted and drained."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

from suite.bus.action import Action
from suite.bus.connection import Connection, Message
from suite.bus.embedded import EmbeddedServer
from suite.bus.service import Call, HandedOver, Service, action, terminate
from suite.errors import ModelNotFound, UnknownOutcome
from suite.identity import new_id
from suite.messages.actions.base import Reply, Request
from suite.messages.actions.chat import ChatMessage
from suite.messages.signals import Heartbeat, Progress
from suite.messages.subjects import Subjects
from support.nats import eventually, restart_nats, running_nats


class World:
    """What the handlers of these tests work on."""

    def __init__(self) -> None:
        self.go_on = anyio.Event()
        self.running = 0
        self.gone: list[bool] = []
        self.handed_over: list[Call] = []


class AskRequest(Request, frozen=True, kw_only=True):
    text: str
    number: int = 0
    messages: tuple[ChatMessage, ...] | None = None
    stream: bool = False


class AskReply(Reply, frozen=True, kw_only=True):
    text: str


class NoRequest(Request, frozen=True, kw_only=True):
    stream: bool = False


@action("ask")
async def ask(world: World, request: AskRequest, call: Call) -> AskReply:
    """Give the text back."""
    del world
    if request.stream:
        await call.send(Progress(model_id="m", fraction=0.5))
    return AskReply(text=request.text * (request.number or 1))


@action("wait", limit=2, queue=3)
async def wait(world: World, _: NoRequest, __: Call) -> AskReply:
    """Answer when the world goes on."""
    world.running += 1
    try:
        await world.go_on.wait()
    finally:
        world.running -= 1
    return AskReply(text="went on")


@action("refuse")
async def refuse(_: World, request: AskRequest, __: Call) -> AskReply:
    """Refuse, in the way that is asked for."""
    match request.text:
        case "known":
            raise ModelNotFound(f"no model:\nä {request.text}")
        case "unknown outcome":
            raise UnknownOutcome("who knows", event_id="e1")
        case "cancelled":
            raise asyncio.CancelledError
        case _:
            raise ZeroDivisionError("a secret")


@action("hand_over", reply=AskReply)
async def hand_over(world: World, _: NoRequest, call: Call) -> HandedOver:
    """Let somebody else answer."""
    world.handed_over.append(call)
    return HandedOver()


@action("beat")
async def beat(world: World, _: NoRequest, call: Call) -> AskReply:
    """Send signals until nobody receives them any more, or the world goes on."""
    while not (call.gone.is_set() or world.go_on.is_set()):
        await call.send(Heartbeat())
        await anyio.sleep(0.01)
    world.gone.append(call.gone.is_set())
    return AskReply(text="ended")


ACTIONS: tuple[Action[World], ...] = (ask, wait, refuse, hand_over, beat)


@asynccontextmanager
async def serving(
    tmp_path: Path, *, drain_seconds: float = 10.0
) -> AsyncIterator[tuple[EmbeddedServer, Connection, World, Service[World]]]:
    world = World()
    async with (
        running_nats(tmp_path) as (server, connection),
        Service.serve(
            connection,
            ACTIONS,
            world,
            subjects=Subjects(),
            version="1.2.3",
            metadata={"node": "box1"},
            new_id=new_id,
            drain_seconds=drain_seconds,
        ) as service,
        Connection.open(server.client, name="client") as client,
    ):
        yield server, client, world, service


async def call(client: Connection, name: str, body: object = None, **fields: Any) -> dict[str, Any]:
    message = await send(client, name, msgspec.json.encode(fields if body is None else body))
    reply: dict[str, Any] = msgspec.json.decode(message.data)
    return reply


async def send(client: Connection, name: str, data: bytes) -> Message:
    return await client.request(f"suite.action.{name}", data, timeout=20)


async def test_an_action_is_answered_with_its_reply_type(tmp_path: Path) -> None:
    async with serving(tmp_path) as (_, client, _, service):
        assert await call(client, "ask", text="hi") == {
            "status": "success",
            "node": "box1",
            "warnings": [],
            "text": "hi",
        }
        assert service.commands_processed == 1
    assert (ask.name, ask.request_type, ask.reply_type) == ("ask", AskRequest, AskReply)
    assert hand_over.reply_type is AskReply


BAD: Mapping[str, tuple[str, bytes, str, tuple[str, ...]]] = {
    "not JSON": ("ask", b"text=hi", "invalid_json", ("JSON",)),
    "cut short": ("ask", b'{"text": "h', "invalid_json", ()),
    "not UTF-8": ("ask", b'{"text": "\xff"}', "invalid_json", ()),
    "half of a character": (
        "ask",
        rb'{"text": "", "messages": [{"role": "user", "content": "a\ud83d"}]}',
        "invalid_request",
        ("'messages[0].content'", "half of a surrogate pair"),
    ),
    "half of a character in UTF-8": (
        "ask",
        b'{"text": "\xed\xa0\x80"}',
        "invalid_request",
        ("'text'", "half of a surrogate pair"),
    ),
    "half of a character in a name": (
        "ask",
        rb'{"text": "", "a\udc00b": 1}',
        "invalid_request",
        ("'a?b'", "half of a surrogate pair"),
    ),
    "cut short after an escape": ("ask", rb'{"text": "\ud83d', "invalid_json", ()),
    "too deep": ("ask", b'{"text": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "invalid_json", ()),
    "no object": ("ask", b"[]", "invalid_request", ("object",)),
    "missing": ("ask", b"", "invalid_request", ("'text'", "missing")),
    "missing inside": (
        "ask",
        b'{"text": "", "messages": [{"role": "user"}]}',
        "invalid_request",
        ("messages[0]", "content is missing"),
    ),
    "wrong type": ("ask", b'{"text": 7}', "invalid_request", ("'text'", "str", "int")),
    "wrong type inside": (
        "ask",
        b'{"text": "", "messages": [{"role": "user", "content": "x"}, {"role": 1, "content": "x"}]}',
        "invalid_request",
        ("messages[1].role", "str", "int"),
    ),
    "unknown action": ("fly", b"{}", "unknown_action", ("Unknown action: fly",)),
    "unknown deep action": ("ask.me", b"{}", "unknown_action", ("Unknown action: ask.me",)),
    "refused": ("refuse", b'{"text": "known"}', "model_not_found", ("no model:\nä known",)),
    "failed": ("refuse", b'{"text": "boom"}', "internal", ("log",)),
    "gave up": ("refuse", b'{"text": "cancelled"}', "internal", ("log",)),
    "answer too large": ("ask", b'{"text": "xxxxxxxxxxx", "number": 100000}', "too_large", ("bytes",)),
}


@pytest.mark.parametrize("case", BAD)
async def test_what_is_wrong_gets_a_code_and_what_to_do(tmp_path: Path, case: str) -> None:
    name, body, code, words = BAD[case]
    async with serving(tmp_path) as (_, client, _, _):
        answer = await send(client, name, body)
        reply = msgspec.json.decode(answer.data)
        assert (reply["status"], reply["code"]) == ("error", code)
        for word in words:
            assert word in reply["message"]
        assert "secret" not in answer.data.decode()
        assert answer.headers["Nats-Service-Error"] == " ".join(reply["message"].split())[:512]
        assert 400 <= int(answer.headers["Nats-Service-Error-Code"]) < 600
        assert (await call(client, "ask", text="still there"))["text"] == "still there"


async def test_the_event_of_an_unknown_outcome_is_named(tmp_path: Path) -> None:
    async with serving(tmp_path) as (_, client, _, _):
        reply = await call(client, "refuse", text="unknown outcome")
        assert (reply["code"], reply["event_id"]) == ("unknown_outcome", "e1")


async def test_unknown_fields_are_named_wherever_they_are(tmp_path: Path) -> None:
    async with serving(tmp_path) as (_, client, _, _):
        chat = [{"role": "user", "content": "x"}, {"role": "user", "content": "x", "mood": {"text": 1}}]
        reply = await call(client, "ask", text="hi", temprature=1, messages=chat)
        assert reply["status"] == "success"
        assert reply["warnings"] == [
            "unknown field 'temprature' ignored",
            "unknown field 'messages[1].mood' ignored",
        ]
        refused = await call(client, "ask", text=1, temprature=1)
        assert refused["warnings"] == ["unknown field 'temprature' ignored"]
        many = await call(client, "ask", text="hi", **{"x" * 500 + str(n): n for n in range(1000)})
        assert len(msgspec.json.encode(many)) < 4000


async def test_a_stream_ends_with_the_empty_message(tmp_path: Path) -> None:
    async with serving(tmp_path) as (_, client, _, _):
        for body, last in (
            (b'{"text": "hi", "stream": true}', "success"),
            (b'{"number": "x", "stream": true}', "error"),
        ):
            async with client.request_many("suite.action.ask", body, idle_timeout=5) as answers:
                got = [msgspec.json.decode(answer.data) async for answer in answers]
            assert got[-1]["status"] == last
            assert [each["kind"] for each in got[:-1]] == (["progress"] if last == "success" else [])


async def test_a_requester_is_gone_when_it_is_away_for_longer_than_it_takes_to_connect_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(tmp_path) as (_, client, world, _):
        inbox, heard = client.new_inbox(), anyio.Event()

        async def hear(message: Message) -> None:
            del message
            heard.set()

        monkeypatch.setattr("suite.bus.absence.AWAY_SECONDS", 60.0)  # however slow the machine is
        await client.publish("suite.action.beat", b'{"stream": true}', reply=inbox)
        await anyio.sleep(0.1)  # many signals that nobody receives
        there = await client.subscribe(inbox, hear)
        await heard.wait()
        assert not world.gone, "it has only connected again"
        monkeypatch.setattr("suite.bus.absence.AWAY_SECONDS", 0.05)
        await there.unsubscribe()
        with anyio.fail_after(20):
            await eventually(lambda: world.gone == [True])


async def test_what_is_handed_over_is_answered_by_somebody_else(tmp_path: Path) -> None:
    async with serving(tmp_path) as (server, client, world, _):
        async with client.request_many(
            "suite.action.hand_over", b'{"stream": true}', idle_timeout=5
        ) as answers:
            await eventually(lambda: world.handed_over)
            async with Connection.open(server.access, name="other") as other:
                await terminate(other, world.handed_over[0].reply, ModelNotFound(), stream=True)
            got = [msgspec.json.decode(answer.data) async for answer in answers]
        assert [each["code"] for each in got] == ["model_not_found"]


async def test_requests_run_beside_each_other_up_to_the_limit_and_wait_up_to_the_queue(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path) as (_, client, world, _):
        replies: list[str] = []

        async def ask_to_wait() -> None:
            reply = await call(client, "wait")
            replies.append(reply.get("code", reply["status"]))

        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(ask_to_wait)
            await eventually(lambda: world.running == 2)
            await client.flush()
            stats = await endpoint_stats(client, "wait")
            while stats["data"]["waiting"] < 3:
                stats = await endpoint_stats(client, "wait")
            over = await call(client, "wait")
            assert (over["code"], world.running) == ("overloaded", 2)
            assert over["retry_after_ms"] == 1000
            assert (await call(client, "ask", text="others are served"))["status"] == "success"
            world.go_on.set()
        assert replies == ["success"] * 5


async def test_leaving_lets_what_runs_and_waits_come_to_its_end(tmp_path: Path) -> None:
    replies: list[str] = []

    async def ask_to_wait(client: Connection) -> None:
        replies.append((await call(client, "wait"))["status"])

    async with (
        running_nats(tmp_path) as (server, connection),
        Connection.open(server.client, name="c") as client,
    ):
        world = World()
        async with anyio.create_task_group() as tasks:
            serving_world = Service.serve(
                connection,
                ACTIONS,
                world,
                subjects=Subjects(),
                version="1.0.0",
                metadata={},
                new_id=new_id,
            )
            async with serving_world as service:
                for _ in range(4):
                    tasks.start_soon(ask_to_wait, client)
                await eventually(lambda: world.running == 2)
                await client.flush()
                await connection.flush()
                tasks.start_soon(_set_later, world.go_on)
            assert service.commands_processed == 4
        assert replies == ["success"] * 4


async def _set_later(event: anyio.Event) -> None:
    await anyio.sleep(0.1)
    event.set()


async def test_cancelling_the_block_drains_too(tmp_path: Path) -> None:
    async with (
        running_nats(tmp_path) as (server, connection),
        Connection.open(server.client, name="c") as client,
    ):
        world = World()
        replies: list[str] = []

        async def serve(*, task_status: anyio.abc.TaskStatus[anyio.CancelScope]) -> None:
            with anyio.CancelScope() as scope:
                async with Service.serve(
                    connection,
                    ACTIONS,
                    world,
                    subjects=Subjects(),
                    version="1.0.0",
                    metadata={},
                    new_id=new_id,
                ):
                    task_status.started(scope)
                    await anyio.sleep_forever()

        async def ask_to_wait() -> None:
            replies.append((await call(client, "wait"))["status"])

        async with anyio.create_task_group() as tasks:
            scope = await tasks.start(serve)
            tasks.start_soon(ask_to_wait)
            await eventually(lambda: world.running == 1)
            scope.cancel()
            tasks.start_soon(_set_later, world.go_on)
        assert replies == ["success"]


async def test_what_does_not_end_in_time_is_told_so(tmp_path: Path) -> None:
    codes: list[str] = []

    async def ask_to_wait(client: Connection) -> None:
        codes.append((await call(client, "wait"))["code"])

    async with anyio.create_task_group() as tasks, running_nats(tmp_path) as (server, connection):
        async with Connection.open(server.client, name="client") as client:
            world = World()
            async with Service.serve(
                connection,
                ACTIONS,
                world,
                subjects=Subjects(),
                version="1.0.0",
                metadata={},
                new_id=new_id,
                drain_seconds=0.1,
            ):
                for _ in range(4):
                    tasks.start_soon(ask_to_wait, client)
                await eventually(lambda: world.running == 2)
                await client.flush()
            await eventually(lambda: len(codes) == 4)
    assert codes == ["node_stopping"] * 4


async def test_a_request_without_a_reply_subject_is_carried_out(tmp_path: Path) -> None:
    async with serving(tmp_path) as (_, client, world, service):
        world.go_on.set()
        await client.publish("suite.action.wait")
        await client.publish("suite.action.refuse", b'{"text": "known"}')
        await client.publish("suite.action.fly")
        await eventually(lambda: service.commands_processed == 3)


@pytest.mark.parametrize(
    "reply", ["suite.event.model.x.registered", "suite.action.ask", "$JS.API.STREAM.DELETE.SUITE"]
)
async def test_nobody_is_answered_on_a_subject_of_the_suite_itself(tmp_path: Path, reply: str) -> None:
    async with serving(tmp_path) as (server, _, _, service):
        async with Connection.open(server.access, name="any") as connection:
            got: list[Message] = []

            async def note(message: Message) -> None:
                got.append(message)

            await connection.subscribe(reply if reply.startswith("suite.event") else "suite.event.>", note)
            await connection.publish("suite.action.ask", b'{"text": "forged"}', reply=reply)
            assert (await call(connection, "ask", text="next"))["status"] == "success"
            await connection.flush()
            assert (got, service.commands_processed) == ([], 1)


async def test_it_is_found_as_a_micro_service(tmp_path: Path) -> None:
    async with serving(tmp_path) as (_, client, _, _):
        ping = await srv(client, "PING")
        assert (ping["type"], ping["name"], ping["version"]) == (
            "io.nats.micro.v1.ping_response",
            "suite",
            "1.2.3",
        )
        assert ping["metadata"] == {"node": "box1"}
        assert await srv(client, "PING.suite") == await srv(client, f"PING.suite.{ping['id']}") == ping
        info = await srv(client, "INFO.suite")
        assert info["type"] == "io.nats.micro.v1.info_response"
        assert [(each["name"], each["subject"]) for each in info["endpoints"]] == [
            (each.name, f"suite.action.{each.name}") for each in ACTIONS
        ]
        assert info["endpoints"][0]["metadata"]["description"] == "Give the text back."


async def test_the_statistics_count_the_work(tmp_path: Path) -> None:
    async with serving(tmp_path) as (_, client, world, _):
        await call(client, "ask", text="x")
        await call(client, "ask", text=1)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call, client, "wait")
            await eventually(lambda: world.running == 1)
            await anyio.sleep(0.05)
            world.go_on.set()
        asked, waited = await endpoint_stats(client, "ask"), await endpoint_stats(client, "wait")
        assert (asked["num_requests"], asked["num_errors"], asked["last_error"]) == (2, 1, "invalid_request")
        assert waited["processing_time"] == waited["average_processing_time"] >= 50_000_000
        assert (await srv(client, "STATS.suite"))["started"].endswith("Z")


async def test_it_serves_again_after_the_server_was_killed(tmp_path: Path) -> None:
    async with serving(tmp_path) as (server, client, _, service):
        await restart_nats(server, client, service._connection)
        assert (await call(client, "ask", text="again"))["text"] == "again"
        assert (await srv(client, "PING"))["name"] == "suite"


async def srv(client: Connection, verb: str) -> dict[str, Any]:
    reply: dict[str, Any] = msgspec.json.decode((await client.request(f"$SRV.{verb}", timeout=10)).data)
    return reply


async def endpoint_stats(client: Connection, name: str) -> dict[str, Any]:
    endpoints = (await srv(client, "STATS.suite"))["endpoints"]
    return next(each for each in endpoints if each["name"] == name)
