"""Nodes of a fleet that die, freeze and are restarted one after the other under load; then the log is judged.

`SUITE_FAULT_ROUNDS=20` makes so many rounds of each fault, and `SUITE_FAULT_SEED` names the chance.
`SUITE_FAULTS` says which of them, and `--log-cli-level=INFO` shows what clients got.
"""

from __future__ import annotations

import logging
import os
import random
import signal
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import NamedTuple, TypeAlias

import anyio
import pytest

from suite.bus.embedded import EmbeddedServer
from suite.client import Client
from suite.errors import SuiteError
from suite.messages.actions.generation import GenerateTextReply, GenerateTextRequest
from suite.messages.envelope import Recorded
from suite.messages.events import Generated
from support.fleet import access
from support.invariants import check_fencing, check_instances, check_once
from support.models import tiny_model
from support.nats import mirrored_nats, operator_of
from support.service import Serving, history, serving

logger = logging.getLogger("suite.tests")

ROUNDS = int(os.environ.get("SUITE_FAULT_ROUNDS", "1"))
SEED = int(os.environ.get("SUITE_FAULT_SEED", "1"))
FAULTS = os.environ.get("SUITE_FAULTS", "kill freeze restart").split()

MODELS: Mapping[str, tuple[str, ...]] = {
    "box1": ("red", "green"),
    "box2": ("red", "green", "blue"),
    "box3": ("red", "blue"),
}
CLIENTS = 4
END_SECONDS = 40.0
"""A client waits for as long, also for a model that has to be loaded on a slow machine."""
PATIENCE_SECONDS = 60.0
GONE_SECONDS = 3.2
"""After so long a node that stands still gets nothing any more."""
QUIET_SECONDS = 6.0
"""From one fault to the next, so that no request meets two: one that is silent is given up after 5 s."""
ASKED_SECONDS = 2.0
"""For so long it is asked at most, well before the loss of the node stands in the log."""


class Answer(NamedTuple):
    """What a client got for one generation."""

    generation_id: str
    model_id: str
    error: str = ""
    seq: int = 0
    text: str = ""
    pieces: str = ""
    is_streamed: bool = True


Ask: TypeAlias = Callable[[GenerateTextRequest], Awaitable[Answer]]


class Load:
    """Clients that go on whatever happens, and what they were told."""

    def __init__(self, client: Client, name: str) -> None:
        self._client = client
        self._name = name
        self._chance = random.Random(f"{SEED} {name}")
        self.answers: list[Answer] = []

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        stopping = anyio.Event()
        async with anyio.create_task_group() as clients:
            for number in range(CLIENTS):
                ask = self._stream if number else self._ask_once
                clients.start_soon(self._use, f"{self._name}-{number}", ask, stopping)
            yield
            stopping.set()

    async def _use(self, name: str, ask: Ask, stopping: anyio.Event) -> None:
        count = 0
        while not stopping.is_set():
            count += 1
            request = self._request(f"{name}-{count}")
            with anyio.move_on_after(END_SECONDS) as waiting:
                self.answers.append(await ask(request))
            assert not waiting.cancelled_caught, f"{request} has no end"
            await anyio.sleep(self._chance.uniform(0.0, 0.05))

    def _request(self, generation_id: str) -> GenerateTextRequest:
        return GenerateTextRequest(
            model_id=self._chance.choice(("red", "green", "blue")),
            prompt="Once",
            max_tokens=self._chance.choice((1, 8, 60)),
            temperature=1.5,
            generation_id=generation_id,
        )

    async def _stream(self, asked: GenerateTextRequest) -> Answer:
        generation_id, pieces = asked.generation_id or "", ""
        generation = self._client.generate(
            asked.model_id,
            "Once",
            max_tokens=asked.max_tokens,
            generation_id=generation_id,
            temperature=asked.temperature,
        )
        try:
            async for chunk in generation:
                pieces += chunk.text
        except SuiteError as error:
            return Answer(generation_id, asked.model_id, error=error.code, pieces=pieces)
        reply = generation.reply
        return Answer(generation_id, asked.model_id, seq=reply.seq, text=reply.text, pieces=pieces)

    async def _ask_once(self, asked: GenerateTextRequest) -> Answer:
        """Without a stream, so that nobody but the fleet can see to it that there is an answer."""
        generation_id = asked.generation_id or ""
        try:
            reply = await self._client._ask("generate_text", asked, GenerateTextReply)
        except SuiteError as error:
            return Answer(generation_id, asked.model_id, error=error.code, is_streamed=False)
        return Answer(generation_id, asked.model_id, "", reply.seq, reply.text, reply.text, is_streamed=False)


