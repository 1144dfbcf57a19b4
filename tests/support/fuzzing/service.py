"""A service to fuzz: small models with all that they can have, and what must hold of it afterwards."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import anyio
import psutil

import suite
from suite.client import Client
from suite.errors import SuiteError
from support.adapters import adapter
from support.encoder import tiny_bert
from support.fuzzing.hints import Hints
from support.fuzzing.values import Hint
from support.fuzzing.web import HostileWeb, hostile_web
from support.gateway import RunningGateway, gateway_of
from support.models import CHAT_TEMPLATE, tiny_model
from support.projector import END, START, tiny_projector
from support.reranker import tiny_reranker
from support.service import Serving, serving

_CONFIGURATION: Final = """
[models.tiny]
draft_model = "twin"
[models.tone]
base = "tiny"
[models.sailor]
base = "tiny"
adapters = [{id = "tone", scale = 0.5}]
"""
UNLIKELY: Final = frozenset(
    (
        "internal",
        "unavailable",
        "no_service",
        "unknown_outcome",
        "node_lost",
        "timeout",
        "fenced",
        "access_denied",
    )
)
"""The codes of errors that a service which is well never answers with."""


class FuzzedService:
    """A node and a gateway, and what must hold of them afterwards."""

    def __init__(self, service: Serving, gateway: RunningGateway, models: Path, web: HostileWeb) -> None:
        self.gateway = gateway
        self.hints: Mapping[str, Hint] = Hints(web).by_name
        self.data_dir = service.data_dir
        self.models = models
        self._logs = (service.errors, service.data_dir / f"gateway-{gateway.port}.log")
        data_dir = str(service.data_dir)
        (process,) = [
            each for each in psutil.Process().children() if {"gateway", data_dir} <= {*each.cmdline()}
        ]
        node = psutil.Process(service.pid)
        (server,) = [each for each in node.children() if "nats-server" in each.name()]
        self._own = [node, process, server]

    def processes(self) -> list[psutil.Process]:
        """Those whose memory is to stay flat: node, gateway, and NATS server."""
        return self._own

    async def check(self) -> None:
        """Raise AssertionError unless both live, say that they are well, have logged no bug, and work."""
        assert all(each.is_running() for each in self._own), [log.read_text()[-3000:] for log in self._logs]
        async with suite.connect(data_dir=self.data_dir) as client:
            await _usable(client)
            health = await client.health_check()
            assert health.status == "HEALTHY", health
            reply = await client.generate_text("tiny", "Once", max_tokens=2)
            assert reply.usage.completion_tokens == 2
        assert self.gateway.get("/readyz").status == 200
        for log in self._logs:
            _check_log(log)


@asynccontextmanager
async def fuzzed_service(directory: Path) -> AsyncIterator[FuzzedService]:
    """A node with small models, a gateway before it, and a web server that both do not know to mean harm."""
    models = _make_models(directory / "models")
    config = directory / "suite.toml"
    config.write_text(_CONFIGURATION)
    options = ("--memory-limit-gb", "3", "--node", "box1", "--config", str(config))
    async with hostile_web() as web:
        environ = {"SUITE_PICTURES_FETCH_FROM": web.hosts}
        async with serving(models, directory / "data", *options, environ=environ) as service:
            with gateway_of(service.data_dir) as gateway:
                async with suite.connect(data_dir=service.data_dir) as client:
                    await client.set_alias("chat", "tiny")
                yield FuzzedService(service, gateway, models, web)


def _make_models(directory: Path) -> Path:
    """Models that generate, embed and rank; one has an adapter, a projector and a draft model."""
    directory.mkdir()
    marks = (START, END)
    tiny = tiny_model(directory / "tiny.gguf", chat_template=CHAT_TEMPLATE, fills_in=True, control=marks)
    tiny_model(directory / "twin.gguf", fills_in=True, control=marks, name="twin")
    tiny_projector(directory / "mmproj-tiny.gguf")
    adapter(directory / "tone.gguf", tiny)
    tiny_model(directory / "brief.gguf", chat_template=CHAT_TEMPLATE, brief=True, control=("<|im_end|>",))
    tiny_bert(directory / "bert.gguf")
    tiny_reranker(directory / "ranks.gguf")
    return directory


def _check_log(log: Path) -> None:
    """Raise AssertionError if a process has logged an exception."""
    text = log.read_text(errors="replace")
    at = text.find("Traceback (most recent call last)")
    assert at < 0, text[max(0, at - 500) : at + 3000]


async def _usable(client: Client) -> None:
    """Wait until nothing of what came before is left: drained, held, or put aside for a while."""
    await client.drain_node("box1", undo=True)
    with anyio.fail_after(60):
        while True:
            try:
                await client.load_model("tiny")
                return
            except SuiteError as error:
                assert error.code in ("model_unloading", "overloaded", "load_cancelled", "model_loading"), (
                    error
                )
                await anyio.sleep(0.1)
