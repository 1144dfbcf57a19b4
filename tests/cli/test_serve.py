"""What `suite serve` says to who started it: when it is ready, and what its start and its stop wait for."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import anyio
import pytest

import suite
from suite.cli import invocation
from suite.client import Client
from suite.config import default_data_dir
from suite.errors import SuiteError
from suite.messages.actions.status import GenerationInfo
from suite.node import progress
from suite.node.progress import StartProgress
from suite.tasks import background
from support.cpus import every_cpu
from support.models import CHAT_TEMPLATE, slow_model, tiny_model
from support.nats import eventually
from support.raw_gguf import KEYS, gguf_bytes
from support.service import Serving

SUITE = str(Path(sys.executable).with_name("suite"))


@pytest.fixture(autouse=True)
def with_every_cpu() -> Iterator[None]:
    """What is shown tells of several threads."""
    with every_cpu():
        yield


@asynccontextmanager
async def served(models: Path, data_dir: Path) -> AsyncIterator[tuple[Serving, list[str]]]:
    """A service as it is typed, and the lines that it prints when it is ready."""
    printed, errors = data_dir.with_suffix(".stdout"), data_dir.with_suffix(".stderr")
    command = [SUITE, "serve", "--models-dir", str(models), "--node", "box1"]
    environ = {**os.environ, "SUITE_DATA_DIR": str(data_dir)}
    with printed.open("wb") as stdout, errors.open("wb") as stderr:
        process = await anyio.open_process(command, stdout=stdout, stderr=stderr, env=environ)
    service = Serving(process, data_dir, errors)
    try:
        await service.ready()
        await eventually(lambda: "  next " in printed.read_text())
        yield service, [line.strip() for line in printed.read_text().splitlines()]
    finally:
        with anyio.CancelScope(shield=True):
            await service.kill()
            await process.aclose()


async def test_a_service_that_is_ready_says_what_to_type_and_one_that_stops_what_it_waits_for(
    tmp_path: Path,
) -> None:
    models, data_dir = tmp_path / "models", tmp_path / "data"
    models.mkdir()
    slow_model(models / "slow.Q8.gguf")
    tiny_model(models / "tiny.gguf", chat_template=CHAT_TEMPLATE)
    (models / "broken.gguf").write_bytes(b"GGUF")
    (models / "part-of-two.gguf").write_bytes(encoder_decoder())
    async with served(models, data_dir) as (service, lines):
        first, found, nats, limits, following = lines
        assert first == f"suite {suite.__version__} serves as node box1; Ctrl-C stops it"
        assert found == f"models  4 in {models}, 1 of them cannot be loaded (see `suite models`)"
        assert service.connection_file().url in nats
        assert str(data_dir / "connection.json") in nats
        assert "GiB of memory" in limits
        assert "threads" in limits
        assert following == f"next    {SUITE} run tiny 'What is a llama?' --data-dir {data_dir}"

        leaving = anyio.CancelScope()
        async with background() as tasks:
            tasks.start_soon(generate, data_dir, anyio.CancelScope())
            tasks.start_soon(generate, data_dir, leaving)
            async with suite.connect(data_dir=data_dir) as client:
                while sum([each.state == "generating" for each in await unfinished(client)]) < 2:
                    await anyio.sleep(0.05)
                while "broken" not in {each.model_id for each in (await client.get_errors()).errors}:
                    await anyio.sleep(0.05)
            service.process.send_signal(signal.SIGINT)
            await says(service, "waiting for 2 generations, at most 10 s; a second Ctrl-C")
            leaving.cancel()
            await says(service, "waiting for 1 generation, at most")
            service.process.send_signal(signal.SIGINT)
            assert await service.stop() == 0
            tasks.cancel_scope.cancel()
    said = service.errors.read_text()
    assert said.index("stopping at once") < said.index("node box1 has stopped")


def encoder_decoder() -> bytes:
    """A small model that has a chat template and generates nothing."""
    keys = {key.replace("llama.", "t5."): value for key, value in KEYS.items()}
    template = {"tokenizer.chat_template": CHAT_TEMPLATE}
    return gguf_bytes({**dict.fromkeys(KEYS), **keys, **template, "general.architecture": "t5"})


async def unfinished(client: Client) -> tuple[GenerationInfo, ...]:
    return (await client.get_model_status()).generations


async def generate(data_dir: Path, scope: anyio.CancelScope) -> None:
    """A client of its own, so that it can go away."""
    with scope, suppress(SuiteError):
        async with suite.connect(data_dir=data_dir) as client:
            await client.generate_text("slow.Q8", "Once", max_tokens=4000)


async def says(service: Serving, words: str) -> None:
    await eventually(lambda: words in service.errors.read_text())


async def test_a_service_without_models_says_where_to_put_them(tmp_path: Path) -> None:
    models = tmp_path / "models"
    async with served(models, tmp_path / "data") as (service, lines):
        assert lines[1] == f"models  none in {models} (No such file or directory)"
        assert lines[-1] == f"next    put a .gguf file into {models}, or start it with --models-dir DIR"
        service.process.send_signal(signal.SIGINT)
        await says(service, "stopping: nothing is running")
        assert await service.stop() == 0


async def test_a_start_that_waits_says_for_what(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(progress, "SAY_SECONDS", 0.01)
    caplog.set_level(logging.INFO)
    start = StartProgress()
    async with background() as tasks:
        tasks.start_soon(start.tell)
        start.step("reading the stars")
        await eventually(lambda: caplog.messages.count("still starting: reading the stars") >= 2)
        start.step("")  # tells by itself what it waits for
        caplog.clear()
        await anyio.sleep(0.05)
        start.end()
    assert caplog.messages == []


def test_what_to_type_next_is_typed_as_this_command_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "my bin" / "suite"
    here.parent.mkdir()
    here.touch(mode=0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["my bin/suite", "demo"])
    monkeypatch.setenv("PATH", "/usr/bin")
    assert invocation.typed("run", "a b") == "'my bin/suite' run 'a b'"
    monkeypatch.setenv("PATH", str(here.parent))
    assert invocation.typed("serve") == "suite serve"
    monkeypatch.setattr(sys, "argv", [str(Path(suite.__file__).with_name("__main__.py"))])
    assert invocation.typed("serve") == f"{sys.executable} -m suite serve"
    assert invocation.arguments("run", "m", "hi", options=("--top-k", "1")) == "run m hi --top-k 1"
    assert invocation.arguments("run", "-m", "hi", options=("--top-k", "1")) == "run --top-k 1 -- -m hi"


def test_what_to_type_next_works_in_another_terminal_and_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SUITE_DATA_DIR", "SUITE_NATS_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    assert invocation.data_dir_arguments(default_data_dir()) == ()
    assert invocation.data_dir_arguments(Path("data")) == ("--data-dir", str(tmp_path / "data"))
    monkeypatch.setenv("SUITE_DATA_DIR", str(tmp_path))
    assert invocation.data_dir_arguments(tmp_path) == ("--data-dir", str(tmp_path))
