"""Two models that generate at once share the cores, whatever happens to one of them."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import anyio
import psutil
import pytest

from suite import machine
from suite.client import Client
from suite.domain.cores import Claim, share
from suite.errors import SuiteError
from support.cpus import every_cpu
from support.models import smollm2
from support.service import service_and_client

with every_cpu():
    ALL = machine.cores().value
_CLAIM = Claim(ALL, reading=False, priority=0)
ONE_HALF, OTHER_HALF = share(ALL, {0: _CLAIM, 1: _CLAIM}).values()


@pytest.fixture(autouse=True)
def with_every_cpu() -> Iterator[None]:
    with every_cpu():
        yield


@asynccontextmanager
async def generating(client: Client, model_id: str) -> AsyncIterator[None]:
    """A generation that takes far longer than the block, and is given up then."""

    async def generate() -> None:
        with suppress(SuiteError):
            async for _ in client.generate(model_id, "Once", max_tokens=4000, temperature=0):
                pass

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(generate)
        yield
        tasks.cancel_scope.cancel()


async def pids(client: Client) -> dict[str, int]:
    status = await client.get_model_status()
    assert status.models is not None
    return {
        name: model.instance.pid
        for name, model in status.models.items()
        if model.instance is not None and model.instance.pid is not None
    }


async def threads_become(client: Client, *expected: int) -> None:
    """Wait until the models `one` and `other` compute with this many threads; 0: not at all."""
    seen: list[int] = []
    with anyio.move_on_after(20):
        while True:
            status = await client.get_model_status()
            assert status.models is not None
            instances = [status.models[name].instance for name in ("one", "other")]
            seen = [0 if instance is None else instance.threads for instance in instances]
            if seen == [*expected]:
                return
            await anyio.sleep(0.02)
    raise AssertionError(f"they compute with {seen} threads instead of {expected}")


def allow(pid: int, cpus: Iterable[int]) -> None:
    """Let all threads of a process run on these CPUs, as `taskset --all-tasks` does."""
    for thread in psutil.Process(pid).threads():
        with suppress(ProcessLookupError):
            os.sched_setaffinity(thread.id, cpus)


async def test_busy_models_share_the_cores_whatever_happens_to_one(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    for name in ("one", "other"):
        shutil.copyfile(smollm2(), tmp_path / "models" / f"{name}.gguf")
    async with service_and_client(tmp_path / "models", tmp_path / "data") as (_, client):
        await client.load_model("one")
        await client.unload_model("one")  # who shares the cores is known also after one has gone
        for name in ("one", "other"):
            await client.load_model(name)
        pid = await pids(client)
        await threads_become(client, 0, 0)
        async with generating(client, "one"):
            await threads_become(client, ALL, 0)

            cpus = os.sched_getaffinity(pid["one"])
            allow(pid["one"], [min(cpus)])
            await threads_become(client, 1, 0)
            allow(pid["one"], cpus)
            await threads_become(client, ALL, 0)

            async with generating(client, "other"):
                await threads_become(client, ONE_HALF, OTHER_HALF)

                os.kill(pid["other"], signal.SIGSTOP)
                await threads_become(client, ALL, OTHER_HALF)
                os.kill(pid["other"], signal.SIGCONT)
                await threads_become(client, ONE_HALF, OTHER_HALF)
            await threads_become(client, ALL, 0)

            async with generating(client, "other"):
                await threads_become(client, ONE_HALF, OTHER_HALF)
                os.kill(pid["other"], signal.SIGKILL)
                await threads_become(client, ALL, 0)
        await threads_become(client, 0, 0)
