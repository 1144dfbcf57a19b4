"""`suite demo` from start to end, and that it leaves nothing behind however it ends."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import psutil
import pytest
from anyio.streams.buffered import BufferedByteReceiveStream

from support.cpus import every_cpu
from support.examples import help_examples
from support.models import CHAT_TEMPLATE, tiny_model

MARK = "DEMO_TEST_MARK"
"""In the environment of the demo and so of every process that comes from it."""

SECONDS = 50.0


MODEL = "SmolLM2-135M-Instruct.Q4_1"
"""A small model has the name of the one in the examples of the help."""


def home(directory: Path) -> dict[str, str]:
    """The environment of a person who has what the examples name."""
    (directory / "models").mkdir()
    (directory / ".models").symlink_to(directory / "models")
    tiny_model(directory / "models" / f"{MODEL}.gguf", chat_template=CHAT_TEMPLATE, context=1024)
    (directory / "tmp").mkdir()
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    return {MARK: str(directory), "HOME": str(directory), "TMPDIR": str(directory / "tmp"), "PATH": path}


@pytest.fixture(autouse=True)
def with_every_cpu() -> Iterator[None]:
    """A demo with a tiny model ends so soon that a signal from the same CPU may come too late."""
    with every_cpu():
        yield


@asynccontextmanager
async def demo(directory: Path, *options: str, line: str | None = None) -> AsyncIterator[anyio.abc.Process]:
    """The demo with these options, or an example of its help as it stands."""
    environ = {**os.environ, **home(directory)}
    command = [sys.executable, "-m", "suite", "demo", "--models-dir", str(directory / "models"), *options]
    if line is not None:
        command = ["bash", "-c", f"exec {line}"]
    with anyio.fail_after(SECONDS):
        async with await anyio.open_process(command, env=environ, cwd=directory) as process:
            yield process


def offspring(directory: Path) -> list[psutil.Process]:
    """Every process that came from this demo, whoever its parent is by now."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == str(directory) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


async def until_alone(directory: Path) -> None:
    with anyio.fail_after(15):
        while offspring(directory):
            await anyio.sleep(0.05)


async def documents(process: anyio.abc.Process) -> AsyncIterator[Any]:
    assert process.stdout is not None
    lines = BufferedByteReceiveStream(process.stdout)
    while True:
        try:
            yield json.loads(await lines.receive_until(b"\n", 1 << 20))
        except (anyio.EndOfStream, anyio.IncompleteRead):
            return


async def test_the_demo_shows_all_of_it_and_leaves_nothing(tmp_path: Path) -> None:
    _, line = help_examples("demo")
    async with demo(tmp_path, line=line) as process:
        shown = [document async for document in documents(process)]
        assert await process.wait() == 0
    steps = {document["step"]: document["result"] for document in shown if "step" in document}
    assert steps.keys() == {"ready", "load", "chat", "http", "status", "unload", "stopped"}
    first, second = (document["result"] for document in shown if document.get("step") == "chat")
    assert second["usage"]["reused_tokens"] >= first["usage"]["prompt_tokens"]
    assert steps["http"]["choices"][0]["message"]["role"] == "assistant"
    assert steps["unload"]["freed_bytes"] > 0
    types = [document["type"] for document in shown if "type" in document]
    depends_on_the_machine = ("suite.model.", "suite.instance.grew.")
    assert [kind for kind in types if not kind.startswith(depends_on_the_machine)] == [
        "suite.node.started.v1",
        "suite.instance.load_started.v1",
        "suite.instance.loaded.v1",
        "suite.usage.generated.v1",
        "suite.usage.generated.v1",
        "suite.usage.generated.v1",
        "suite.instance.unloaded.v1",
    ]
    assert offspring(tmp_path) == []
    assert list((tmp_path / "tmp").iterdir()) == []


async def test_the_demo_in_text_says_what_was_reused(tmp_path: Path) -> None:
    line, _ = help_examples("demo")
    async with demo(tmp_path, line=line) as process:
        assert process.stdout is not None
        shown = b"".join([part async for part in process.stdout]).decode()
        assert await process.wait() == 0
    for words in (
        f"$ suite load {MODEL}",
        "(turn 2)",
        "/v1/chat/completions -d",
        "prompt tokens were still in memory",
        "\n  suite serve --models-dir .models\n",
        f"\n  suite run {MODEL} 'What is a llama?'\n",
        f"suite.event.usage.{MODEL.replace('.', '%2E')}",
    ):
        assert words in shown


@pytest.mark.parametrize(
    ("step", "number"),
    [
        ("nothing", signal.SIGINT),
        ("ready", signal.SIGTERM),
        ("load", signal.SIGHUP),
        ("chat", signal.SIGINT),
    ],
)
async def test_a_signal_at_any_step_leaves_nothing(tmp_path: Path, step: str, number: signal.Signals) -> None:
    async with demo(tmp_path, "--json") as process:
        if step == "nothing":
            while len(offspring(tmp_path)) < 2:
                await anyio.sleep(0.01)
        else:
            async for document in documents(process):
                if document.get("step") == step:
                    break
        process.send_signal(number)
        assert await process.wait() == 128 + number
    await until_alone(tmp_path)
    assert list((tmp_path / "tmp").iterdir()) == []


async def test_a_demo_that_is_killed_takes_its_service_with_it(tmp_path: Path) -> None:
    async with demo(tmp_path, "--json") as process:
        async for document in documents(process):
            if document.get("step") == "load":
                break
        assert len(offspring(tmp_path)) >= 4  # demo, service, nats-server, the model's process
        process.kill()
        await process.wait()
    await until_alone(tmp_path)


async def test_a_model_that_is_not_there_ends_the_demo_in_order(tmp_path: Path) -> None:
    async with demo(tmp_path, "--model", "nowhere") as process:
        assert process.stderr is not None
        complaint = b"".join([part async for part in process.stderr]).decode()
        assert await process.wait() == 1
    assert "error model_not_found: " in complaint
    assert offspring(tmp_path) == []
