"""The client against a real nats-server and a service made by hand, which can also misbehave."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import anyio
import pytest

import suite
from suite.client import Client
from suite.client.access import find
from suite.config import ConnectionFile, ReaderCredentials
from suite.data_directory import held, is_held
from suite.errors import (
    InvalidConfiguration,
    InvalidRequest,
    ModelNotFound,
    NodeLost,
    NoService,
    Overloaded,
    RequestTimeout,
    SuiteError,
    Unavailable,
    UnknownOutcome,
)
from suite.identity import new_id, utc_now
from suite.log import Log
from suite.messages.actions.base import ErrorReply
from suite.messages.actions.residency import LoadModelReply
from suite.messages.actions.status import GetModelStatusReply, HealthCheckReply, ListModelsReply
from suite.messages.actor import NatsAccess
from suite.messages.events import ModelRemoved, NodeStopped
from suite.messages.signals import Accepted, Chunk, Heartbeat, Progress
from suite.messages.subjects import Subjects
from support.faults import KillableServer
from support.replies import MODELS
from support.responder import Call, Handler, Responder, responding, say, spoken


@asynccontextmanager
async def service(
    directory: Path, *, silence_seconds: float = 5.0, request_seconds: float = 5.0, **handlers: Handler
) -> AsyncIterator[tuple[Client, Responder, KillableServer]]:
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(KillableServer.start(directory))
        responder = await stack.enter_async_context(responding(server.access, **handlers))
        client = await stack.enter_async_context(
            suite.connect(server.access.url, silence_seconds=silence_seconds, request_seconds=request_seconds)
        )
        yield client, responder, server


def health() -> HealthCheckReply:
    return HealthCheckReply(
        node="n",
        version="1",
        uptime=1.0,
        timestamp="",
        models_loaded=0,
        models_tracked=2,
        commands_processed=3,
    )


# --- actions that are answered once ----------------------------------------------------------------------


async def test_a_reply_comes_back_typed(tmp_path: Path) -> None:
    async def health_check(call: Call) -> None:
        await call.send(health())

    async def list_models(call: Call) -> None:
        await call.send(
            ListModelsReply(models=MODELS[1:], warnings=("left out",))
            if call.body["cursor"]
            else ListModelsReply(models=MODELS[:1], warnings=("left out", "ask again"), next_cursor="1")
        )

    async def get_model_status(call: Call) -> None:
        first, *others = MODELS
        models, next_cursor = (others, None) if call.body["cursor"] else ([first], "1")
        warnings = ("not all generations",) if next_cursor is None else ("ask again",)
        by_id = {model.model_id: model for model in models}
        await call.send(GetModelStatusReply(models=by_id, next_cursor=next_cursor, warnings=warnings))

    async with service(
        tmp_path, health_check=health_check, list_models=list_models, get_model_status=get_model_status
    ) as (client, _, _):
        assert await client.health_check() == health()
        listed = await client.list_models()
        assert (listed.models, listed.warnings, listed.next_cursor) == (MODELS, ("left out",), None)
        status = await client.get_model_status()
        assert list(status.models or {}) == [model.model_id for model in MODELS]
        assert status.warnings == ("not all generations",)


async def test_a_refusal_is_raised_as_its_class_and_not_in_a_group(tmp_path: Path) -> None:
    async def unload_model(call: Call) -> None:
        await call.refuse("model_not_found", "no model 'x'")

    with pytest.raises(ModelNotFound, match="no model 'x'"):
        async with service(tmp_path, unload_model=unload_model) as (client, _, _):
            await client.unload_model("x")


async def test_a_refusal_keeps_its_event_id_and_a_later_version_s_code_is_the_root(tmp_path: Path) -> None:
    async def unload_model(call: Call) -> None:
        if call.body["model_id"] == "a":
            await call.refuse("unknown_outcome", "ask", event_id="e1")
        else:
            await call.refuse("code_of_tomorrow", "because")

    async with service(tmp_path, unload_model=unload_model) as (client, _, _):
        with pytest.raises(UnknownOutcome) as refused:
            await client.unload_model("a")
        assert refused.value.details == {"event_id": "e1"}
        with pytest.raises(SuiteError, match="because"):
            await client.unload_model("b")


async def test_nobody_there_and_nobody_answering_are_told_apart(tmp_path: Path) -> None:
    async def get_stats(_: Call) -> None:
        await anyio.sleep_forever()

    async with service(tmp_path, request_seconds=0.2, get_stats=get_stats) as (client, _, _):
        with pytest.raises(NoService):
            await client.list_models()
        with pytest.raises(RequestTimeout):
            await client.get_stats()


async def test_an_answer_that_is_none_says_so(tmp_path: Path) -> None:
    async def health_check(call: Call) -> None:
        await call.send(b'{"status": "success"}')

    async def get_stats(call: Call) -> None:
        await call.send(b"what?")

    async def list_models(call: Call) -> None:
        await call.send(Heartbeat())

    async with service(tmp_path, health_check=health_check, get_stats=get_stats, list_models=list_models) as (
        client,
        _,
        _,
    ):
        for method in (client.health_check, client.get_stats, client.list_models):
            with pytest.raises(SuiteError, match="versions"):
                await method()


# --- load ------------------------------------------------------------------------------------------------


async def test_load_reports_progress_and_skips_what_it_does_not_know(tmp_path: Path) -> None:
    reply = LoadModelReply(model_id="m", loaded=True, message="loaded", seq=4, load_ms=5.0, resident_bytes=6)

    async def load_model(call: Call) -> None:
        assert call.body["stream"] is True
        await call.send(Progress(model_id="m", fraction=0.5), Heartbeat(), b'{"kind": "of tomorrow"}')
        await call.send(Progress(model_id="m", fraction=1.0), reply, b"")

    seen: list[float] = []
    async with service(tmp_path, load_model=load_model) as (client, _, _):
        assert await client.load_model("m", on_progress=seen.append) == reply
    assert seen == [0.5, 1.0]


async def test_a_load_takes_as_long_as_the_node_is_heard_of(tmp_path: Path) -> None:
    reply = LoadModelReply(model_id="m", loaded=True, message="loaded", seq=4, load_ms=5.0, resident_bytes=6)

    async def load_model(call: Call) -> None:
        for _ in range(8):
            await call.send(Heartbeat())
            await anyio.sleep(0.1)
        if call.body["model_id"] == "m":
            await call.send(reply, b"")

    async with service(tmp_path, silence_seconds=0.5, load_model=load_model) as (client, _, _):
        assert await client.load_model("m") == reply
        with pytest.raises(NodeLost):
            await client.load_model("dies")


async def test_a_stream_that_ends_without_a_reply_is_no_success(tmp_path: Path) -> None:
    async def load_model(call: Call) -> None:
        await call.send(b"")

    async with service(tmp_path, load_model=load_model) as (client, _, _):
        with pytest.raises(NodeLost, match="without a reply"):
            await client.load_model("m")


# --- generation ------------------------------------------------------------------------------------------


async def test_the_pieces_come_in_order_and_the_reply_after_them(tmp_path: Path) -> None:
    async def generate_text(call: Call) -> None:
        await call.send(Accepted(generation_id=call.body["generation_id"], node="n"), Heartbeat())
        await say(call, "one ", "two ", "three")

    async with service(tmp_path, generate_text=generate_text) as (client, responder, _):
        generation = client.generate("m", "count", max_tokens=5, stop=("x",))
        with pytest.raises(RuntimeError, match="no reply"):
            _ = generation.reply
        assert [chunk.text async for chunk in generation] == ["one ", "two ", "three"]
        assert generation.reply.text == "one two three"
        assert generation.reply.generation_id == generation.generation_id
        with pytest.raises(RuntimeError, match="once"):
            _ = [chunk async for chunk in generation]
    (request,) = [body for name, body in responder.requests if name == "generate_text"]
    assert (request["prompt"], request["stream"], request["max_tokens"]) == ("count", True, 5)
    assert responder.cancelled == []


async def endless(call: Call) -> None:
    index = 0
    with suppress(Unavailable):  # the server of the test is killed under it
        while True:
            await call.send(Chunk(index=index, text="word "))
            index += 1
            await anyio.sleep(0.01)


async def silent(call: Call) -> None:
    while True:
        await call.send(Heartbeat())
        await anyio.sleep(0.05)


async def test_breaking_out_of_the_loop_cancels_on_the_server(tmp_path: Path) -> None:
    async with service(tmp_path, generate_text=endless) as (client, responder, _):
        async for chunk in client.generate("m", "p", generation_id="mine"):
            assert chunk.text == "word "
            break
        await responder.until_cancelled()
        assert responder.cancelled == ["mine"]


async def test_an_error_in_the_loop_s_body_cancels_on_the_server(tmp_path: Path) -> None:
    async with service(tmp_path, generate_text=endless) as (client, responder, _):
        generation = client.generate("m", "p")
        with pytest.raises(ZeroDivisionError):
            async for chunk in generation:
                _ = len(chunk.text) / 0
        await responder.until_cancelled()
        assert responder.cancelled == [generation.generation_id]


@pytest.mark.parametrize("whole", [False, True])
async def test_cancelling_the_reader_cancels_on_the_server(tmp_path: Path, whole: bool) -> None:
    async with service(tmp_path, generate_text=silent) as (client, responder, _):
        with anyio.move_on_after(0.3) as limit:
            if whole:
                await client.generate_text("m", "p", generation_id="mine")
            else:
                async for _ in client.generate("m", "p", generation_id="mine"):
                    pass
        assert limit.cancelled_caught
        await responder.until_cancelled()
        assert responder.cancelled == ["mine"]


async def test_closing_returns_after_the_server_was_told(tmp_path: Path) -> None:
    async with service(tmp_path, generate_text=endless) as (client, responder, _):
        async with client.generate("m", "p", generation_id="mine") as generation:
            async for _ in generation:
                break
        assert responder.cancelled == ["mine"]


async def test_a_generation_that_never_began_cancels_nothing(tmp_path: Path) -> None:
    async with service(tmp_path, generate_text=endless) as (client, responder, _):
        async with client.generate("m", "p"):
            pass
        assert responder.requests == []


async def test_leaving_the_client_cancels_what_it_left_running(tmp_path: Path) -> None:
    async with (
        KillableServer.start(tmp_path) as server,
        responding(server.access, generate_text=endless) as responder,
    ):
        async with suite.connect(server.access.url) as client:
            generation = client.generate("m", "p", generation_id="mine")
            pieces = aiter(generation)
            await anext(pieces)
        assert responder.cancelled == ["mine"]
        with pytest.raises(Unavailable):
            _ = [chunk async for chunk in pieces]
        with pytest.raises(Unavailable, match="closed"):
            _ = [chunk async for chunk in client.generate("m", "p")]


async def test_lost_pieces_are_an_error_and_not_a_shorter_answer(tmp_path: Path) -> None:
    async def generate_text(call: Call) -> None:
        await call.send(Chunk(index=0, text="a"), Chunk(index=3, text="d"))
        await anyio.sleep_forever()

    async with service(tmp_path, generate_text=generate_text) as (client, responder, _):
        got = []
        with pytest.raises(Unavailable, match="1 to 2"):
            async for chunk in client.generate("m", "p"):
                got.append(chunk.text)  # noqa: PERF401 - what came before the error is wanted
        assert got == ["a"]
        await responder.until_cancelled()


async def test_an_error_after_pieces_is_raised_after_them(tmp_path: Path) -> None:
    async def generate_text(call: Call) -> None:
        await call.send(Chunk(index=0, text="a"))
        await call.refuse("actor_crashed", "died")

    async with service(tmp_path, generate_text=generate_text) as (client, responder, _):
        got = []
        with pytest.raises(SuiteError, match="died") as failed:
            async for chunk in client.generate("m", "p"):
                got.append(chunk.text)  # noqa: PERF401 - what came before the error is wanted
        assert (got, failed.value.code) == (["a"], "actor_crashed")
        assert responder.cancelled == []


@pytest.mark.parametrize(
    ("answers", "code"),
    [
        (("node_lost", ""), ""),
        (("node_lost", "generation_exists", ""), ""),
        (("node_lost", "node_lost"), "node_lost"),
    ],
    ids=["answered", "abandoned-first", "lost-again"],
)
async def test_what_a_lost_node_had_not_begun_is_sent_once_more_under_its_id(
    tmp_path: Path, answers: tuple[str, ...], code: str
) -> None:
    ids: list[str] = []

    async def generate_text(call: Call) -> None:
        ids.append(call.body["generation_id"])
        if refusal := answers[len(ids) - 1]:
            await call.send(Accepted(generation_id=ids[-1], node="n"), Heartbeat())
            await call.refuse(refusal, "gone")
        else:
            await say(call, "one ", "two")

    async with service(tmp_path, generate_text=generate_text) as (client, _, _):
        pieces: list[str] = []
        try:
            async for chunk in client.generate("m", "p"):
                pieces.append(chunk.text)  # noqa: PERF401 - it may fail on the way
        except SuiteError as error:
            assert (error.code, pieces) == (code, [])
        else:
            assert pieces == ["one ", "two"]
    assert len(ids) == len(answers)
    assert len(set(ids)) == 1


async def test_what_a_lost_node_had_begun_is_not_sent_again(tmp_path: Path) -> None:
    async def generate_text(call: Call) -> None:
        await call.send(Chunk(index=0, text="a"))
        await call.refuse("node_lost", "gone")

    async with service(tmp_path, generate_text=generate_text) as (client, responder, _):
        with pytest.raises(NodeLost):
            await client.generate_text("m", "p")
        with pytest.raises(NodeLost):
            await client.answer({"model_id": "m", "prompt": "p"}, lambda _: None)
    assert len([name for name, _ in responder.requests if name == "generate_text"]) == 2


async def test_one_that_finds_a_queue_full_knows_when_to_come_again(tmp_path: Path) -> None:
    async def generate_text(call: Call) -> None:
        await call.send(ErrorReply(code="overloaded", message="full", retry_after_ms=2500))

    async with service(tmp_path, generate_text=generate_text) as (client, _, _):
        with pytest.raises(Overloaded, match="full") as refused:
            await client.generate_text("m", "p")
        assert refused.value.retry_after_ms == 2500


async def test_an_older_service_that_finds_its_queue_full_says_not_when(tmp_path: Path) -> None:
    async def generate_text(call: Call) -> None:
        await call.send(b'{"status": "error", "code": "overloaded", "message": "full"}')

    async with service(tmp_path, generate_text=generate_text) as (client, _, _):
        with pytest.raises(Overloaded) as refused:
            await client.generate_text("m", "p")
        assert refused.value.retry_after_ms == 1000


async def test_a_dead_node_is_noticed_by_its_silence(tmp_path: Path) -> None:
    async def generate_text(call: Call) -> None:
        await call.send(Chunk(index=0, text="a"))

    async with service(tmp_path, silence_seconds=0.3, generate_text=generate_text) as (client, _, _):
        with pytest.raises(NodeLost):
            await client.generate_text("m", "p")


async def test_a_lost_connection_is_noticed_at_once(tmp_path: Path) -> None:
    async with service(tmp_path, silence_seconds=60, generate_text=endless) as (client, _, server):
        with pytest.raises(NodeLost), anyio.fail_after(20):
            async for chunk in client.generate("m", "p"):
                if chunk.index == 3:
                    await server.kill()


async def test_two_generations_at_once_keep_their_pieces_apart(tmp_path: Path) -> None:
    async def generate_text(call: Call) -> None:
        await say(call, *call.body["prompt"])

    answers: dict[str, str] = {}
    async with service(tmp_path, generate_text=generate_text) as (client, _, _):

        async def ask(prompt: str) -> None:
            answers[prompt] = "".join([chunk.text async for chunk in client.generate("m", prompt)])

        async with anyio.create_task_group() as tasks:
            for prompt in ("abc", "xyz", "123"):
                tasks.start_soon(ask, prompt)
    assert answers == {prompt: prompt for prompt in ("abc", "xyz", "123")}


async def test_an_error_of_the_caller_s_progress_is_the_caller_s(tmp_path: Path) -> None:
    async def generate_text(call: Call) -> None:
        await call.send(Progress(model_id="m", fraction=0.5))
        await anyio.sleep_forever()

    def on_progress(fraction: float) -> None:
        raise LookupError(fraction)

    async with service(tmp_path, generate_text=generate_text) as (client, responder, _):
        with pytest.raises(LookupError):
            await client.generate_text("m", "p", on_progress=on_progress)
        await responder.until_cancelled()


async def test_messages_are_dicts_or_their_type(tmp_path: Path) -> None:
    async def generate_text(call: Call) -> None:
        await call.send(spoken(call.body, call.body["messages"][0]["content"]), b"")

    async with service(tmp_path, generate_text=generate_text) as (client, _, _):
        reply = await client.generate_text("m", messages=[{"role": "user", "content": "hello"}])
        assert reply.text == "hello"
        with pytest.raises(InvalidRequest, match="content"):
            await client.generate_text("m", messages=[{"role": "user"}])


# --- events ----------------------------------------------------------------------------------------------


async def test_events_are_read_from_the_log_filtered_and_followed(tmp_path: Path) -> None:
    async with service(tmp_path) as (client, _, server):
        async with _writer(server.access) as log:
            for number in range(3):
                await log.append(NodeStopped(node="n", epoch=number))
            await log.append(ModelRemoved(model_id="m.1", node="n"))
            assert [event.seq async for event in client.events()] == [1, 2, 3, 4]
            assert [event.seq async for event in client.events(after=2)] == [3, 4]
            for filter in ("model", "model.*.removed", "suite.event.model.>"):
                assert [event.data async for event in client.events(filter)] == [
                    ModelRemoved(model_id="m.1", node="n")
                ]
            followed = client.events("node", after=2, follow=True)
            with anyio.fail_after(10):
                assert (await anext(followed)).seq == 3
                await log.append(NodeStopped(node="n", epoch=9))
                assert (await anext(followed)).data == NodeStopped(node="n", epoch=9)
            await followed.aclose()


@asynccontextmanager
async def _writer(access: NatsAccess) -> AsyncIterator[Log]:
    from suite.bus.connection import Connection

    async with (
        Connection.open(access, name="writer") as connection,
        Log.open(connection, Subjects(), source="/test", new_id=new_id, now=utc_now) as log,
    ):
        yield log


# --- finding the service ---------------------------------------------------------------------------------


@pytest.fixture
def serving_dir(tmp_path: Path) -> Iterator[Path]:
    """The data directory of a node that serves."""
    ConnectionFile(
        url="nats://file:1", user="operator", password="p", inbox_prefix="_INBOX.operator", node="n", pid=1
    ).write(tmp_path)
    with held(tmp_path):
        yield tmp_path


def test_a_url_goes_before_all_else(serving_dir: Path) -> None:
    environ = {"SUITE_NATS_URL": "nats://environment:1", "SUITE_NATS_USER": "other"}
    target = find("nats://given:1", user="me", password="p", data_dir=serving_dir, environ=environ)
    assert (target.access.url, target.access.user) == ("nats://given:1", "me")
    assert target.access.inbox_prefix == "_INBOX.me"


def test_credentials_in_a_url_are_taken_out_of_it() -> None:
    target = find("nats://me:p%40ss@host:1", environ={})
    assert (target.access.url, target.access.user, target.access.password) == ("nats://host:1", "me", "p@ss")


def test_a_data_directory_that_is_given_goes_before_the_environment(serving_dir: Path) -> None:
    target = find(data_dir=serving_dir, environ={"SUITE_NATS_URL": "nats://environment:1"})
    assert target.access == NatsAccess(
        url="nats://file:1", user="operator", password="p", inbox_prefix="_INBOX.operator"
    )


def test_the_log_is_read_as_another_user_where_one_is_named(serving_dir: Path) -> None:
    assert find(data_dir=serving_dir).reader is None
    reader = ReaderCredentials(user="consumer", password="r")
    ConnectionFile(url="nats://file:1", user="operator", reader=reader, node="n", pid=1).write(serving_dir)
    assert find(data_dir=serving_dir).reader == NatsAccess(url="nats://file:1", user="consumer", password="r")
    environ = {"SUITE_NATS_READER_USER": "reads", "SUITE_NATS_READER_PASSWORD": "s"}
    by_url = find("nats://given:1", user="me", environ=environ).reader
    assert by_url == NatsAccess(url="nats://given:1", user="reads", password="s")
    assert find("nats://given:1", environ={}).reader is None


def test_the_environment_goes_before_the_usual_directory(serving_dir: Path) -> None:
    environ = {
        "SUITE_DATA_DIR": str(serving_dir),
        "SUITE_NATS_URL": "nats://environment:1",
        "SUITE_NATS_USER": "me",
        "SUITE_NATS_PASSWORD": "p",
        "SUITE_SUBJECT_ROOT": "mine",
    }
    target = find(environ=environ)
    assert (target.access.url, target.access.user, target.access.password) == (
        "nats://environment:1",
        "me",
        "p",
    )
    assert target.subject_root == "mine"
    assert find(environ={"SUITE_DATA_DIR": str(serving_dir)}).access.url == "nats://file:1"


def test_where_a_service_is_on_another_nats_the_file_says_and_who_one_is_the_environment(
    tmp_path: Path,
) -> None:
    ConnectionFile(url="nats://file:1", subject_root="mine", node="n", pid=1).write(tmp_path)
    environ = {
        "SUITE_NATS_USER": "me",
        "SUITE_NATS_PASSWORD": "p",
        "SUITE_NATS_READER_USER": "reads",
        "SUITE_NATS_READER_PASSWORD": "s",
    }
    target = find(data_dir=tmp_path, environ=environ)
    me = NatsAccess(url="nats://file:1", user="me", password="p", inbox_prefix="_INBOX.me")
    assert (target.access, target.subject_root) == (me, "mine")
    assert target.reader == NatsAccess(url="nats://file:1", user="reads", password="s")
    creds = {"SUITE_NATS_CREDENTIALS": "me.creds", "SUITE_NATS_INBOX_PREFIX": "_INBOX.mine"}
    assert find(data_dir=tmp_path, environ=creds).access == NatsAccess(
        url="nats://file:1", credentials_file="me.creds", inbox_prefix="_INBOX.mine"
    )
    assert find(data_dir=tmp_path, environ={}).access == NatsAccess(url="nats://file:1")


def test_a_user_who_is_named_is_taken_with_a_data_directory_too(serving_dir: Path) -> None:
    target = find(data_dir=serving_dir, user="bot", password="b", environ={})
    assert target.access == NatsAccess(
        url="nats://file:1", user="bot", password="b", inbox_prefix="_INBOX.bot"
    )


def test_a_service_is_found_again_by_its_data_directory(serving_dir: Path) -> None:
    target = find(data_dir=serving_dir, environ={})
    reader = ReaderCredentials(user="consumer", password="r")
    ConnectionFile(
        url="nats://moved:1", user="operator", password="new", reader=reader, node="n", pid=2
    ).write(serving_dir)
    assert (target.rediscover().url, target.rediscover().password) == ("nats://moved:1", "new")
    assert target.rediscover_reader() == NatsAccess(url="nats://moved:1", user="consumer", password="r")
    ConnectionFile.path(serving_dir).unlink()
    with pytest.raises(Unavailable, match="suite serve"):
        target.rediscover()
    assert find("nats://given:1", environ={}).rediscover().url == "nats://given:1"


def test_the_password_of_a_node_that_was_killed_goes_to_nobody(serving_dir: Path, tmp_path: Path) -> None:
    target = find(data_dir=serving_dir, environ={})
    shutil.copytree(serving_dir, killed := tmp_path / "killed")
    with pytest.raises(Unavailable, match=r"not running: process 1, which wrote .*connection\.json"):
        find(data_dir=killed, environ={})
    ConnectionFile.path(serving_dir).unlink()
    with pytest.raises(Unavailable):
        target.rediscover()


def test_a_client_that_looks_whether_a_service_runs_keeps_none_from_starting(tmp_path: Path) -> None:
    (tmp_path / "lock").touch()
    looking = os.open(tmp_path / "lock", os.O_RDONLY)
    fcntl.flock(looking, fcntl.LOCK_SH)  # as `is_held` does, for longer
    threading.Timer(0.005, os.close, [looking]).start()
    with held(tmp_path):
        assert is_held(tmp_path)
    assert not is_held(tmp_path)


def test_another_nats_stays_where_it_is_when_the_node_that_named_it_is_gone(tmp_path: Path) -> None:
    ConnectionFile(url="nats://file:1", node="n", pid=1).write(tmp_path)
    target = find(data_dir=tmp_path, environ={"SUITE_NATS_USER": "me"})
    ConnectionFile.path(tmp_path).unlink()
    assert target.rediscover() == target.access


def test_no_service_in_a_data_directory_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="suite serve"):
        find(data_dir=tmp_path / "nowhere", environ={})
    (tmp_path / "connection.json").write_text(json.dumps({"url": 1}))
    with pytest.raises(InvalidConfiguration, match=r"connection\.json"):
        find(data_dir=tmp_path, environ={})


async def test_a_server_that_is_gone_is_named_with_where_its_address_is_from(tmp_path: Path) -> None:
    ConnectionFile(url="nats://127.0.0.1:1", node="n", pid=1).write(tmp_path)
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:1.*connection\.json"):
        async with suite.connect(data_dir=tmp_path):
            pass


async def test_only_what_another_node_can_generate_is_requested_again_when_a_node_is_lost(
    tmp_path: Path,
) -> None:
    asked: list[str] = []

    async def generate_text(call: Call) -> None:
        asked.append(call.body["conversation_id"])
        await call.send(Heartbeat())

    async with (
        KillableServer.start(tmp_path) as server,
        responding(server.access, generate_text=generate_text),
        suite.connect(server.access.url, silence_seconds=0.3) as client,
    ):
        for conversation_id, continue_ in (("whole", False), ("new turn", True)):
            with pytest.raises(NodeLost):
                await client.generate_text("m", "Once", conversation_id=conversation_id, continue_=continue_)
    assert asked == ["whole", "whole", "new turn"]
