"""Several nodes as one fleet: what forwarding costs, what more nodes serve, and where conversations go on.

    .venv/bin/python benchmarks/fleet.py [--quick] [PART ...]

`forwarding` asks for the tokens of a text, of a model that one of two nodes has loaded, with one request in
flight. NATS gives each request to either node; those that the other one got were forwarded. Both kinds are of
the same run and of the same client; which ones were forwarded is told by the subject on which nodes hand
requests over. Prints both medians, and their difference beside what that may be.

The model is a tiny one of random weights, which hardly computes.

`throughput` generates with 1, 2 and 3 nodes, each with a copy of the model. A step of a model takes 50 ms,
as that of a big model on a GPU of its own, most of which it waits (`waiting.py`): a few cores cannot compute
what three machines do. Prints the tokens a second of 2 and of 3 nodes beside those of one.

`conversations` has 50 conversations go on over 3 nodes that all have the model, 21 turns each and six at a
time. A turn counts if at least half of the tokens of the turn before were reused, which no other node could
do. Prints how many of all turns but the first did, beside how many should.

`decision` places requests on 1,000 nodes with 10,000 models, of which each has ten loaded and no memory free:
half of the models that are asked for are loaded somewhere, the others have to be loaded, for which others
leave. Times are those of a core, without what else ran on it. Garbage is collected before, and the fastest of
three counts, as a decision is pure. Prints the median and the 99th percentile beside what they may be.
"""

from __future__ import annotations

import gc
import json
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from subprocess import DEVNULL

import anyio
import nats
from nats.aio.msg import Msg

import suite
from harness import choice, report
from prompts import openings
from scale import simulated_nodes
from suite.bus.connection import Connection
from suite.bus.embedded import EmbeddedServer
from suite.client import Client
from suite.domain.placement import Wanted, place
from suite.errors import SuiteError
from suite.identity import new_id
from suite.log.mirror import keep_mirror
from suite.messages.subjects import Subjects

sys.path.append(str(Path(__file__).parent.parent / "tests"))
from support.models import tiny_model

MODEL_ID = "tiny"
WAITING = Path(__file__).parent / "waiting.py"
CONTEXT = 8192
SETTINGS = f"""
standby = false

[copies]
enabled = false

[models."{MODEL_ID}"]
context_length = {CONTEXT}
n_gpu_layers = 0
n_threads = 1
slots = 8
"""
READY_SECONDS = 60.0
FORWARDING_LIMIT_MS = 0.5
DECISION_LIMIT_MS = 1.0
LANDING = 0.99
CLIENTS, TOKENS = 48, 16
STEP_MS = 50


class Fleet:
    """Nodes on one NATS, and a client of any of them."""

    def __init__(self, server: EmbeddedServer, client: Client, directory: Path, step_ms: int) -> None:
        self.server = server
        self.client = client
        self._directory = directory
        self._step_ms = step_ms
        self.nodes: list[str] = []

    @asynccontextmanager
    async def node(self) -> AsyncIterator[str]:
        """One more node that answers, and that all others know."""
        name = f"box{len(self.nodes) + 1}"
        command = [sys.executable, str(WAITING), "serve", "--config", str(self._directory / "suite.toml")]
        command += ["--data-dir", str(self._directory / name)]
        command += ["--models-dir", str(self._directory / "models")]
        environ = access(self.server) | {"SUITE_NODE": name, "BENCH_STEP_MS": str(self._step_ms)}
        async with await anyio.open_process(
            command, stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL, env={**os.environ, **environ}
        ) as process:
            try:
                self.nodes.append(name)
                await self._acquainted()
                yield name
            finally:
                self.nodes.remove(name)
                with anyio.CancelScope(shield=True):
                    if process.returncode is None:
                        process.send_signal(signal.SIGTERM)
                    await process.wait()

    async def _acquainted(self) -> None:
        with anyio.fail_after(READY_SECONDS):
            while not await self._know_each_other():
                await anyio.sleep(0.1)

    async def _know_each_other(self) -> bool:
        try:
            for name in self.nodes:
                health = await self.client.on_node(name).health_check()
                if set(health.nodes) < set(self.nodes):
                    return False
        except SuiteError:
            return False
        models = (await self.client.list_models()).models
        return all(each.sha256 is not None for each in models)


