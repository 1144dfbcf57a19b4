"""No credential and no text of a client is in a log, an event, a trace, a reported error or a read model.

One service meets what makes such texts travel: good and bad requests, over NATS and HTTP, with and without a
key, bugs in each process that raise what a client has sent, a model's process that is killed, and a NATS
server that goes away.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

import anyio
import anyio.to_thread
import msgspec
import pytest

from suite.bus.connection import Connection
from suite.client import Client
from suite.config import ConnectionFile
from suite.errors import SuiteError
from suite.messages.actor import NatsAccess
from suite.process_log import Entry
from support.gateway import RunningGateway
from support.models import CHAT_TEMPLATE, slow_model, tiny_model
from support.nats import PATIENCE_SECONDS, mirrored_nats, operator_of, restart_nats
from support.service import history, serving

PROMPT: Final = "Swordfish prompt"
HEADER: Final = "Swordfish-header"
BUGGY: Final = f"{PROMPT} bug"
BUGS: Final = f"""
import sys

def is_bug(text):
    if text and "bug" in str(text):
        raise ValueError("{PROMPT}: " + str(text))

def watch(owner, name, argument):
    wrapped = getattr(owner, name)
    def failing(*given, **named):
        is_bug(argument(*given))
        return wrapped(*given, **named)
    setattr(owner, name, failing)

if "suite.actors.entry" in sys.orig_argv:
    from suite.engine.prompts.prompt import Prompter
    watch(Prompter, "submit", lambda _, request: request.prompt)
if "serve" in sys.orig_argv:
    from suite.node.node import Node
    watch(Node, "loadable", lambda _, name: name)
if "gateway" in sys.orig_argv:
    from suite.gateway.gateway import Gateway
    watch(Gateway, "_check_wishes", lambda _, requester, asked: getattr(asked, "user", None))
