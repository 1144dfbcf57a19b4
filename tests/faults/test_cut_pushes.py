"""A push that is cut by the end of NATS, of its source or its target goes on where it was, and ends whole.

`SUITE_FAULT_ROUNDS=20` makes so many rounds, and `SUITE_FAULT_SEED` names the chance.
"""

from __future__ import annotations

import logging
import os
import random
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import anyio
import pytest

from suite.errors import SuiteError
from suite.messages.actions.transfers import PushedModel
from suite.messages.signals import Copying
from suite.node.transfers.parts import PART_BYTES
from support.fleet import Fleet, fleet
from support.models import smollm2

logger = logging.getLogger("suite.tests")

ROUNDS = int(os.environ.get("SUITE_FAULT_ROUNDS", "1"))
SEED = int(os.environ.get("SUITE_FAULT_SEED", "1"))
VICTIMS = ("nats", "box1", "box2")
"""Of one round after the other: box1 is the source, box2 the target."""
MODEL = "big"
PATIENCE_SECONDS = 60.0


class Lives:
    """The two nodes, which are killed and come back."""

    def __init__(self, found: Fleet, directory: Path) -> None:
        self.found = found
        self._directory = directory
        self._stacks: dict[str, AsyncExitStack] = {}

    async def begin(self, node: str) -> None:
        self._stacks[node] = stack = AsyncExitStack()
        await stack.enter_async_context(self.found.node(node, self.models(node)))

    async def end(self, node: str) -> None:
        await self._stacks.pop(node).aclose()

    def models(self, node: str) -> Path:
        return self._directory / f"models-{node}"

    def kill(self, victim: str) -> None:
        server = self.found.server
        os.kill(server.pid if victim == "nats" else self.found.nodes[victim].pid, signal.SIGKILL)

    @asynccontextmanager
    async def all(self) -> AsyncIterator[None]:
        try:
            for node in ("box1", "box2"):
                await self.begin(node)
            await self.found.acquainted()
            yield
        finally:
            for node in list(self._stacks):
                await self.end(node)


@pytest.mark.timeout(60 + 60 * ROUNDS)
async def test_a_push_that_is_cut_goes_on_and_ends_whole(tmp_path: Path) -> None:
    chance = random.Random(SEED)
    for node in ("box1", "box2"):
        (tmp_path / f"models-{node}").mkdir()
    shutil.copy(smollm2(), tmp_path / "models-box1" / f"{MODEL}.gguf")
    content = smollm2().read_bytes()
    async with fleet({}, tmp_path) as found:
        lives = Lives(found, tmp_path)
        async with lives.all():
            for number in range(ROUNDS):
                victim = VICTIMS[number % len(VICTIMS)]
                left = await cut(lives, victim, at=chance.uniform(0.05, 0.8) * len(content))
                if victim != "nats":
                    await lives.end(victim)
                    await lives.begin(victim)
                first = await push_until_copied(found)
                logger.info("%s was killed at %d bytes; it went on with %d", victim, left, first)
                assert first >= left // PART_BYTES * PART_BYTES
                copied = lives.models("box2") / f"{MODEL}.gguf"
                assert [path.name for path in copied.parent.iterdir()] == [copied.name]
                assert copied.read_bytes() == content
                copied.unlink()


async def cut(lives: Lives, victim: str, *, at: float) -> int:
    """Push, and kill the victim when so many bytes are there. Returns how many were there then."""
    with anyio.CancelScope() as scope:

        def kill(copying: Copying) -> None:
            if copying.bytes >= at:
                lives.kill(victim)
                scope.cancel()

        await lives.found.client.on_node("box1").push_model(MODEL, ["box2"], on_progress=kill)
    assert scope.cancelled_caught
    return int((lives.models("box2") / f"{MODEL}.gguf.part").stat().st_size)


async def push_until_copied(found: Fleet) -> int:
    """Push again until it succeeds. Returns the first count of bytes that was told then."""
    with anyio.fail_after(PATIENCE_SECONDS):
        while True:
            told: list[int] = []
            (pushed,) = await pushed_once(found, told)
            if pushed.state == "copied":
                return next(count for count in told if count)
            await anyio.sleep(0.2)


async def pushed_once(found: Fleet, told: list[int]) -> tuple[PushedModel, ...]:
    def hear(copying: Copying) -> None:
        told.append(copying.bytes)

    try:
        return (await found.client.on_node("box1").push_model(MODEL, ["box2"], on_progress=hear)).nodes
    except SuiteError as error:
        return (PushedModel(node="box2", state="failed", message=error.message),)