@asynccontextmanager
async def fleet(*, nodes: int, step_ms: int = 0) -> AsyncIterator[Fleet]:
    """So many nodes, which have the model loaded if the caller has it loaded."""
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (directory / "models").mkdir()
        tiny_model(directory / "models" / f"{MODEL_ID}.gguf", context=CONTEXT)
        (directory / "suite.toml").write_text(SETTINGS)
        server = await stack.enter_async_context(EmbeddedServer.start(directory / "nats", is_shared=True))
        connection = await stack.enter_async_context(Connection.open(server.access, name="bench"))
        tasks = await stack.enter_async_context(anyio.create_task_group())
        stack.callback(tasks.cancel_scope.cancel)
        tasks.start_soon(partial(keep_mirror, connection, server.mirror, Subjects(), new_id=new_id))
        own = server.operator
        client = await stack.enter_async_context(suite.connect(own.url, user=own.user, password=own.password))
        made = Fleet(server, client, directory, step_ms)
        for _ in range(nodes):
            await stack.enter_async_context(made.node())
        yield made


def access(server: EmbeddedServer) -> dict[str, str]:
    """The environment of a node that uses this NATS."""
    own = server.access
    return {
        "SUITE_NATS_URL": own.url,
        "SUITE_NATS_USER": own.user or "",
        "SUITE_NATS_PASSWORD": own.password or "",
        "SUITE_NATS_INBOX_PREFIX": own.inbox_prefix,
    }


# --- forwarding ---------------------------------------------------------------------------------------------


async def forwarding(short: bool) -> None:
    """What it costs that a node hands a request over."""
    async with fleet(nodes=2) as found:
        await found.client.on_node("box1").load_model(MODEL_ID)
        await anyio.sleep(1.5)  # until the other one has heard of it
        seconds = await asked(found.server, 600 if short else 6000)
    forwarded, direct = statistics.median(seconds[True]) * 1e3, statistics.median(seconds[False]) * 1e3
    report("fleet.forwarding.p50", forwarded, direct, unit="ms", better="lower")
    report("fleet.forwarding.cost", forwarded - direct, FORWARDING_LIMIT_MS, unit="ms", better="lower")


