"""The application called by hand, before a client of the service that has a bug, and counts."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, MutableMapping
from copy import copy
from datetime import timedelta
from typing import Any, Final, cast

import anyio
import anyio.lowlevel
import pytest
from starlette.requests import Request

from suite.client import Client
from suite.domain.breaker import SERVICE_POLICY
from suite.errors import Cancelled, ExpiredApiKey, NodeLost, SuiteError, Unavailable
from suite.gateway.access import Everybody
from suite.gateway.app import application
from suite.gateway.context import Context, put_context
from suite.gateway.gateway import Gateway
from suite.gateway.keys import KeyRing
from suite.gateway.service_breaker import service_breaker
from suite.gateway.sse import PieceStream
from suite.identity import Clock, new_id, utc_now
from suite.messages.actions.status import HealthCheckReply
from suite.messages.envelope import Recorded
from suite.messages.events import KeyCreated
from suite.messages.signals import Chunk, Progress, Signal
from suite.tasks import background
from suite.telemetry import exposing
from suite.telemetry.exposition import Exposition
from support.folding import recorded

ORIGIN = "http://localhost:3000"


class Broken:
    """A client of the service with a bug."""

    def __init__(self) -> None:
        self.health_checks = 0

    async def health_check(self) -> HealthCheckReply:
        self.health_checks += 1
        await anyio.lowlevel.checkpoint()
        return HealthCheckReply(
            node="n",
            version="1",
            uptime=1,
            timestamp="",
            models_loaded=0,
            models_tracked=0,
            commands_processed=0,
        )

    async def answer(self, fields: Mapping[str, object], hear: Callable[[Signal], None]) -> None:
        if fields["max_tokens"] == 2:
            hear(Chunk(index=0, text="Once"))
            await anyio.lowlevel.checkpoint()
        raise ZeroDivisionError(fields["model_id"])


@pytest.fixture
def exposition() -> Iterator[Exposition]:
    """Measures while the test runs."""
    with exposing("off", node="test", process="gateway") as exposition:
        yield exposition


@pytest.fixture
def asked(exposition: Exposition) -> Asked:
    return Asked(exposition)


class Asked:
    """What came back for one chat, and the gateway that was asked."""

    def __init__(
        self, exposition: Exposition, client: Broken | None = None, clock: Clock = time.monotonic
    ) -> None:
        self.client = client or Broken()
        self.gateway = Gateway(
            cast("Client", self.client),
            Everybody([ORIGIN]),
            service_breaker(node="box1", clock=clock),
            exposition=exposition,
            load_seconds=1,
            new_id=new_id,
            now=utc_now,
            clock=time.monotonic,
        )
        self.app = application(self.gateway, cors_origins=[ORIGIN])
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""

    async def chat(self, path: str = "/v1/chat/completions", **fields: object) -> None:
        messages = [{"role": "user", "content": "Hello"}]
        await self.send("POST", path, json.dumps({"model": "m", "messages": messages, **fields}).encode())

    async def send(self, method: str, path: str, body: bytes = b"") -> None:
        bodies, self.body = [body], b""

        async def receive() -> MutableMapping[str, Any]:
            if bodies:
                return {"type": "http.request", "body": bodies.pop(), "more_body": False}
            await anyio.sleep_forever()
            raise AssertionError

        async def send(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                self.status = message["status"]
                self.headers = {name.decode(): value.decode() for name, value in message["headers"]}
            else:
                self.body += message["body"]

        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "query_string": b"",
            "headers": [(b"host", b"localhost"), (b"origin", ORIGIN.encode()), (b"x-request-id", b"mine")],
        }
        with anyio.fail_after(20):
            await self.app(scope, receive, send)

    @property
    def counted(self) -> str:
        return self.gateway.metrics.exposition(None).decode()


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_to_a_bug_has_the_headers_of_each_answer_and_is_counted(
    stream: bool, asked: Asked, caplog: pytest.LogCaptureFixture
) -> None:
    await asked.chat(max_tokens=1, stream=stream)
    assert (asked.status, json.loads(asked.body)["error"]["type"]) == (500, "server_error")
    assert asked.headers["x-request-id"] == "mine"
    assert "date" in asked.headers
    assert asked.headers["access-control-allow-origin"] == ORIGIN
    assert 'status="500"' in asked.counted
    assert [record.exc_info is not None for record in caplog.records if record.levelno == logging.ERROR] == [
        True
    ]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/api/chat"])
async def test_a_stream_that_a_bug_breaks_ends_with_an_error(
    path: str, asked: Asked, caplog: pytest.LogCaptureFixture
) -> None:
    await asked.chat(path, max_tokens=2, options={"num_predict": 2}, stream=True)
    assert asked.status == 200
    assert b"Once" in asked.body
    assert b"an error in the gateway itself" in asked.body
    assert b"[DONE]" not in asked.body
    assert any(record.exc_info for record in caplog.records)


async def test_the_service_is_asked_for_its_health_once_a_second_at_most(asked: Asked) -> None:
    async with anyio.create_task_group() as tasks:
        for path in ("/health", "/readyz", "/health"):
            tasks.start_soon(asked.send, "GET", path)
    assert (asked.status, json.loads(asked.body[:15])) == (200, {"status": "ok"})
    assert asked.client.health_checks == 1


class Away(Broken):
    """A service that does not answer, until it does."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0
        self.error: SuiteError = Unavailable("NATS cannot be reached")

    async def answer(self, fields: Mapping[str, object], hear: Callable[[Signal], None]) -> None:
        del fields
        self.asked += 1
        if self.error.code != "unavailable":
            hear(Chunk(index=0, text="Once"))
            await anyio.lowlevel.checkpoint()
        raise self.error


