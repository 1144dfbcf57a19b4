"""A service to fuzz: small models, their ids, and what must hold of it afterwards."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import anyio
import psutil

import suite
from suite.client import Client
from suite.errors import SuiteError
from support.encoder import tiny_bert
from support.gateway import RunningGateway, gateway_of
from support.models import CHAT_TEMPLATE, tiny_model
from support.reranker import tiny_reranker
from support.service import Serving, serving

MODELS: Final = ("tiny", "brief", "bert", "ranks")
HINTS: Final[dict[str, Sequence[Any]]] = {
    **dict.fromkeys(
        ("model_id", "model", "name"), (*MODELS, *MODELS, "tiny", "nobody", "TINY", "tiny:latest")
    ),
    "node": (None, None, None, None, None, "box1", "box2"),
    **dict.fromkeys(
        ("max_tokens", "max_completion_tokens", "max_output_tokens", "num_predict"), (0, 1, 2, 3)
    ),
    "options": ({"num_predict": 2}, {"num_predict": 1, "temperature": 0}),
    "n": (1, 1, 2),
    "role": ("system", "user", "user", "assistant", "tool", "developer"),
    "grammar": (None, None, 'root ::= [0-9]+ "."', "root ::= (", "root ::= root"),
    "load_wait_ms": (None, 0, 1, 3000),
    "keep_alive": (*[None] * 9, 60, "forever", 0, "now"),
    "deadline_ms": (None, 1, 500),
    "wait_ms": (0, 1, 500),
    "drain_ms": (0, 1, 500),
    "min_seq": (0, 1, 5),
    "conversation_id": (None, "a", "b", "c"),
    "previous_response_id": (None, "a", "resp_a"),
    "generation_id": ("a", "b", "c"),
    "context_length": (None, 1, 512, 100_000),
    "benchmark_id": (None, "a", "b"),
    "judge": (None, "tiny", "nobody"),
    "rounds": (1, 2),
    "streams": ([], [1], [2, 1]),
    "prompt_tokens": (None, 1, 8, 100_000),
    "answer_tokens": (None, 2, 4),
    "set_jsonl": (
        None,
        "",
        "{",
        '{"prompt": "x", "exact": "y", "max_tokens": 2}\n[]',
        '{"prompt": "x", "pattern": "(a|a)*b", "max_tokens": 2}',
        '{"prompt": "x", "json_schema": {"$ref": "#"}, "max_tokens": 2}',
        '{"prompt": "x", "judge": "y", "max_tokens": 2}',
    ),
    "tool_choice": ("auto", "none", "required"),
}
"""What most requests have, so that they get far and come back soon."""
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

    def __init__(self, service: Serving, gateway: RunningGateway, models: Path) -> None:
        self.gateway = gateway
        self.data_dir = service.data_dir
        self.models = models
        self._logs = (service.errors, service.data_dir / f"gateway-{gateway.port}.log")
        data_dir = str(service.data_dir)
        (process,) = [
            each for each in psutil.Process().children() if {"gateway", data_dir} <= {*each.cmdline()}
        ]
        self._own = [psutil.Process(service.pid), process]

    def processes(self) -> list[psutil.Process]:
        """Those whose memory is to stay flat: node, gateway, and NATS server."""
        servers = [child for child in self._own[0].children() if "nats-server" in child.name()]
        return [*self._own, *servers]

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
    """A node with small models, and a gateway before it."""
    models = _make_models(directory / "models")
    async with serving(models, directory / "data", "--memory-limit-gb", "3", "--node", "box1") as service:
        with gateway_of(service.data_dir) as gateway:
            yield FuzzedService(service, gateway, models)


def _make_models(directory: Path) -> Path:
    """Models that generate, embed and rank."""
    directory.mkdir()
    tiny_model(directory / "tiny.gguf", chat_template=CHAT_TEMPLATE, fills_in=True)
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
