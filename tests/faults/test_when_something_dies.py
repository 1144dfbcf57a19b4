"""Each row of the design's table "When something dies", on real processes."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from contextlib import AbstractAsyncContextManager, suppress
from pathlib import Path

import anyio
import msgspec
import psutil
import pytest

import suite
from suite.bus.connection import Connection
from suite.bus.embedded import EmbeddedServer
from suite.client import Client
from suite.errors import ActorCrashed, NodeLost, NoService, SuiteError, TooLarge
from suite.messages.actions.generation import GenerateTextRequest
from suite.messages.events import Generated, InstanceCrashed
from suite.messages.events import NodeLost as NodeLostFact
from support.models import smollm2, tiny_model
from support.nats import mirrored_nats, operator_of
from support.service import WITH_STANDBY, Serving, facts, history, service_and_client, serving

LONG = 2000
"""Tokens that take the real model many seconds: what dies, dies in the middle."""


def node(
    server: EmbeddedServer, models: Path, name: str, *options: str
) -> AbstractAsyncContextManager[Serving]:
    """A node on a NATS that is not its own."""
    return serving(
        models, models / name, "--nats-url", server.access.url, *options, environ=credentials(server)
    )


def credentials(server: EmbeddedServer) -> dict[str, str]:
    access = server.access
    return {
        "SUITE_NATS_USER": access.user or "",
        "SUITE_NATS_PASSWORD": access.password or "",
        "SUITE_NATS_INBOX_PREFIX": access.inbox_prefix,
    }


async def actor_pid(client: Client, model_id: str) -> int:
    status = await client.get_model_status(model_id)
    assert status.model is not None and status.model.instance is not None
    pid = status.model.instance.pid
    assert pid is not None
    return pid


async def wait_for(client: Client, fact: str, filter: str | None = None) -> None:
    """Wait until an event of this kind is in the log."""
    with anyio.fail_after(30):
        while fact not in facts(await history(client, filter)):
            await anyio.sleep(0.05)


async def wait_ended(pid: int) -> None:
    with anyio.fail_after(20):
        while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
            await anyio.sleep(0.02)


async def test_an_actor_that_dies_generating_costs_its_generation_alone(tmp_path: Path) -> None:
    models = tmp_path / "models"
    models.mkdir()
    tiny_model(models / "other.gguf")
    shutil.copyfile(smollm2(), models / "big.gguf")
    async with service_and_client(models, tmp_path / "data", environ=WITH_STANDBY) as (_, client):
        await client.load_model("big")
        pid = await actor_pid(client, "big")
        with pytest.raises(ActorCrashed), anyio.fail_after(20):
            async for chunk in client.generate("big", "Once", max_tokens=LONG, temperature=0):
                if chunk.index == 3:
                    os.kill(pid, signal.SIGKILL)
        assert (await client.generate_text("other", "Once", max_tokens=4)).usage.completion_tokens == 4
        again = await client.generate_text("big", "Once", max_tokens=4)
        assert again.usage.completion_tokens == 4
        assert await actor_pid(client, "big") != pid
        events = await history(client, "instance.*.big.>")
        crash = events[facts(events).index("instance.crashed")].data
        assert isinstance(crash, InstanceCrashed)
        assert crash.generations == 1
        assert facts(events) == [
            "instance.load_started",
            "instance.loaded",
            "instance.crashed",
            "instance.load_started",
            "instance.loaded",
        ]


async def test_an_actor_that_takes_nothing_is_replaced_and_the_request_succeeds(tmp_path: Path) -> None:
    tiny_model(tmp_path / "tiny.gguf")
    async with service_and_client(tmp_path, tmp_path / "data", environ=WITH_STANDBY) as (_, client):
        await client.load_model("tiny")
        pid = await actor_pid(client, "tiny")
        os.kill(pid, signal.SIGSTOP)
        with anyio.fail_after(30):
            reply = await client.generate_text("tiny", "Once", max_tokens=4)
        assert reply.usage.completion_tokens == 4
        assert "instance.crashed" in facts(await history(client, "instance"))
        await wait_ended(pid)


async def test_a_stream_of_a_node_that_dies_ends_in_node_lost(tmp_path: Path) -> None:
    shutil.copyfile(smollm2(), tmp_path / "big.gguf")
    async with (
        mirrored_nats(tmp_path / "nats") as server,
        node(server, tmp_path, "a", "--node", "a") as doomed,
        operator_of(server) as client,
    ):
        await client.load_model("big")
        pid = await actor_pid(client, "big")
        with pytest.raises(NodeLost), anyio.fail_after(30):
            async for chunk in client.generate("big", "Once", max_tokens=LONG):
                if chunk.index == 3:
                    await doomed.kill()
        await wait_ended(pid)
        with pytest.raises(NoService):
            await client.health_check()


async def test_other_nodes_append_the_loss_once_and_serve_on(tmp_path: Path) -> None:
    tiny_model(tmp_path / "tiny.gguf")
    async with (
        mirrored_nats(tmp_path / "nats") as server,
        node(server, tmp_path, "a", "--node", "a") as doomed,
        node(server, tmp_path, "b", "--node", "b"),
        node(server, tmp_path, "c", "--node", "c"),
        operator_of(server) as client,
    ):
        await anyio.sleep(1.5)  # so that the others have seen its lease
        await doomed.kill()
        await wait_for(client, "node.lost")
        await anyio.sleep(1.0)  # so that a second observer would have written too
        lost = [event.data for event in await history(client, "node.a.lost")]
        assert len(lost) == 1
        assert isinstance(lost[0], NodeLostFact)
        assert lost[0].observer in ("b", "c")
        assert (await client.generate_text("tiny", "Once", max_tokens=4)).usage.completion_tokens == 4


async def test_a_node_that_died_unseen_is_declared_lost_by_the_next_that_starts(tmp_path: Path) -> None:
    tiny_model(tmp_path / "tiny.gguf")
    async with mirrored_nats(tmp_path / "nats") as server, operator_of(server) as client:
        async with node(server, tmp_path, "a", "--node", "a") as doomed:
            await doomed.kill()
        async with node(server, tmp_path, "b", "--node", "b"):
            await wait_for(client, "node.lost", "node.a.lost")


async def test_a_killed_nats_server_comes_back_and_nothing_acknowledged_is_missing(tmp_path: Path) -> None:
    shutil.copyfile(smollm2(), tmp_path / "big.gguf")
    async with service_and_client(tmp_path, tmp_path / "data", environ=WITH_STANDBY) as (service, client):
        loaded = await client.load_model("big")
        (server,) = (
            child for child in psutil.Process(service.pid).children() if "nats-server" in child.name()
        )
        with pytest.raises(NodeLost), anyio.fail_after(20):
            async for chunk in client.generate("big", "Once", max_tokens=LONG):
                if chunk.index == 3:
                    server.kill()
        with anyio.fail_after(30):
            while True:
                try:
                    reply = await client.generate_text("big", "Once", max_tokens=4)
                    break
                except SuiteError:
                    await anyio.sleep(0.1)
        events = await history(client)
        assert events[loaded.seq - 1].type == "suite.instance.loaded.v1"
        assert events[reply.seq - 1].type == "suite.usage.generated.v1"
        assert len({event.id for event in events}) == len(events)


async def test_a_client_that_dies_frees_its_slot(tmp_path: Path) -> None:
    shutil.copyfile(smollm2(), tmp_path / "big.gguf")
    async with service_and_client(tmp_path, tmp_path / "data", environ=WITH_STANDBY) as (service, client):
        await client.load_model("big")
        request = GenerateTextRequest(model_id="big", prompt="Once", max_tokens=LONG, stream=True)
        async with Connection.open(service.connection_file().access, name="doomed") as doomed:
            async with doomed.request_many(
                "suite.action.generate_text", msgspec.json.encode(request), idle_timeout=10
            ) as messages:
                async for message in messages:
                    if b'"chunk"' in message.data:
                        break
        await wait_for(client, "usage.generated")
        (generated,) = await history(client, "usage")
        assert isinstance(generated.data, Generated)
        assert generated.data.outcome == "client_gone"
        assert generated.data.completion_tokens < LONG
        with anyio.fail_after(20):  # the actor appends the event first, and then tells its node
            while True:
                status = await client.get_model_status("big")
                assert status.model and status.model.instance
                if status.model.instance.running == 0:
                    break
                await anyio.sleep(0.05)


async def test_what_is_too_large_is_refused_and_the_connection_stays(tmp_path: Path) -> None:
    tiny_model(tmp_path / "tiny.gguf")
    async with service_and_client(tmp_path, tmp_path / "data", environ=WITH_STANDBY) as (_, client):
        with pytest.raises(TooLarge):
            await client.generate_text("tiny", "x" * 2**20)
        with pytest.raises(SuiteError) as refused:  # fits by itself, not with what the hand-over adds
            await client.generate_text("tiny", "x" * (2**20 - 400))
        assert refused.value.code in ("too_large", "prompt_too_long")
        assert (await client.generate_text("tiny", "Once", max_tokens=4)).usage.completion_tokens == 4


async def test_a_node_killed_takes_its_server_and_actors_along(tmp_path: Path) -> None:
    tiny_model(tmp_path / "tiny.gguf")
    async with serving(tmp_path, tmp_path / "data", environ=WITH_STANDBY) as service:
        async with suite.connect(data_dir=tmp_path / "data") as client:
            await client.load_model("tiny")
            children = psutil.Process(service.pid).children(recursive=True)
            assert len(children) >= 2
            await service.kill()
            for child in children:
                await wait_ended(child.pid)
    async with service_and_client(tmp_path, tmp_path / "data", environ=WITH_STANDBY) as (_, client):
        events = facts(await history(client))
        assert events.count("node.started") == 2
        unloaded = events.index("instance.unloaded")
        assert unloaded > events.index("instance.loaded")
        status = await client.get_model_status("tiny")
        assert status.model and status.model.status == "unloaded"


async def test_a_second_process_of_the_name_is_refused_or_fences_the_first(tmp_path: Path) -> None:
    tiny_model(tmp_path / "tiny.gguf")
    async with (
        mirrored_nats(tmp_path / "nats") as server,
        node(server, tmp_path, "a1", "--node", "a") as first,
    ):
        command = [sys.executable, "-m", "suite", "serve", "--data-dir", str(tmp_path / "a2")]
        command += ["--node", "a", "--nats-url", server.access.url, "--models-dir", str(tmp_path)]
        environ = {**os.environ, **credentials(server)}
        refused = await anyio.run_process(command, check=False, env=environ)
        assert refused.returncode == 1
        assert b"node_name_taken" in refused.stderr
        async with (
            node(server, tmp_path, "a2", "--node", "a", "--take-over"),
            operator_of(server) as client,
        ):
            with anyio.fail_after(40):
                # The first finds out by its next append, whichever of the two a request reaches.
                while first.process.returncode is None:
                    with suppress(SuiteError):
                        await client.load_model("tiny")
                        await client.unload_model("tiny")
                await first.process.wait()
            assert first.process.returncode == 1
            assert "fenced" in first.errors.read_text()
