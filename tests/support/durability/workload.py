"""Clients that go on whatever happens, over NATS and over HTTP, and note what they are told."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Final, TypeAlias

import anyio

from suite.errors import SuiteError
from support.durability.history import History, load_key
from support.durability.system import CLIENT_SECONDS, MODELS, System

END_SECONDS: Final = 90.0
"""Every request has an end by then, whatever dies meanwhile."""
PAUSES: Final = (0.03, 0.15)
"""Seconds between two requests of a client, at least and at most: a log that stays small."""
RELOAD_PAUSES: Final = (1.0, 2.0)

Step: TypeAlias = Callable[[str], Awaitable[None]]


class Workload:
    """Clients of a system. They rest while they are told to."""

    def __init__(self, system: System, history: History, chance: random.Random) -> None:
        self._system = system
        self._history = history
        self._chance = chance
        self._goes_on = anyio.Event()
        self._busy = 0
        self._idle = anyio.Event()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Clients that wait to be resumed, until the block ends."""
        steps: Sequence[Step] = (
            self._stream,
            self._stream,
            self._over_http,
            self._log_metric,
            self._log_evaluation,
            self._reload,
            self._query,
        )
        async with anyio.create_task_group() as clients:
            for number, step in enumerate(steps):
                clients.start_soon(self._use, f"client-{number}", step)
            yield
            clients.cancel_scope.cancel()

    def resume(self) -> None:
        """Have the clients go on."""
        self._goes_on.set()

    async def rest(self) -> None:
        """Have the clients stop after the request that each is at, and wait for that."""
        self._goes_on = anyio.Event()
        while self._busy:
            self._idle = anyio.Event()
            await self._idle.wait()

    async def _use(self, name: str, step: Step) -> None:
        count = 0
        while True:
            await self._goes_on.wait()
            count += 1
            self._busy += 1
            try:
                with anyio.fail_after(END_SECONDS):
                    await step(f"{name}-{count}")
            finally:
                self._busy -= 1
                self._idle.set()
            await anyio.sleep(self._chance.uniform(*PAUSES))

    async def _stream(self, id: str) -> None:
        """A generation over NATS, which is asked for once."""
        asked_at = time.monotonic()
        generation = self._system.client.generate(
            self._chance.choice(MODELS),
            "Once",
            max_tokens=self._chance.choice((1, 8, 60)),
            generation_id=id,
        )
        try:
            async for _ in generation:
                pass
        except SuiteError as error:
            self._history.refuse(error.code)
        else:
            self._history.acknowledge(("generation", id), asked_at, generation.reply.seq)

    async def _over_http(self, id: str) -> None:
        """A completion over the gateway, which is told by its conversation in the log."""
        asked_at = time.monotonic()
        with anyio.move_on_after(CLIENT_SECONDS):
            if await completed(self._system.port, self._chance.choice(MODELS), id):
                self._history.acknowledge(("conversation", id), asked_at)
                return
        self._history.refuse("http")

    async def _log_metric(self, id: str) -> None:
        asked_at = time.monotonic()
        seq = await self._until_stored(
            lambda: self._system.client.log_performance_metric("agent", "latency", 1.0, metric_id=id)
        )
        if seq is not None:
            self._history.acknowledge(("metric", id), asked_at, seq)

    async def _log_evaluation(self, id: str) -> None:
        asked_at = time.monotonic()
        seq = await self._until_stored(
            lambda: self._system.client.log_model_evaluation(
                MODELS[0], f"cycle {len(id)}", 0.5, accuracy=0.5, evaluation_id=id
            )
        )
        if seq is not None:
            self._history.acknowledge(("evaluation", id), asked_at, seq)

    async def _until_stored(self, send: Callable[[], Awaitable[object]]) -> int | None:
        """Send what has an id of its own again and again: it must be stored once all the same."""
        with anyio.move_on_after(END_SECONDS / 3):
            while True:
                try:
                    return int(getattr(await send(), "seq"))  # noqa: B009 - of several replies
                except SuiteError as error:
                    self._history.refuse(error.code)
                    await anyio.sleep(0.05)
        return None

    async def _reload(self, _: str) -> None:
        asked_at = time.monotonic()
        model_id = self._chance.choice(MODELS)
        try:
            async with self._system.reloading:
                await self._system.client.unload_model(model_id, drain_ms=500)
                seq = (await self._system.client.load_model(model_id)).seq
        except SuiteError as error:
            self._history.refuse(error.code)
        else:
            self._history.acknowledge(load_key(model_id, seq), asked_at, seq)
        await anyio.sleep(self._chance.uniform(*RELOAD_PAUSES))

    async def _query(self, _: str) -> None:
        """Each read model is asked something."""
        client = self._system.client
        queries: Sequence[Callable[[], Awaitable[object]]] = (
            client.usage,
            client.get_errors,
            partial(client.summary, "latency"),
            partial(client.get_model_evaluation_scores, model_name=MODELS[0]),
            client.list_models,
            client.get_predictions,
        )
        for query in queries:
            try:
                await query()
            except SuiteError as error:
                self._history.refuse(error.code)


async def completed(port: int, model_id: str, conversation_id: str | None = None) -> bool:
    """Whether a gateway completes a text."""
    body = {"model": model_id, "prompt": "Once", "max_tokens": 4, "conversation_id": conversation_id}
    return await _is_answered(port, "/v1/completions", body)


async def _is_answered(port: int, path: str, body: Mapping[str, object]) -> bool:
    """Whether a whole document comes back."""
    sent = json.dumps(body)
    request = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Connection: close\r\nContent-Length: {len(sent)}\r\n\r\n{sent}"
    )
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    try:
        writer.write(request.encode())
        head, _, answer = (await reader.read()).partition(b"\r\n\r\n")
        return head.startswith(b"HTTP/1.1 200 ") and isinstance(json.loads(answer), dict)
    except (OSError, ValueError):
        return False
    finally:
        writer.transport.abort()