class Loads(Away):
    """A service that is away at first, and then tells that it loads a model, for long."""

    def __init__(self) -> None:
        super().__init__()
        self.does_answer = False
        self.has_begun = anyio.Event()

    async def answer(self, fields: Mapping[str, object], hear: Callable[[Signal], None]) -> None:
        if not self.does_answer:
            await super().answer(fields, hear)
        if not self.has_begun.is_set():
            hear(Progress(model_id="m", fraction=0.1))
            self.has_begun.set()
            await anyio.sleep_forever()
        raise Cancelled("somebody else's turn")


class Frozen(Broken):
    """A service that takes requests, and says nothing."""

    async def answer(self, fields: Mapping[str, object], hear: Callable[[Signal], None]) -> None:
        del fields, hear
        await anyio.sleep(0.05)
        raise NodeLost("nothing came for 5 s")


KEEP_ALIVE_AT_ONCE: Final = {**(PieceStream.__init__.__kwdefaults__ or {}), "keep_alive_seconds": 0.01}


@pytest.mark.parametrize("stream", [False, True])
async def test_while_the_service_is_away_requests_are_refused_and_one_tries_again(
    stream: bool, exposition: Exposition
) -> None:
    now = 0.0
    client = Away()
    asked = Asked(exposition, client, clock=lambda: now)
    for _ in range(SERVICE_POLICY.failures + 20):
        await asked.chat(stream=stream)
        assert asked.status == 503
    assert client.asked == SERVICE_POLICY.failures
    assert asked.headers["retry-after"] == "1"
    assert "NATS cannot be reached" in json.loads(asked.body)["error"]["message"]
    (state,) = [line for line in asked.counted.splitlines() if line.startswith("suite_breaker_state{")]
    assert 'suite_breaker_kind="service"' in state
    assert state.endswith(" 2.0"), "open"
    await asked.send("GET", "/livez")
    assert asked.status == 200
    now += SERVICE_POLICY.first_pause_seconds
    await asked.chat(stream=stream)
    await asked.chat(stream=stream)
    assert client.asked == SERVICE_POLICY.failures + 1
    now += 2 * SERVICE_POLICY.first_pause_seconds
    client.error = Cancelled("it has answered")
    await asked.chat(stream=True)
    assert asked.gateway.breaker.is_closed
    facts = [event.fact for event in asked.gateway.breaker.take_events()]
    assert facts == ["opened", "half_opened", "opened", "half_opened", "closed"]