"""
"""A sitecustomize.py: bugs in the three processes that raise what a client has sent."""


BODIES: Final = tuple(
    each.replace("PROMPT", PROMPT).encode()
    for each in (
        "PROMPT",
        '{"model_id": "tiny", "prompt": "PROMPT", "max_tokens": "PROMPT"}',
        '{"model_id": "tiny", "prompt": "PROMPT"',
        '{"model_id": "tiny", "prompt": "PROMPT", "max_tokens": 2, "PROMPT": 1}',
        '{"model_id": "tiny", "prompt": "PROMPT", "max_tokens": 2, "grammar": "PROMPT"}',
        '{"model_id": "tiny", "prompt": "PROMPT", "max_tokens": 2, "json_schema": {"PROMPT": "PROMPT"}}',
        '{"model_id": "tiny", "messages": [{"role": "PROMPT", "content": "PROMPT"}], "max_tokens": 2}',
        '{"model_id": "tiny", "prompt": "PROMPT", "max_tokens": 2, "stop": ["PROMPT"], "continue": true}',
    )
)
MAY_KNOW: Final = ("connection.json", "credentials.json")


class Left(NamedTuple):
    """What an attacked service has left behind."""

    secrets: list[str]
    log: str
    events: str
    errors: str
    data_dir: Path


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> Left:
    return anyio.run(attacked, tmp_path_factory.mktemp("secrets"))


async def attacked(directory: Path) -> Left:
    models, data = directory / "models", directory / "data"
    models.mkdir()
    tiny_model(models / "tiny.gguf", chat_template=CHAT_TEMPLATE)
    slow_model(models / "slow.gguf")
    (directory / "sitecustomize.py").write_text(BUGS)
    async with mirrored_nats(directory) as nats, operator_of(nats) as client:
        environ = {
            "SUITE_NATS_URL": nats.access.url.replace(
                "://", f"://{nats.access.user}:{nats.access.password}@"
            ),
            "SUITE_NATS_INBOX_PREFIX": nats.access.inbox_prefix,
            "PYTHONPATH": os.pathsep.join([str(directory), *filter(None, [os.environ.get("PYTHONPATH")])]),
        }
        options = ("--log-format", "json", "--trace", "console", "--http", "127.0.0.1:0")
        async with serving(models, data, *options, environ=environ) as service:
            key = (await client.create_key("editor")).secret
            await attack_nats(nats.access, client)
            await anyio.to_thread.run_sync(attack_http, gateway_of(data), key)
            await kill_model(client)
            await restart_nats(nats)
            await answered_again(client)
            await client.generate_text("tiny", PROMPT, max_tokens=2)
            events = msgspec.json.encode([each.data for each in await history(client)])
            errors = msgspec.json.encode(await client.get_errors(limit=100))
            await service.stop()
            log = service.errors.read_text()
    passwords = [str(each.password) for each in (nats.access, nats.operator, nats.consumer)]
    return Left([*passwords, key, PROMPT, HEADER], log, events.decode(), errors.decode(), data)


def gateway_of(data: Path) -> RunningGateway:
    url = ConnectionFile.read(data).http
    assert url is not None
    return RunningGateway("127.0.0.1", int(url.rpartition(":")[2]), data)


async def attack_nats(access: NatsAccess, client: Client) -> None:
    """Good, bad and unreadable requests with the prompt in them, and bugs of the node and of a model."""
    await client.generate_text("tiny", PROMPT, max_tokens=2)
    await client.generate_text("tiny", messages=[{"role": "user", "content": PROMPT}], max_tokens=2)
    for model, prompt in (("tiny", BUGGY), ("bug", PROMPT), ("unknown", PROMPT)):
        with pytest.raises(SuiteError):
            await client.generate_text(model, prompt, max_tokens=2)
    with pytest.raises(SuiteError):
        await client.load_model("bug")
    async with Connection.open(access, name="caller") as caller:
        for body in BODIES:
            with suppress(SuiteError):
                await caller.request(
                    "suite.action.generate_text", body, headers={"Suite-Client": HEADER}, timeout=20
                )


def attack_http(gateway: RunningGateway, key: str) -> None:
    """The same over HTTP, with keys in headers."""
    chat = {"model": "tiny", "messages": [{"role": "user", "content": PROMPT}], "max_tokens": 2}
    token = {"Authorization": f"Token {HEADER}"}
    bearer, basic = {"Authorization": f"Bearer {key}"}, {"Authorization": f"Basic {HEADER}"}
    for body, headers in (
        (chat, bearer),
        (chat, basic),
        (chat, token),
        ({**chat, "user": BUGGY}, bearer),
        ({**chat, "model": "unknown"}, {"x-api-key": HEADER}),
        ({**chat, "tools": PROMPT}, basic),
        ({**chat, "stream": True}, bearer),
    ):
        gateway.post("/v1/chat/completions", body, headers)
    gateway.post("/v1/chat/completions", b"{" + PROMPT.encode(), {"Authorization": HEADER})
    gateway.get(f"/v1/models/unknown?key={HEADER}")
    gateway.post("/v1/messages", chat, {"x-api-key": key})
    gateway.post("/api/chat", {**chat, "options": {"num_predict": 2}})


async def kill_model(client: Client) -> None:
    """Kill the process of a model that generates."""
    with suppress(SuiteError):
        chunks = aiter(client.generate("slow", PROMPT, max_tokens=4000))
        await anext(chunks)
        status = (await client.get_model_status("slow")).model
        assert status is not None
        assert status.instance is not None
        assert status.instance.pid is not None
        os.kill(status.instance.pid, signal.SIGKILL)
        async for _ in chunks:
            pass


async def answered_again(client: Client) -> None:
    with anyio.fail_after(PATIENCE_SECONDS):
        while True:
            with suppress(SuiteError):
                await client.health_check()
                return
            await anyio.sleep(0.1)


@pytest.mark.timeout(120)  # for the service that is attacked
def test_neither_log_nor_traces_tell_a_secret(left: Left) -> None:
    assert "/v1/chat/completions" in left.log, "there are traces"
    for secret in left.secrets:
        assert secret not in left.log


def test_every_line_of_all_processes_is_json(left: Left) -> None:
    lines = [msgspec.json.decode(line) for line in left.log.splitlines()]
    assert {"suite.node", "suite.gateway", "suite.actor"} <= {line.get("logger") for line in lines}


def test_the_bugs_of_all_processes_are_in_the_log_by_type_and_place(left: Left) -> None:
    entries = [entry for line in left.log.splitlines() if (entry := Entry.of_line(line.encode()))]
    failed = {each.logger for each in entries if each.exception.endswith("ValueError")}
    assert failed >= {"suite.bus", "suite.gateway", "suite.actor"}
    assert {each.model_id for each in entries} == {"", "tiny"}


def test_neither_events_nor_reported_errors_tell_a_secret(left: Left) -> None:
    assert "actor_crashed" in left.errors
    entries = msgspec.json.decode(left.errors)["errors"]
    models = {each["model_id"] for each in entries if each["error_type"] == "internal"}
    assert models == {None, "tiny"}, "of the node, and of a model's process"
    for secret in left.secrets:
        assert secret not in left.events
        assert secret not in left.errors


def test_no_file_of_the_service_has_a_secret(left: Left) -> None:
    files = [each for each in left.data_dir.rglob("*") if each.is_file() and each.name not in MAY_KNOW]
    assert any(each.suffix == ".db" for each in files)
    for file in files:
        content = file.read_bytes()
        for secret in left.secrets:
            assert secret.encode() not in content, file
