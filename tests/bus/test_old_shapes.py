"""Arguments are taken in every shape, and actions under every name, that older clients use."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from suite.bus.action import Action
from suite.bus.connection import Connection
from suite.bus.decoding import Shape
from suite.bus.service import Call, Service, action
from suite.identity import new_id
from suite.messages.actions.base import Reply, Request
from suite.messages.subjects import Subjects
from support.nats import running_nats


class Sampling(msgspec.Struct, frozen=True, kw_only=True):
    seed: int = 0


class WriteRequest(Request, frozen=True, kw_only=True):
    text: str
    temperature: float | None = None
    sampling: Sampling | None = None
    stream: bool = False


class WriteReply(Reply, frozen=True, kw_only=True):
    text: str
    temperature: float | None
    seed: int | None


class StoreRequest(Request, frozen=True, kw_only=True):
    data: dict[str, Any]
    action: str


class StoreReply(Reply, frozen=True, kw_only=True):
    data: dict[str, Any]
    action: str


@action("write", aliases=("compose",), wrappers=("params",))
async def write(_: None, request: WriteRequest, __: Call) -> WriteReply:
    """Say what came."""
    seed = request.sampling.seed if request.sampling else None
    return WriteReply(text=request.text, temperature=request.temperature, seed=seed)


@action("store")
async def store(_: None, request: StoreRequest, __: Call) -> StoreReply:
    """Take the fields that wrap elsewhere."""
    return StoreReply(data=request.data, action=request.action)


ACTIONS: tuple[Action[None], ...] = (write, store)


@asynccontextmanager
async def serving(
    tmp_path: Path, disabled: Mapping[str, str] | None = None
) -> AsyncIterator[tuple[Connection, Service[None]]]:
    async with (
        running_nats(tmp_path) as (server, connection),
        Service.serve(
            connection,
            ACTIONS,
            None,
            subjects=Subjects(),
            version="1.0.0",
            metadata={},
            new_id=new_id,
            disabled=disabled or {},
        ) as service,
        Connection.open(server.client, name="client") as client,
    ):
        yield client, service


async def call(client: Connection, name: str, body: object) -> dict[str, Any]:
    answer = await client.request(f"suite.action.{name}", msgspec.json.encode(body), timeout=20)
    reply: dict[str, Any] = msgspec.json.decode(answer.data)
    return reply


WHOLE = {"text": "hi", "temperature": 0.5, "sampling": {"seed": 7}}
SHAPES: Mapping[str, object] = {
    "at the top": WHOLE,
    "beside the action": {"action": "write", **WHOLE},
    "in data": {"data": WHOLE},
    "in data, with the action in both": {"action": "write", "data": {"action": "/write", **WHOLE}},
    "some in params": {"text": "hi", "params": {"temperature": 0.5, "sampling": {"seed": 7}}},
    "some in params in data": {
        "data": {"text": "hi", "params": {"temperature": 0.5, "sampling": {"seed": 7}}}
    },
    "some in data and some in params": {
        "data": {"text": "hi", "sampling": {"seed": 7}},
        "params": {"temperature": 0.5},
    },
    "the same in two places": {"data": WHOLE, "params": {"temperature": 0.5}, "text": "hi"},
    "a null where another place has it": {"data": WHOLE, "text": None, "params": {"sampling": None}},
}


async def test_arguments_are_taken_in_every_shape(tmp_path: Path) -> None:
    async with serving(tmp_path) as (client, _):
        for shape, body in SHAPES.items():
            reply = await call(client, "write", body)
            expected = {
                "status": "success",
                "node": "",
                "warnings": [],
                "text": "hi",
                "temperature": 0.5,
                "seed": 7,
            }
            assert reply == expected, shape


async def test_actions_are_found_under_every_spelling_and_counted_once(tmp_path: Path) -> None:
    async with serving(tmp_path) as (client, service):
        for name in ("write", "/write", "compose", "/compose"):
            assert (await call(client, name, WHOLE))["text"] == "hi"
        for name in ("//write", "Write", "write/", "params"):
            assert (await call(client, name, WHOLE))["message"] == f"Unknown action: {name}"
        assert service.commands_processed == 8
        stats = msgspec.json.decode((await client.request("$SRV.STATS", timeout=20)).data)
        assert [(each["name"], each["num_requests"]) for each in stats["endpoints"]] == [
            ("write", 4),
            ("store", 0),
        ]


async def test_different_values_in_two_places_are_refused_by_name(tmp_path: Path) -> None:
    async with serving(tmp_path) as (client, _):
        for body in (
            {"text": "hi", "temperature": 0.1, "params": {"temperature": 0.2}},
            {"data": {"text": "hi", "temperature": 0.1}, "params": {"temperature": 0.2}},
        ):
            reply = await call(client, "write", body)
            assert (reply["status"], reply["code"]) == ("error", "invalid_request")
            assert "'temperature'" in reply["message"]
            assert "'params'" in reply["message"]


async def test_a_refused_stream_ends_wherever_stream_stands(tmp_path: Path) -> None:
    async with serving(tmp_path) as (client, _):
        body = b'{"data": {"stream": true, "text": "a"}, "text": "b"}'
        async with client.request_many("suite.action.write", body, idle_timeout=10) as answers:
            got = [msgspec.json.decode(answer.data) async for answer in answers]
        assert [each["code"] for each in got] == ["invalid_request"]


async def test_what_is_no_object_or_not_known_is_named(tmp_path: Path) -> None:
    async with serving(tmp_path) as (client, _):
        reply = await call(client, "write", {"text": "hi", "data": [1], "params": "none", "metric": {"x": 1}})
        assert reply["warnings"] == [
            f"unknown field '{name}' ignored" for name in ("data", "params", "metric")
        ]
        reply = await call(client, "write", {"data": {"text": "hi", "mood": 1, "sampling": {"sed": 1}}})
        assert reply["warnings"] == ["unknown field 'mood' ignored", "unknown field 'sampling.sed' ignored"]
        reply = await call(client, "write", {"data": {"text": 7}})
        assert reply["message"].startswith("field 'text': expected")
        reply = await call(client, "write", {"data": {}})
        assert reply["message"] == "field 'text' is missing: send it"


async def test_a_type_that_has_such_a_field_keeps_it(tmp_path: Path) -> None:
    async with serving(tmp_path) as (client, _):
        reply = await call(client, "store", {"data": {"text": "hi"}, "action": "keep"})
        assert (reply["data"], reply["action"], reply["warnings"]) == ({"text": "hi"}, "keep", [])


async def test_a_new_shape_is_passed_on_as_it_is() -> None:
    fields: dict[str, Any] = dict(WHOLE)
    flat, clash = Shape(WriteRequest, ("params",)).flattened(fields)
    assert flat is fields
    assert clash is None


async def test_what_is_switched_off_is_refused_with_the_setting_to_switch_on(tmp_path: Path) -> None:
    async with serving(tmp_path, {"write": "enable_writing"}) as (client, service):
        for name in ("write", "/compose"):
            reply = await call(client, name, WHOLE)
            assert (reply["status"], reply["code"]) == ("error", "disabled")
            assert "write is switched off" in reply["message"]
            assert "enable_writing" in reply["message"]
        assert (await call(client, "store", {"data": {}, "action": "x"}))["status"] == "success"
        assert service.commands_processed == 3
        stats = msgspec.json.decode((await client.request("$SRV.STATS", timeout=20)).data)
        assert stats["endpoints"][0]["num_errors"] == 2
        assert stats["endpoints"][0]["last_error"] == "disabled"


@pytest.mark.parametrize("literal", ["NaN", "Infinity", "-Infinity"])
async def test_numbers_that_are_none_are_explained(tmp_path: Path, literal: str) -> None:
    async with serving(tmp_path) as (client, _):
        body = f'{{"text": "hi", "temperature": {literal}}}'.encode()
        answer = await client.request("suite.action.write", body, timeout=20)
        reply = msgspec.json.decode(answer.data)
        assert (reply["status"], reply["code"]) == ("error", "invalid_json")
        assert "no NaN and no Infinity" in reply["message"]
