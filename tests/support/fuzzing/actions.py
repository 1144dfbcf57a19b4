"""Requests of all actions over NATS, mutated."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from random import Random
from typing import Any, Final, NamedTuple

import anyio
import msgspec

import suite.errors
from suite.bus.connection import Connection
from suite.client.access import find
from suite.errors import InvalidRequest, SuiteError, TooLarge
from suite.messages.actions.base import ErrorReply, Reply
from suite.messages.jsonschema import action_types, schema_of
from suite.messages.signals import AnySignal
from suite.tasks import background
from support.fuzzing.mutation import TEXTS, encoded, junk, mutated_document
from support.fuzzing.run import Target
from support.fuzzing.service import UNLIKELY, FuzzedService
from support.fuzzing.values import Hint, Values

SECONDS: Final = 60.0
AT_ONCE: Final = 24
_HEADERS: Final = ("traceparent", "Suite-Client", "Suite-Model", "Suite-Seq", "Nats-Msg-Id", "Content-Type")
_CODES: Final = {
    kind.code
    for kind in vars(suite.errors).values()
    if isinstance(kind, type) and issubclass(kind, SuiteError)
}
_SHARES: Final = {
    "generate_text": 60,
    **dict.fromkeys(("embed", "rerank", "tokenize"), 12),
    **dict.fromkeys(
        ("drain_node", "unload_model", "replay_history", "run_benchmark", "rebuild_projection"), 1
    ),
}
"""How often an action is asked for; others have 4. Those with 1 take seconds, or make others take them: each
still comes many times in a thousand requests."""
_EITHER: Final = (
    ("prompt", "messages"),
    ("max_tokens", "max_completion_tokens"),
    ("grammar", "response_format", "json_schema"),
    ("seq", "model_id", "at"),
)
_signal: Final = msgspec.json.Decoder(AnySignal).decode
_refusal: Final = msgspec.json.Decoder(ErrorReply).decode


class Request(NamedTuple):
    """One message."""

    action: str
    body: bytes
    headers: Mapping[str, str]


class Requests:
    """Makes requests of the actions' schemas."""

    def __init__(self, hints: Mapping[str, Hint]) -> None:
        self.replies: dict[str, type[Reply]] = {each.name: each.reply for each in action_types()}
        schemas = {each.name: schema_of(each.request, each.name) for each in action_types()}
        self._values = {name: Values(schema, hints) for name, schema in schemas.items()}
        self._names = [*self._values]
        self._shares = [_SHARES.get(name, 4) for name in self._names]

    def make(self, random: Random) -> Request:
        """A request that is wrong somewhere, most of the time."""
        (action,) = random.choices(self._names, self._shares)
        document = _consistent(self._values[action].value(random), random)
        if random.random() < 0.7:
            document = mutated_document(document, random)
        if random.random() < 0.05:
            document = {random.choice(("data", "action", "params")): document}
        if random.random() < 0.01:
            action = random.choice(("fly_away", "load_model.x", "", "*", "é", "a" * 300))
        headers = {name: _header(random) for name in _HEADERS if random.random() < 0.05}
        return Request(action, encoded(document, random, broken=0.12), headers)


def _consistent(document: dict[str, Any], random: Random) -> dict[str, Any]:
    """The document, mostly with one of what excludes each other."""
    for several in _EITHER if random.random() < 0.9 else ():
        given = [name for name in several if document.get(name) is not None]
        for name in random.sample(given, max(0, len(given) - 1)):
            del document[name]
    return document


def _header(random: Random) -> str:
    value = random.choice((*TEXTS, "00-" + "a" * 32 + "-" + "b" * 16 + "-01", json.dumps(junk(random))))
    return value[:2000]


class Sender:
    """Sends requests, and says what came of them."""

    def __init__(self, connection: Connection, replies: Mapping[str, type[Reply]]) -> None:
        self._connection = connection
        self._replies = {name: msgspec.json.Decoder(kind).decode for name, kind in replies.items()}

    async def check(self, request: Request) -> str:
        """The outcome as a code. Raises AssertionError for an answer that is none."""
        try:
            async with self._ending_benchmarks(request.action):
                data = await self._answer(request)
        except (InvalidRequest, TooLarge):
            return "not sent"  # the subject or a header cannot be
        outcome = self._outcome(request, data)
        if request.action == "drain_node":
            await self._connection.request("suite.action.drain_node", b'{"undo": true}', timeout=SECONDS)
        return outcome

    @asynccontextmanager
    async def _ending_benchmarks(self, action: str) -> AsyncIterator[None]:
        """Cancel what a benchmark made at random would go on with for hours."""
        if action != "run_benchmark":
            yield
            return
        async with background() as tasks:
            tasks.start_soon(self._cancel_benchmarks)
            yield
        await self._cancel_open()

    async def _cancel_benchmarks(self) -> None:
        while True:
            await anyio.sleep(0.5)
            await self._cancel_open()

    async def _cancel_open(self) -> None:
        found = await self._connection.request(
            "suite.action.get_benchmarks", b'{"state": "open"}', timeout=SECONDS
        )
        if self._outcome(Request("get_benchmarks", b"", {}), found.data) != "success":
            return  # the read model is being rebuilt: the next look will tell
        for each in msgspec.json.decode(found.data)["benchmarks"]:
            body = json.dumps({"benchmark_id": each["benchmark_id"]}).encode()
            await self._connection.request("suite.action.cancel_benchmark", body, timeout=SECONDS)

    async def _answer(self, request: Request) -> bytes:
        """The final reply."""
        asked = self._connection.request_many(
            f"suite.action.{request.action}", request.body, headers=request.headers, idle_timeout=SECONDS
        )
        signals = 0
        async with asked as answers:
            async for message in answers:
                if b'"status"' in message.data and "status" in msgspec.json.decode(message.data):
                    if signals:
                        assert [each async for each in answers] == [], "something comes after the final reply"
                    return message.data
                _signal(message.data)
                signals += 1
        raise AssertionError("the answers ended without a final reply")

    def _outcome(self, request: Request, data: bytes) -> str:
        decode = self._replies.get(request.action)
        with suppress(msgspec.ValidationError):
            error = _refusal(data)
            assert error.code in _CODES, error
            assert error.code not in UNLIKELY or (request.action, error.code) == ("drain_node", "timeout"), (
                error
            )
            assert error.message and len(error.message) < 5000, error
            return error.code
        assert decode is not None, "an action that there is not has succeeded"
        decode(data)
        return "success"


@asynccontextmanager
async def actions(service: FuzzedService) -> AsyncIterator[Target[Request]]:
    """Requests to a node."""
    requests = Requests(service.hints)
    access = find(data_dir=service.data_dir).access
    async with Connection.open(access, name="fuzz") as connection:
        yield Target(
            name="actions",
            make=requests.make,
            check=Sender(connection, requests.replies).check,
            written=_written,
            seconds=3 * SECONDS,
            at_once=AT_ONCE,
            afterwards=service.check,
            processes=service.processes,
            kind=lambda request: request.action,
        )


def _written(request: Request) -> bytes:
    return f"{request.action}\n{json.dumps(dict(request.headers))}\n".encode() + request.body
