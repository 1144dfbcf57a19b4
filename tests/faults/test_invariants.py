"""Actors, the node and the nats-server killed at random moments under load; then the log is judged.

DESIGN's invariants 1 (what was acknowledged is there, once) and 3 (one writer an instance), and that the
state of the service is the fold of its log.
"""

from __future__ import annotations

import os
import random
import signal
from contextlib import suppress
from pathlib import Path

import anyio
import psutil
import pytest

import suite
from suite.domain.footprint import Footprint
from suite.domain.residency import Residency, evolve
from suite.errors import SuiteError
from suite.messages.events import Generated, InstanceLoaded, NodeStarted
from support.invariants import check_fencing, check_instances, check_once
from support.models import tiny_model
from support.service import Serving, history, serving

MODELS = ("red", "green", "blue")
CLIENTS = 4
KILLS_A_LIFE = 3
LIVES = 3


class Acknowledged:
    """What clients were told is stored."""

    def __init__(self) -> None:
        self.generations: dict[str, int] = {}
        self.loads: list[int] = []


async def use(data_dir: Path, chance: random.Random, acknowledged: Acknowledged, name: str) -> None:
    """A client that goes on whatever happens, until it is cancelled."""
    count = 0
    while True:
        with suppress(SuiteError):
            async with suite.connect(data_dir=data_dir, request_seconds=5, silence_seconds=5) as client:
                while True:
                    model = chance.choice(MODELS)
                    count += 1
                    generation_id = f"{name}-{count}"
                    try:
                        if chance.random() < 0.2:
                            await client.unload_model(model, drain_ms=1000)
                            acknowledged.loads.append((await client.load_model(model)).seq)
                        reply = await client.generate_text(
                            model, "Once", max_tokens=chance.randint(1, 60), generation_id=generation_id
                        )
                        acknowledged.generations[generation_id] = reply.seq
                    except SuiteError as error:
                        if error.code in ("unavailable", "access_denied"):
                            raise
                        await anyio.sleep(0.02)
        await anyio.sleep(0.05)


def kill_something(service: Serving, chance: random.Random) -> None:
    """An actor or the nats-server, whichever chance names among those that run."""
    children = psutil.Process(service.pid).children()
    if children:
        with suppress(ProcessLookupError):
            os.kill(chance.choice(children).pid, signal.SIGKILL)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("seed", [1, 2])
async def test_nothing_acknowledged_is_lost_and_nothing_is_there_twice(tmp_path: Path, seed: int) -> None:
    for name in MODELS:
        tiny_model(tmp_path / f"{name}.gguf", seed=len(name))
    data_dir = tmp_path / "data"
    chance, acknowledged = random.Random(seed), Acknowledged()
    async with anyio.create_task_group() as clients:
        for life in range(LIVES):
            async with serving(tmp_path, data_dir) as service:
                if life == 0:
                    for number in range(CLIENTS):
                        clients.start_soon(use, data_dir, chance, acknowledged, f"client-{number}")
                for _ in range(KILLS_A_LIFE):
                    await anyio.sleep(chance.uniform(0.5, 1.5))
                    kill_something(service, chance)
                await anyio.sleep(chance.uniform(0.2, 1.0))
                await service.kill()
        clients.cancel_scope.cancel()

    async with serving(tmp_path, data_dir), suite.connect(data_dir=data_dir) as client:
        events = await history(client)
        status = await client.get_model_status()

    assert acknowledged.generations, "no generation succeeded: the test shows nothing"
    by_seq = {event.seq: event for event in events}
    for generation_id, seq in acknowledged.generations.items():
        fact = by_seq[seq].data
        assert isinstance(fact, Generated)
        assert fact.generation_id == generation_id
    for seq in acknowledged.loads:
        assert isinstance(by_seq[seq].data, InstanceLoaded)
    check_once(events)
    check_instances(events)
    check_fencing(events)
    assert sum(isinstance(event.data, NodeStarted) for event in events) == LIVES + 1

    state = Residency(limit_bytes=Footprint(2**40))
    for event in events:
        state = evolve(state, event.data)
    assert status.models is not None
    assert set(state.residents) == {name for name, model in status.models.items() if model.loaded}