async def asked(server: EmbeddedServer, requests: int) -> Mapping[bool, Sequence[float]]:
    """How long each request took, those that were forwarded under True."""
    own = server.access
    client = await nats.connect(own.url, user=own.user, password=own.password, inbox_prefix=own.inbox_prefix)
    forwarded: set[str] = set()

    async def hear(message: Msg) -> None:
        forwarded.add((message.headers or {}).get("Suite-Reply", ""))

    await client.subscribe("suite.actor.*.action.tokenize", cb=hear)
    inbox = client.new_inbox()
    answers = await client.subscribe(f"{inbox}.*")
    body = json.dumps({"model_id": MODEL_ID, "text": "Once upon a time"}).encode()
    taken: dict[str, float] = {}
    for number in range(requests):
        reply = f"{inbox}.{number}"
        began = time.perf_counter()
        await client.publish("suite.action.tokenize", body, reply=reply)
        answer = await answers.next_msg(timeout=10)
        taken[reply] = time.perf_counter() - began
        assert answer.subject == reply and json.loads(answer.data)["status"] == "success", answer.data
    await client.flush()
    await client.close()
    warm = list(taken)[requests // 10 :]
    seconds = {kind: [taken[each] for each in warm if (each in forwarded) == kind] for kind in (True, False)}
    assert all(len(each) > requests // 10 for each in seconds.values()), "NATS gave all to one node"
    return seconds


# --- throughput ---------------------------------------------------------------------------------------------


async def throughput(short: bool) -> None:
    """What more nodes generate."""
    requests = 2 * CLIENTS if short else 10 * CLIENTS
    speeds = []
    async with fleet(nodes=0, step_ms=STEP_MS) as found, AsyncExitStack() as stack:
        for _ in range(3):
            node = await stack.enter_async_context(found.node())
            await found.client.on_node(node).load_model(MODEL_ID)
            await anyio.sleep(1.5)  # until the others have heard of it
            speeds.append(await tokens_per_second(found.client, requests))
    for nodes, speed in enumerate(speeds[1:], start=2):
        report(f"fleet.throughput.{nodes}_nodes", speed, speeds[0], unit="tokens/s", better="higher")


async def tokens_per_second(client: Client, requests: int) -> float:
    numbers, tokens = iter(range(requests)), list[int]()

    async def ask() -> None:
        for number in numbers:
            answer = await client.generate_text(
                MODEL_ID, f"{number} times, once upon a time,", max_tokens=TOKENS
            )
            tokens.append(answer.usage.completion_tokens)

    began = time.perf_counter()
    async with anyio.create_task_group() as tasks:
        for _ in range(CLIENTS):
            tasks.start_soon(ask)
    return sum(tokens) / (time.perf_counter() - began)


# --- conversations ------------------------------------------------------------------------------------------


async def conversations(short: bool) -> None:
    """Whether a next turn comes where its tokens are."""
    count, turns = (12, 6) if short else (50, 20)
    landed: list[bool] = []
    async with fleet(nodes=3) as found:
        for node in found.nodes:
            await found.client.on_node(node).load_model(MODEL_ID)
        await anyio.sleep(1.5)
        waiting = iter(openings("fleet", count))

        async def talk() -> None:
            for opening in waiting:
                landed.extend(await reused(found.client, opening, turns))

        async with anyio.create_task_group() as tasks:
            for _ in range(6):
                tasks.start_soon(talk)
    share = sum(landed) / len(landed)
    report("fleet.conversations.landed", share, LANDING, unit="of all turns", better="higher")


async def reused(client: Client, opening: str, turns: int) -> list[bool]:
    """Of each turn but the first, whether it was where the tokens of the one before it were."""
    conversation, text, before = new_id(), opening, 0
    landed = []
    for turn in range(turns + 1):
        answer = await client.generate_text(MODEL_ID, text, max_tokens=4, conversation_id=conversation)
        if turn:
            landed.append(answer.usage.reused_tokens >= before / 2)
        text, before = f"{text}{answer.text} And then, in turn {turn},", answer.usage.prompt_tokens
    return landed


# --- decision -----------------------------------------------------------------------------------------------


async def decision(short: bool) -> None:
    """How long it takes to find the node of a request."""
    draw = random.Random("fleet")
    nodes = simulated_nodes(draw, nodes=1000, models=10_000)
    model_ids = list(next(iter(nodes.values())).offered)
    loaded = sorted(nodes.hosted)
    absent = sorted(set(model_ids) - set(loaded))
    seconds = []
    gc.collect()
    for _ in range(200 if short else 2000):
        for model_id in (draw.choice(loaded), draw.choice(absent)):
            wanted = Wanted(model_id=model_id)
            seconds.append(min(_timed(partial(place, wanted, nodes, here="node0")) for _ in range(3)))
    for name, rank in (("median", 49), ("p99", 98)):
        figure = statistics.quantiles(seconds, n=100)[rank] * 1e3
        report(f"fleet.decision.{name}", figure, DECISION_LIMIT_MS, unit="ms", better="lower")


def _timed(call: Callable[[], object]) -> float:
    """The seconds of a core that a call takes."""
    began = time.thread_time()
    call()
    return time.thread_time() - began


PARTS = {
    "forwarding": forwarding,
    "throughput": throughput,
    "conversations": conversations,
    "decision": decision,
}


async def main() -> None:
    chosen = choice(__doc__, parts=PARTS, models=())
    for part in chosen.parts:
        await PARTS[part](chosen.quick)


if __name__ == "__main__":
    os.environ.pop("SUITE_TRACE", None)
    anyio.run(main, backend_options={"use_uvloop": True})