class Nodes:
    """The nodes of the test, which may die."""

    def __init__(self, server: EmbeddedServer, client: Client, directory: Path) -> None:
        self._server = server
        self._client = client
        self._directory = directory
        self._lives: dict[str, AsyncExitStack] = {}
        self.running: dict[str, Serving] = {}

    async def start(self, name: str) -> None:
        self._lives[name] = life = AsyncExitStack()
        environ = access(self._server) | {"SUITE_NODE": name}
        models = self._directory / f"models-{name}"
        self.running[name] = await life.enter_async_context(
            serving(models, self._directory / name, "--config", str(models / "suite.toml"), environ=environ)
        )

    async def end(self, name: str) -> None:
        self.running.pop(name, None)  # it may have died in its start
        await self._lives.pop(name).aclose()

    async def end_all(self) -> None:
        for name in list(self._lives):
            await self.end(name)

    async def acquainted(self) -> None:
        """Wait until each node works with all others. One whose loss stands in the log has to start again."""
        for name in list(self.running):
            with anyio.fail_after(PATIENCE_SECONDS):
                while set(await self._known_to(name)) != set(self.running):
                    await self._revive()
                    await anyio.sleep(0.1)

    async def _revive(self) -> None:
        for name, node in list(self.running.items()):
            if node.process.returncode is not None:
                await self.end(name)
                await self.start(name)

    async def all_answer(self) -> None:
        """Each request is answered, whichever node gets it: a frozen one gets none any more."""
        until = anyio.current_time() + ASKED_SECONDS
        for _ in range(20):
            if anyio.current_time() < until:
                await self._client.usage()

    async def _known_to(self, name: str) -> tuple[str, ...]:
        try:
            return (await self._client.on_node(name).health_check()).nodes
        except SuiteError:
            return ()


async def kill(nodes: Nodes, chance: random.Random) -> None:
    """A machine that is switched off, and on again."""
    name = chance.choice(list(nodes.running))
    await nodes.running[name].kill()
    await nodes.end(name)
    await anyio.sleep(chance.uniform(0.0, 4.0))
    await nodes.start(name)


async def freeze(nodes: Nodes, chance: random.Random) -> None:
    """A process that stands still, and goes on."""
    process = nodes.running[chance.choice(list(nodes.running))].process
    process.send_signal(signal.SIGSTOP)
    try:
        if chance.random() < 0.7:
            await anyio.sleep(GONE_SECONDS)
            await nodes.all_answer()
            await anyio.sleep(chance.uniform(0.0, 2.5))
        else:
            await anyio.sleep(chance.uniform(0.5, GONE_SECONDS))
    finally:
        process.send_signal(signal.SIGCONT)


async def restart(nodes: Nodes, _: random.Random) -> None:
    """A new version on all machines, one after the other."""
    for name in list(nodes.running):
        await nodes.running[name].stop()
        await nodes.end(name)
        await nodes.start(name)
        await nodes.acquainted()


FAULT: Mapping[str, Callable[[Nodes, random.Random], Awaitable[None]]] = {
    "kill": kill,
    "freeze": freeze,
    "restart": restart,
}


def judge(answers: list[Answer], events: list[Recorded], *, may_lose: bool) -> None:
    """Every answer is in the log as it was given, from a node that has the model, and nothing else is."""
    by_seq = {event.seq: event for event in events}
    for answer in answers:
        if answer.error:
            # Of a request without a stream, nobody knows any more when the node is lost that took it.
            ends = ("node_lost",) if answer.is_streamed else ("node_lost", "timeout")
            assert may_lose and answer.error in ends, answer
            assert answer.pieces or not answer.is_streamed, f"it could be sent again: {answer}"
            continue
        fact = by_seq[answer.seq].data
        assert isinstance(fact, Generated)
        assert (fact.generation_id, fact.model_id) == (answer.generation_id, answer.model_id)
        assert answer.model_id in MODELS[fact.node], fact
        assert answer.pieces == answer.text, answer
    check_once(events)
    check_instances(events)
    check_fencing(events)


@asynccontextmanager
async def fleet_of_three(directory: Path) -> AsyncIterator[tuple[Nodes, Client]]:
    for name, models in MODELS.items():
        (directory / f"models-{name}").mkdir()
        for model_id in models:
            tiny_model(directory / f"models-{name}" / f"{model_id}.gguf", seed=len(model_id))
        # Three nodes on one machine do not know of each other's threads.
        alone = "".join(f'[models."{model_id}"]\nn_threads = 1\n' for model_id in models)
        (directory / f"models-{name}" / "suite.toml").write_text(f"drain_seconds = 20.0\n{alone}")
    async with mirrored_nats(directory, is_shared=True) as server, operator_of(server) as client:
        nodes = Nodes(server, client, directory)
        try:
            async with anyio.create_task_group() as tasks:
                for name in MODELS:
                    tasks.start_soon(nodes.start, name)
            await nodes.acquainted()
            yield nodes, client
        finally:
            with anyio.CancelScope(shield=True):
                await nodes.end_all()


@pytest.mark.timeout(240)
async def test_a_fleet_loses_nothing_and_answers_nothing_twice(tmp_path: Path) -> None:
    chance = random.Random(SEED)
    async with fleet_of_three(tmp_path) as (nodes, client):
        for name in FAULTS:
            load = Load(client, name)
            async with load.running():
                for number in range(ROUNDS):
                    await anyio.sleep(chance.uniform(0.2, 1.0) + (QUIET_SECONDS if number else 0.0))
                    await FAULT[name](nodes, chance)
                    await nodes.acquainted()
            counts = Counter(answer.error or "answered" for answer in load.answers)
            logger.info("%s: %d rounds, %s", name, ROUNDS, dict(counts))
            judge(load.answers, await history(client), may_lose=name != "restart")
