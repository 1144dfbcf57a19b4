"""Each example does what it says, run as a reader would run it, against a real service."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from subprocess import PIPE

import anyio
from anyio.streams.buffered import BufferedByteReceiveStream

import suite
from support.example_programs import javascript, python
from support.models import CHAT_TEMPLATE, tiny_model
from support.nodes import client_of_node
from support.ports import free_port
from support.service import history, serving

LIMIT_SECONDS = 40


async def output(command: list[str]) -> str:
    with anyio.fail_after(LIMIT_SECONDS):
        done = await anyio.run_process(command, check=False)
    assert (done.returncode, done.stderr.decode()) == (0, "")
    return done.stdout.decode()


async def refused(command: list[str]) -> str:
    with anyio.fail_after(LIMIT_SECONDS):
        done = await anyio.run_process(command, check=False)
    assert done.returncode == 1
    return done.stderr.decode()


def shown(line: str) -> tuple[int, str, object]:
    """Sequence, type and body, as both consumers print them."""
    seq, kind, body = line.split(" ", 2)
    return int(seq), kind, json.loads(body)


@asynccontextmanager
async def following(command: list[str]) -> AsyncIterator[BufferedByteReceiveStream]:
    """What it prints, while it runs; it must end by itself."""
    with anyio.fail_after(LIMIT_SECONDS):
        async with await anyio.open_process(command, stdout=PIPE, stderr=None) as process:
            assert process.stdout is not None
            yield BufferedByteReceiveStream(process.stdout)
            assert await process.wait() == 0


async def test_a_model_manager_chats_with_what_it_loaded(tmp_path: Path) -> None:
    models = tmp_path / "models"
    models.mkdir()
    tiny_model(models / "chatty.gguf", chat_template=CHAT_TEMPLATE)
    tiny_model(models / "mute.gguf", seed=1)
    async with client_of_node(models, tmp_path / "data") as client:
        printed = await output(python("model_manager.py", tmp_path / "data"))
        assert "chatty: llama, F16, unloaded\nmute: llama, F16, unloaded\n" in printed
        assert "chatty is loaded after" in printed
        first, second = re.findall(r"\[64 tokens, (\d+) reused\]", printed)
        assert int(first) == 0
        assert int(second) > 0, "the second turn begins with the tokens of the first"
        assert "likely to be used next: chatty (" in printed
        assert "chatty is unloaded" in printed
        status = await client.get_model_status("chatty")
        assert status.model is not None
        assert not status.model.loaded
        assert len(await history(client, "usage")) == 2


async def test_a_python_example_says_what_is_wrong(tmp_path: Path) -> None:
    words = await refused(python("model_manager.py", tmp_path / "nowhere"))
    assert words.startswith("error unavailable: no service is running in")
    assert "Traceback" not in words


async def test_a_retraction_changes_whom_the_learning_orchestrator_trusts(tmp_path: Path) -> None:
    models = tmp_path / "models"
    models.mkdir()
    async with client_of_node(models, tmp_path / "data") as client:
        printed = await output(python("learning_orchestration.py", tmp_path / "data"))
        assert "newest samples: 220 ms, 180 ms, 200 ms\n" in printed
        assert len(re.findall(r"^evaluation \w+-2-example-(fast|careful): 0\.[89]5$", printed, re.M)) == 2
        assert "answer_ms: 12 samples, mean 126.9, p95 2" in printed
        before, after = printed.split(" is retracted\n")
        standing = r"^example-(\w+) +(0\.\d{3})  (\S+)"
        (first, trust, change), (second, other, _) = re.findall(standing, before, re.M)
        assert (first, second) == ("fast", "careful")
        assert change.startswith("+")
        (first, same, _), (second, less, change) = re.findall(standing, after, re.M)
        assert (first, second) == ("careful", "fast"), "the other one is trusted more now"
        assert same == other
        assert float(less) < float(trust)
        assert change == "first", "its second cycle does not count any more"
        assert len(await history(client, "evaluation")) == 5


async def test_a_python_consumer_goes_on_where_it_stopped(tmp_path: Path) -> None:
    models = tmp_path / "models"
    models.mkdir()
    async with client_of_node(models, tmp_path / "data") as client:
        for value in (1, 2):
            await client.log_performance_metric("agent", "latency", value)
        lines = (await output(python("consume_events.py", tmp_path / "data", 2))).splitlines()
        assert [shown(line)[:2] for line in lines] == [
            (1, "suite.node.started.v1"),
            (2, "suite.metric.logged.v1"),
        ]
        async with following(python("consume_events.py", tmp_path / "data", 2)) as stream:
            assert b'"value":2' in await stream.receive_until(b"\n", 2000)
            await client.log_performance_metric("agent", "latency", 3)
            assert b'"value":3' in await stream.receive_until(b"\n", 2000)


async def test_a_javascript_consumer_follows_the_log(tmp_path: Path) -> None:
    models = tmp_path / "models"
    models.mkdir()
    command = javascript("consume_events.mjs", tmp_path / "data", 3)
    async with client_of_node(models, tmp_path / "data") as client:
        await client.log_performance_metric("agent", "latency", 1)
        async with following(command) as stream:
            for _ in range(2):
                await stream.receive_until(b"\n", 2000)
            await client.log_performance_metric("agent", "latency", 2)
            seq, kind, body = shown((await stream.receive_until(b"\n", 2000)).decode())
        assert (seq, kind) == (3, "suite.metric.logged.v1")
        assert isinstance(body, dict)
        assert (body["agent_name"], body["value"]) == ("agent", 2.0)


async def test_an_old_client_is_served_unchanged(tmp_path: Path) -> None:
    models = tmp_path / "models"
    models.mkdir()
    tiny_model(models / "tiny.gguf")
    port, health_port = free_port(), free_port()
    environ = {
        "SUITE_ENABLE_BACKWARD_COMPATIBILITY": "true",
        "SUITE_LEGACY_PORT": str(port),
        "SUITE_LEGACY_HEALTH_CHECK_PORT": str(health_port),
        "SUITE_LEGACY_ERRORS_PORT": "0",
    }
    async with serving(models, tmp_path / "data", environ=environ):
        lines = (await output(python("old_client.py", "127.0.0.1", port, health_port))).splitlines()
        wrote = lines.pop(3)
        assert lines == [
            "ModelManagerSuite is HEALTHY, 1 models",
            "tiny: context 512, loaded False",
            "tiny is loaded",
            "answers is logged",
            "tiny is unloaded",
        ]
        assert re.fullmatch(r"tiny wrote: (['\"]).+\1", wrote)
        async with suite.connect(data_dir=tmp_path / "data") as client:
            assert len(await history(client, "usage")) == 1
            assert len(await history(client, "metric")) == 1
