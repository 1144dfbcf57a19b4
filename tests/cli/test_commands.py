"""The command line as a script sees it: what it prints where, and its exit codes."""

from __future__ import annotations

import json
import os
import pty
import re
import shlex
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import anyio
import pytest
from msgspec.structs import replace

from suite.bus.connection import Connection
from suite.cli.exit import exit_code
from suite.cli.main import COMMANDS, main
from suite.errors import (
    AccessDenied,
    CredentialsRefused,
    ModelNotFound,
    NodeLost,
    RequestTimeout,
    Unavailable,
    UnknownOutcome,
)
from suite.identity import new_id, utc_now
from suite.log import Log
from suite.messages.actions.residency import LoadModelReply, UnloadModelReply
from suite.messages.actions.status import (
    HealthCheckReply,
    InstanceInfo,
    ListModelsReply,
    MemoryEstimate,
    ModelInfo,
)
from suite.messages.events import REGISTRY, ModelRemoved, NodeStopped
from suite.messages.signals import Chunk, Heartbeat, Progress
from suite.messages.subjects import Subjects
from support.faults import KillableServer
from support.responder import Call, Handler, Responder, responding, say, spoken

SUITE = [sys.executable, "-m", "suite"]


class Line:
    """A command line whose commands find one service."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("SUITE_")}
        self.environ = {**clean, **environ}

    async def run(self, *arguments: str, input: bytes = b"") -> CompletedProcess[bytes]:
        with anyio.fail_after(30):
            return await anyio.run_process([*SUITE, *arguments], input=input, env=self.environ, check=False)

    async def output(self, *arguments: str, input: bytes = b"") -> str:
        done = await self.run(*arguments, input=input)
        assert (done.returncode, done.stderr) == (0, b"")
        return done.stdout.decode()

    async def document(self, *arguments: str) -> Any:
        return json.loads(await self.output(*arguments, "--json"))


@asynccontextmanager
async def service(directory: Path, **handlers: Handler) -> AsyncIterator[tuple[Line, Responder]]:
    async with (
        KillableServer.start(directory) as server,
        responding(server.access, **handlers) as responder,
    ):
        yield Line({"SUITE_NATS_URL": server.access.url}), responder


MODEL = ModelInfo(
    model_id="smol[lm]2",
    display_name="SmolLM2",
    aliases=("small",),
    capabilities=("chat",),
    model_path="models/smol.gguf",
    file_bytes=98 << 20,
    sha256=None,
    architecture="llama",
    parameters=135_000_000,
    quantization="Q4_1",
    trained_context_tokens=8192,
    n_ctx=4096,
    n_gpu_layers=-1,
    n_threads=2,
    priority=0,
    idle_timeout_seconds=300.0,
    has_chat_template=True,
    estimate=MemoryEstimate(weights_bytes=98 << 20, kv_bytes=90 << 20, compute_bytes=50 << 20),
    estimated_vram_mb=238,
    loaded=True,
    status="loaded",
    error=None,
    last_used=None,
    idle_time=None,
    instance=InstanceInfo(
        node="box1",
        instance_id="i",
        pid=4711,
        resident_bytes=200 << 20,
        reserved_bytes=238 << 20,
        load_progress=1.0,
        load_ms=130.0,
        running=0,
        loaded_at=None,
        last_used_at=None,
        idle_ms=1500.0,
    ),
)


# --- help and usage --------------------------------------------------------------------------------------


def test_help_lists_every_command_and_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    for word in (*COMMANDS, "130", "interrupted", "Examples"):
        assert word in shown


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_examples_and_json(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    inner = ("create",) if name == "cluster" else ()  # which does nothing by itself
    assert main([name, *inner, "--help"]) == 0
    shown = capsys.readouterr().out
    assert "Examples:" in shown
    assert f"suite {name}" in shown
    assert "--json" in shown or name == "completion"  # which is for shells


def test_the_help_of_events_names_every_aggregate(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["events", "--help"]) == 0
    words = set(re.findall(r"[a-z]+", capsys.readouterr().out.partition("Options:")[0]))
    assert {kind.aggregate for kind in REGISTRY.values()} <= words


@pytest.mark.parametrize("name", ["drain", "events", "gateway", "keys", "push", "replay"])
def test_what_no_single_node_could_answer_has_no_option_for_one(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([name, "--on", "box2"]) == 2
    assert "No such option '--on'" in capsys.readouterr().err


async def test_help_starts_without_what_only_work_needs() -> None:
    program = (
        "import sys; from suite.cli.main import main\n"
        "for name in sys.argv[1:]: assert main([name, '--help']) == 0\n"
        "assert not {'nats', 'rich', 'opentelemetry', 'llama_cpp'} & sys.modules.keys()"
    )
    await anyio.run_process([sys.executable, "-c", program, *COMMANDS])


@pytest.mark.parametrize(
    "arguments",
    [["bogus"], ["load"], ["events", "--since", "yesterday-ish"], ["serve", "--port", "70000"], ["demo"]],
)
def test_wrong_usage_is_exit_code_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert "error usage: " in capsys.readouterr().err


def test_wrong_configuration_is_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = tmp_path / "suite.toml"
    wrong.write_text("memory_limit_gb = 'much'")
    assert main(["serve", "--config", str(wrong)]) == 2
    told = capsys.readouterr().err
    assert "error invalid_configuration: " in told
    assert "expected a number, got text" in told


def test_exit_codes_tell_refused_unreachable_and_uncertain_apart() -> None:
    errors = [ModelNotFound(), Unavailable(), RequestTimeout(), UnknownOutcome(), NodeLost()]
    assert [exit_code(error) for error in errors] == [1, 3, 4, 4, 4]
    assert [exit_code(error) for error in (AccessDenied(), CredentialsRefused())] == [1, 1]


async def test_no_service_is_exit_code_3(tmp_path: Path) -> None:
    nowhere = await Line({"SUITE_DATA_DIR": str(tmp_path)}).run("health")
    assert nowhere.returncode == 3
    assert nowhere.stderr.startswith(b"error unavailable: ")
    async with service(tmp_path) as (line, _):
        nobody = await line.run("models", "--json")
    assert (nobody.returncode, nobody.stdout) == (3, b"")
    assert nobody.stderr.startswith(b"error no_service: ")


async def test_a_refusal_is_exit_code_1_with_its_code_on_stderr(tmp_path: Path) -> None:
    async def unload_model(call: Call) -> None:
        await call.refuse("model_not_found", "no model 'x'")

    async with service(tmp_path, unload_model=unload_model) as (line, _):
        done = await line.run("unload", "x")
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr == b"error model_not_found: no model 'x'\n"


AWAY = replace(MODEL, model_id="away", file_state="unreachable", error="/mnt/nas cannot be read (...)")
HALF = replace(
    MODEL,
    model_id="half",
    model_path="models/bob/half.gguf",
    n_ctx=0,
    trained_context_tokens=None,
    status="invalid",
    file_state="incomplete",
    error="half.gguf is not whole yet",
    instance=None,
)


# --- what a person and what a program sees -----------------------------------------------------------------


async def test_models_status_and_health(tmp_path: Path) -> None:
    async def list_models(call: Call) -> None:
        if call.body.get("cursor") is None:
            await call.send(ListModelsReply(models=(MODEL,), next_cursor="page 2"))
        else:
            await call.send(ListModelsReply(models=(AWAY, HALF)))

    async def get_model_status(call: Call) -> None:
        key = "model" if call.body["model_id"] else "models"
        one = HALF if call.body["model_id"] == "half" else MODEL
        value: Any = one if call.body["model_id"] else {MODEL.model_id: MODEL}
        await call.send(_reply(**{key: value}))

    async def health_check(call: Call) -> None:
        await call.send(
            HealthCheckReply(
                node="box1",
                version="1",
                uptime=61.0,
                timestamp="",
                models_loaded=1,
                models_tracked=2,
                commands_processed=3,
            )
        )

    async with service(
        tmp_path, list_models=list_models, get_model_status=get_model_status, health_check=health_check
    ) as (line, _):
        table = await line.output("models")
        for cell in (
            "smol[lm]2",
            "loaded",
            "llama",
            "135 M",
            "Q4_1",
            "4096",
            "98.0 MiB",
            "238.0 MiB",
            "small",
            "loaded, unreachable",
            "/mnt/nas cannot be read",
            "incomplete",
            "bob/, half.gguf is not whole yet",
        ):
            assert cell in table
        assert " 0 " not in table
        assert (await line.document("models"))["models"][0]["model_id"] == "smol[lm]2"
        loaded = await line.output("status")
        for cell in ("box1", "4711", "200.0 MiB", "1.50 s", "130 ms"):
            assert cell in loaded
        one = await line.output("status", "smol[lm]2")
        for cell in ("smol.gguf", "8192", "chat template", "weights 98.0 MiB"):
            assert cell in one
        half = await line.output("status", "half")
        assert "half.gguf is not whole yet" in half
        assert "None" not in half
        assert await line.output("health") == (
            "HEALTHY: node box1, version 1, up 61.00 s, 1 of 2 models loaded\n"
        )


def _reply(**fields: Any) -> bytes:
    import msgspec

    return msgspec.json.encode({"status": "success", "warnings": [], **fields})


async def test_load_prints_its_result_and_in_a_pipe_no_bar(tmp_path: Path) -> None:
    reply = LoadModelReply(
        model_id="m", loaded=True, message="m is loaded", seq=4, load_ms=130.0, resident_bytes=200 << 20
    )

    async def load_model(call: Call) -> None:
        await call.send(Progress(model_id="m", fraction=0.5), Progress(model_id="m", fraction=1.0))
        await call.send(reply, b"")

    async def unload_model(call: Call) -> None:
        assert call.body["drain_ms"] == 500
        await call.send(
            UnloadModelReply(
                model_id="m", unloaded=True, message="m is unloaded", seq=5, freed_bytes=200 << 20
            )
        )

    async with service(tmp_path, load_model=load_model, unload_model=unload_model) as (line, _):
        done = await line.run("load", "m")
        assert done.returncode == 0
        assert done.stdout == b"m is loaded (130 ms, 200.0 MiB resident)\n"
        assert done.stderr == b""  # which is no terminal
        assert (await line.document("load", "m"))["seq"] == 4
        assert await line.output("unload", "m", "--drain", "0.5") == "m is unloaded (200.0 MiB freed)\n"


async def test_generate_prints_each_piece_when_it_comes(tmp_path: Path) -> None:
    go_on = anyio.Event()

    async def generate_text(call: Call) -> None:
        await call.send(Chunk(index=0, text="Once "), Heartbeat())
        await go_on.wait()
        await call.send(Chunk(index=1, text="upon"), spoken(call.body, "Once upon"), b"")

    async with service(tmp_path, generate_text=generate_text) as (line, responder):
        command = [*SUITE, "generate", "m", "say", "--raw", "--max-tokens", "9", "--stop", "x", "--stop", "y"]
        with anyio.fail_after(20):
            async with await anyio.open_process(command, env=line.environ, stdin=None) as process:
                assert process.stdout is not None
                assert await process.stdout.receive() == b"Once "
                go_on.set()
                rest = b"".join([part async for part in process.stdout])
                assert await process.wait() == 0
    assert rest == b"upon\n"
    ((_, request),) = responder.requests
    assert (request["prompt"], request["max_tokens"], request["stop"]) == ("say", 9, ["x", "y"])


async def test_generate_takes_a_message_from_stdin_and_gives_one_document(tmp_path: Path) -> None:
    async def generate_text(call: Call) -> None:
        assert call.body["messages"] == [{"role": "user", "content": "What is a llama?"}]
        assert call.body["system_prompt"] == "Be brief."
        await say(call, "An ", "animal.")

    async with service(tmp_path, generate_text=generate_text) as (line, _):
        arguments = ["generate", "m", "--chat", "--system", "Be brief.", "--json"]
        document = json.loads(await line.output(*arguments, input=b"What is a llama?"))
    assert document["text"] == "An animal."
    assert document["usage"]["prompt_tokens"] == 3


async def test_ctrl_c_ends_a_generation_on_the_server_too(tmp_path: Path) -> None:
    async def generate_text(call: Call) -> None:
        index = 0
        while True:
            await call.send(Chunk(index=index, text="word "))
            index += 1
            await anyio.sleep(0.01)

    async with service(tmp_path, generate_text=generate_text) as (line, responder):
        command = [*SUITE, "generate", "m", "say", "--raw", "--id", "mine"]
        with anyio.fail_after(20):
            async with await anyio.open_process(command, env=line.environ, stdin=None) as process:
                assert process.stdout is not None
                await process.stdout.receive()
                process.send_signal(signal.SIGINT)
                _ = [part async for part in process.stdout]
                assert await process.wait() == 130
        await responder.until_cancelled()
        assert responder.cancelled == ["mine"]
        assert await line.output("cancel", "mine") == "mine: told to end\n"


async def test_chat_keeps_the_messages_and_ends_at_exit(tmp_path: Path) -> None:
    async def generate_text(call: Call) -> None:
        await say(call, "answer ", str(len(call.body["messages"])))

    async with service(tmp_path, generate_text=generate_text) as (line, responder):
        printed = await line.output("chat", "m", input=b"one\n\ntwo\n/exit\nthree\n")
    assert printed == "answer 1\nanswer 3\n"
    first, second = (request for _, request in responder.requests)
    assert [message["content"] for message in second["messages"]] == ["one", "answer 1", "two"]
    assert [message["role"] for message in second["messages"]] == ["user", "assistant", "user"]
    assert first["conversation_id"] == second["conversation_id"]


async def test_chat_in_a_pipe_stops_at_a_refusal(tmp_path: Path) -> None:
    async def generate_text(call: Call) -> None:
        await call.refuse("no_chat_template", "send a prompt")

    async with service(tmp_path, generate_text=generate_text) as (line, _):
        done = await line.run("chat", "m", "--json", input=b"one\ntwo\n")
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr == b"error no_chat_template: send a prompt\n"


async def test_ctrl_c_in_a_chat_ends_the_answer_and_not_the_chat(tmp_path: Path) -> None:
    async def generate_text(call: Call) -> None:
        if call.body["messages"][-1]["content"] == "silence":
            await say(call)
            return
        await call.send(Chunk(index=0, text="half an answer"))
        await anyio.sleep_forever()

    async with service(tmp_path, generate_text=generate_text) as (line, responder):
        terminal, theirs = pty.openpty()
        command = [*SUITE, "chat", "m"]
        with anyio.fail_after(20):
            async with await anyio.open_process(
                command, env=line.environ, stdin=theirs, stdout=theirs, stderr=theirs
            ) as process:
                os.write(terminal, b"hello\n")
                await _read_until(terminal, b"half an answer")
                process.send_signal(signal.SIGINT)
                await responder.until_cancelled()
                await _read_until(terminal, b"> ")
                os.write(terminal, b"silence\n")
                assert b"0 tokens" in await _read_until(terminal, b"> ")
                os.write(terminal, b"and?\n")
                await _read_until(terminal, b"half an answer")
                process.send_signal(signal.SIGINT)
                await _read_until(terminal, b"> ")
                os.write(terminal, b"/exit\n")
                assert await process.wait() == 0
        os.close(theirs)
        os.close(terminal)
    requests = [body for name, body in responder.requests if name == "generate_text"]
    assert [message["content"] for message in requests[2]["messages"]] == ["hello", "half an answer", "and?"]


async def _read_until(terminal: int, wanted: bytes) -> bytes:
    seen = b""
    while wanted not in seen:
        await anyio.wait_readable(terminal)
        seen += os.read(terminal, 4096)
    return seen


# --- events ------------------------------------------------------------------------------------------------


@asynccontextmanager
async def logged(directory: Path) -> AsyncIterator[tuple[Line, Log]]:
    async with (
        KillableServer.start(directory) as server,
        Connection.open(server.access, name="writer") as connection,
        Log.open(connection, Subjects(), source="/test", new_id=new_id, now=utc_now) as log,
    ):
        for number in range(3):
            await log.append(NodeStopped(node="box1", epoch=number))
        await log.append(ModelRemoved(model_id="m.1", node="box1"))
        yield Line({"SUITE_NATS_URL": server.access.url}), log


async def test_events_from_a_sequence_a_time_and_under_a_filter(tmp_path: Path) -> None:
    async with logged(tmp_path) as (line, _):
        lines = (await line.output("events")).splitlines()
        assert [text.split()[0] for text in lines] == ["1", "2", "3", "4"]
        assert "suite.event.node.box1.stopped" in lines[2]
        assert "epoch=2" in lines[2]
        since = await line.output("events", "--since", "3", "--json")
        assert [json.loads(text)["seq"] for text in since.splitlines()] == [3, 4]
        (removed,) = (
            await line.output("events", "--filter", "model", "--since", "1h", "--json")
        ).splitlines()
        assert json.loads(removed)["data"] == {"model_id": "m.1", "node": "box1"}
        assert json.loads(removed)["type"] == "suite.model.removed.v1"
        assert await line.output("events", "--since", "2999-01-01T00:00:00Z") == ""


async def test_events_follow_until_ctrl_c(tmp_path: Path) -> None:
    async with logged(tmp_path) as (line, log):
        command = [*SUITE, "events", "--follow", "--since", "4", "--json"]
        with anyio.fail_after(20):
            async with await anyio.open_process(command, env=line.environ, stdin=None) as process:
                assert process.stdout is not None
                assert json.loads(await process.stdout.receive())["seq"] == 4
                await log.append(NodeStopped(node="box1", epoch=9))
                assert json.loads(await process.stdout.receive())["data"]["epoch"] == 9
                process.send_signal(signal.SIGINT)
                assert await process.wait() == 130


async def test_a_reader_that_goes_is_no_error(tmp_path: Path) -> None:
    async with logged(tmp_path) as (line, log):
        script = f"{{ {shlex.join(SUITE)} events --follow; echo code $? >&2; }} | head -n 1"
        with anyio.fail_after(20):
            async with await anyio.open_process(["sh", "-c", script], env=line.environ) as process:
                assert process.stdout is not None
                assert process.stderr is not None
                assert b"box1.stopped" in await process.stdout.receive()
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(_append_for_ever, log)
                    complaints = b"".join([part async for part in process.stderr])
                    tasks.cancel_scope.cancel()
    assert complaints == b"code 0\n"


async def _append_for_ever(log: Log) -> None:
    while True:
        await log.append(NodeStopped(node="box1", epoch=9))
        await anyio.sleep(0.05)