async def test_refusals_of_the_service_say_nothing_of_its_absence(exposition: Exposition) -> None:
    client = Away()
    client.error.node = "box1"  # a node has said it, of something else
    asked = Asked(exposition, client)
    for _ in range(2 * SERVICE_POLICY.failures):
        await asked.chat()
    assert client.asked == 2 * SERVICE_POLICY.failures
    assert asked.gateway.breaker.is_closed


async def test_an_error_that_a_node_tells_shows_that_there_is_one(exposition: Exposition) -> None:
    now = 0.0
    client = Away()
    asked = Asked(exposition, client, clock=lambda: now)
    for _ in range(SERVICE_POLICY.failures):
        await asked.chat()
    now += SERVICE_POLICY.first_pause_seconds
    client.error.node = "box1"
    await asked.chat()
    assert client.asked == SERVICE_POLICY.failures + 1
    assert asked.gateway.breaker.is_closed


async def test_a_trial_ends_with_the_first_sign_of_life(exposition: Exposition) -> None:
    now = 0.0
    client = Loads()
    asked = Asked(exposition, client, clock=lambda: now)
    other = copy(asked)
    for _ in range(SERVICE_POLICY.failures):
        await asked.chat()
    now += SERVICE_POLICY.first_pause_seconds
    client.does_answer = True
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(asked.chat)
        await client.has_begun.wait()
        await other.chat()
        assert b"left alone" not in other.body
        tasks.cancel_scope.cancel()
    assert asked.gateway.breaker.is_closed


async def test_frozen_nodes_are_away_though_their_streams_have_begun(
    exposition: Exposition, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PieceStream.__init__, "__kwdefaults__", KEEP_ALIVE_AT_ONCE)
    client = Frozen()
    asked = Asked(exposition, client)
    for _ in range(SERVICE_POLICY.failures):
        await asked.chat(stream=True)
        assert asked.status == 200
    assert asked.gateway.breaker.state.position == "open"


class Endless(Broken):
    """A service with one key in its log, whose answers begin and do not end."""

    def __init__(self, key: KeyCreated) -> None:
        super().__init__()
        self._key = key

    async def last_seq(self) -> int:
        return 1

    async def events(self, filter: str, *, after: int = 0, follow: bool = False) -> AsyncIterator[Recorded]:
        if filter == "key" and after == 0:
            yield recorded(self._key, 1)
        if follow:
            await anyio.sleep_forever()

    async def get_model_status(self, model_id: str) -> None:
        del model_id
        await anyio.sleep_forever()

    async def answer(self, fields: Mapping[str, object], hear: Callable[[Signal], None]) -> None:
        hear(Chunk(index=0, text=str(fields["requester"])))
        await anyio.sleep_forever()


async def never() -> MutableMapping[str, Any]:
    await anyio.sleep_forever()
    raise AssertionError


async def test_what_a_key_has_running_ends_when_it_expires(exposition: Exposition) -> None:
    expires_at = utc_now()
    now = expires_at - timedelta(days=1)
    key = KeyCreated(
        key_id="k", name="n", sha256="", models=("*",), endpoints=("chat",), expires_at=expires_at
    )
    client = Endless(key)
    ring = KeyRing(now=lambda: now, clock=time.monotonic)
    gateway = Asked(exposition, client).gateway
    context = Context("r", began=0.0)
    context.requester = key.key_id
    scope = {"type": "http", "method": "POST", "path": "/", "headers": []}
    put_context(scope, context)
    ended: list[str] = []

    def hear(_: Chunk) -> None:
        nonlocal now
        now = expires_at

    async def generate() -> None:
        with pytest.raises(ExpiredApiKey):
            await gateway.generations.ask(context, {"model_id": "m", "prompt": "a"}, hear)
        ended.append("generation")

    async def embed() -> None:
        with pytest.raises(ExpiredApiKey):
            await gateway.patiently(Request(scope, never), "m", None, lambda _: anyio.sleep_forever())
        ended.append("embedding")

    with anyio.fail_after(20):
        async with background() as tasks:
            await ring.follow(cast("Client", client), tasks)
            tasks.start_soon(gateway.work.watch, ring.rights)
            async with anyio.create_task_group() as running:
                running.start_soon(embed)
                running.start_soon(generate)
    assert sorted(ended) == ["embedding", "generation"]
