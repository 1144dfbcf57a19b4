"""What the service tells its router of each request, so that none of another node is kept there for ever."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import anyio
import msgspec

from suite.bus.action import Call, action
from suite.bus.arrival import Arrival
from suite.bus.connection import Connection, Message
from suite.bus.service import Service
from suite.errors import Quarantined, SuiteError
from suite.identity import new_id
from suite.messages.actions.base import Reply, Request
from suite.messages.subjects import Subjects
from support.nats import eventually, running_nats


class AskRequest(Request, frozen=True, kw_only=True):
    model_id: str = ""


class AskReply(Reply, frozen=True, kw_only=True):
    model_id: str


@action("ask")
async def ask(_: None, request: AskRequest, __: Call) -> AskReply:
    """Say which model is asked for."""
    return AskReply(model_id=request.model_id)


@action("wait", limit=1, queue=1)
async def wait(_: None, __: AskRequest, ___: Call) -> AskReply:
    """Answer never."""
    await anyio.sleep_forever()
    raise AssertionError


@action("fail")
async def fail(_: None, __: AskRequest, ___: Call) -> AskReply:
    """Have a model that failed too often."""
    raise Quarantined("it crashed", retry_after_ms=1000)


class FakeRouter:
    """Serves all here but what is sent to `elsewhere`, and remembers what it is told."""

    def __init__(self) -> None:
        self.routed: list[str] = []
        self.rescued: list[str] = []
        self.given_back: list[str] = []
        self.passed_on: list[str] = []
        self.ended: list[str] = []
        self.is_elsewhere = False

    def resolve(self, action: Any, request: msgspec.Struct) -> msgspec.Struct:
        del action
        return request

    async def route(self, action: Any, request: msgspec.Struct, message: Message) -> bool:
        del request, message
        self.routed.append(action.name)
        return self.is_elsewhere

    async def rescue(self, action: Any, request: msgspec.Struct, message: Message, error: SuiteError) -> bool:
        del action, request, message
        self.rescued.append(error.code)
        return False

    async def pass_on(self, message: Message) -> bool:
        if not isinstance(message, Arrival):
            self.passed_on.append(message.subject)
        return not isinstance(message, Arrival)

    async def give_back(self, message: Message) -> bool:
        if isinstance(message, Arrival):
            self.given_back.append(message.token)
        return isinstance(message, Arrival)

    @contextmanager
    def serving(self, arrival: Arrival) -> Iterator[None]:
        del arrival
        yield

    async def commit(self, message: Message, instance_id: str = "", generation_id: str = "") -> None:
        pass

    async def end(self, message: Message, *, is_handed_over: bool) -> None:
        if isinstance(message, Arrival) and not is_handed_over:
            self.ended.append(message.token)


class Rig:
    """A service with a router, and the answers to what other nodes hand over to it."""

    def __init__(self, connection: Connection, service: Service[None], router: FakeRouter) -> None:
        self.connection = connection
        self.service = service
        self.router = router
        self.answers: list[dict[str, Any]] = []
        self.reply = connection.new_inbox()

    async def hear(self, message: Message) -> None:
        self.answers.append(msgspec.json.decode(message.data))

    async def arrive(self, name: str, token: str, model_id: str = "") -> None:
        """Have a request come from another node."""
        await self.service.receive(
            Arrival(
                subject=f"suite.action.{name}",
                data=b"{}",
                reply=self.reply,
                is_for_client=True,
                token=token,
                model_id=model_id,
            )
        )


@asynccontextmanager
async def rig(directory: Path, router: FakeRouter) -> AsyncIterator[Rig]:
    async with (
        running_nats(directory) as (_, connection),
        Service.serve(
            connection,
            (ask, wait, fail),
            None,
            subjects=Subjects(),
            version="1.0.0",
            metadata={"node": "box1"},
            new_id=new_id,
            drain_seconds=0.1,
            disabled={"ask": "enable_asking"} if router.is_elsewhere else {},
            router=router,
        ) as service,
    ):
        made = Rig(connection, service, router)
        await connection.subscribe(made.reply, made.hear)
        yield made


async def test_a_request_of_another_node_has_one_end_whatever_refuses_it(tmp_path: Path) -> None:
    router = FakeRouter()
    async with rig(tmp_path, router) as made:
        await made.arrive("ask", "answered", model_id="the-id")
        await eventually(lambda: router.ended == ["answered"])
        await made.arrive("nosuch", "unknown")
        await made.arrive("fail", "fails")
        await eventually(lambda: router.ended == ["answered", "unknown", "fails"])
        assert router.rescued == ["model_quarantined"], "another node may have the model"
        for token in ("runs", "waits", "too-many"):
            await made.arrive("wait", token)
        await eventually(lambda: len(made.answers) == 4)
        assert router.ended[3:] == ["too-many"]
        assert made.answers[0]["model_id"] == "the-id", "its first node says what the name stands for"
        assert [each.get("code") for each in made.answers[1:]] == [
            "unknown_action",
            "model_quarantined",
            "overloaded",
        ]
    assert sorted(router.given_back) == ["runs", "waits"], "at the deadline other nodes have them"
    assert router.ended[3:] == ["too-many"]
    assert len(made.answers) == 4, "so their clients hear nothing from here"


async def test_what_is_switched_off_here_is_served_by_another_node(tmp_path: Path) -> None:
    router = FakeRouter()
    router.is_elsewhere = True
    async with rig(tmp_path, router) as made:
        await made.connection.publish("suite.action.ask", b"{}", reply=made.reply)
        await eventually(lambda: router.routed == ["ask"])
        router.is_elsewhere = False
        await made.connection.publish("suite.action.ask", b"{}", reply=made.reply)
        await eventually(lambda: made.answers)
        assert [each["code"] for each in made.answers] == ["disabled"]


async def test_what_nobody_has_begun_at_a_stop_is_passed_on_to_another_node(tmp_path: Path) -> None:
    router = FakeRouter()
    async with rig(tmp_path, router) as made:
        for _ in range(2):
            await made.connection.publish("suite.action.wait", b"{}", reply=made.reply)
        await eventually(lambda: router.routed == ["wait"])
    assert router.passed_on == ["suite.action.wait"], "the one that runs may have done something already"
    assert not router.given_back
