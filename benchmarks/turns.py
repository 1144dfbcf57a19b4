"""Two models and room for one: what four clients wait for, and how often the models are switched.

    make bench-router    # once, half an hour; without it there is no comparison
    .venv/bin/python benchmarks/turns.py [--quick] [--turns N] [PATTERN ...]

Each client sends a request for a few tokens as soon as its last was answered, 400 requests in all. In
`each` two clients ask one model and two the other; in `both` each client draws which model it asks next.
With ours, requests wait in a line for memory (ADR 40); llama.cpp's router (`--models-max 1`) unloads the
model that was used least recently once it is idle, so that of `each` two clients wait until the other two
have made all their requests. Both have the same files, threads, slots and contexts; each side makes all its
requests by itself, and who goes first changes.

Prints a line of JSON for each figure: the longest time of a request by the mean, and the loads by the
number of requests, beside what they may be; and compared with the router the time of all requests, the
longest time of a request, and how many were answered. Ours must answer all.
"""

from __future__ import annotations

import itertools
import random
import statistics
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from typing import NamedTuple

import anyio

from answers import Server, ours
from harness import OURS, Choice, choice, in_rotation, report, report_each
from models import MADE_IDS, MODEL_IDS, model_file
from peers import Router, router_program, running_router
from prompts import openings
from service import CONTEXT_TOKENS, running_service
from suite.client import Client
from suite.errors import SuiteError

MODELS = [MODEL_IDS["gemma3"], MADE_IDS["gemma3-q4_0"]]
"""As large as each other: once it was measured, a small one fits beside a larger one's first estimate."""
CLIENTS, REQUESTS, QUICK_REQUESTS = 4, 400, 80
TOKENS = 16
SLOTS = 4
SETTINGS = f"slots = {SLOTS}\ncache_tokens = {SLOTS * CONTEXT_TOKENS}"
REQUEST_SECONDS = 120.0
PATTERNS = ("each", "both")
ROUTER = "router"


class Run(NamedTuple):
    seconds: float
    longest_seconds: float
    longest_by_mean: float
    answered: int


def models_of(pattern: str, turn: int, client: int) -> Iterator[str]:
    """Which models a client asks, one after the other."""
    if pattern == "each":
        return itertools.repeat(MODELS[client % len(MODELS)])
    draw = random.Random(f"{turn} {client}")
    return iter(lambda: draw.choice(MODELS), None)


async def ask_all(servers: Mapping[str, Server], pattern: str, requests: int, turn: int) -> Run:
    """All clients at once, each with its part of the requests."""
    waits: list[float] = []

    async def client(number: int) -> None:
        models = models_of(pattern, turn, number)
        for prompt in openings(f"turns {pattern} {turn} {number}", requests // CLIENTS):
            server = servers[next(models)]
            began = time.perf_counter()
            with anyio.move_on_after(REQUEST_SECONDS), suppress(SuiteError, OSError, AssertionError):
                answer = await server(prompt, TOKENS).read()
                if answer.tokens:
                    waits.append(time.perf_counter() - began)

    began = time.perf_counter()
    async with anyio.create_task_group() as clients:
        for number in range(CLIENTS):
            clients.start_soon(client, number)
    seconds = time.perf_counter() - began
    return Run(seconds, max(waits), max(waits) / statistics.mean(waits), len(waits))


async def room_for_one() -> str:
    """The memory limit, as a setting: for the larger of both, and not for the two."""
    async with running_service(model_ids=MODELS, model_settings=SETTINGS) as (client, _):
        needs = []
        for model_id in MODELS:
            await client.load_model(model_id)
            model = (await client.get_model_status(model_id)).model
            assert model is not None
            assert model.instance is not None
            needs.append(model.instance.reserved_bytes)
    return f"memory_limit_gb = {(max(needs) + sum(needs)) / 2 / 2**30}"


@asynccontextmanager
async def sides() -> AsyncIterator[tuple[Client, Mapping[str, Mapping[str, Server]]]]:
    memory = await room_for_one()
    async with AsyncExitStack() as stack:
        service = running_service(memory, model_ids=MODELS, model_settings=SETTINGS)
        client, _ = await stack.enter_async_context(service)
        found: dict[str, Mapping[str, Server]] = {OURS: {id: ours(client, id) for id in MODELS}}
        if program := router_program():
            router = Router(models=[*map(model_file, MODELS)], room=1, slots=SLOTS)
            found[ROUTER] = await stack.enter_async_context(running_router(program, router))
        yield client, found


async def compare(pattern: str, *, requests: int, turns: int) -> None:
    async with sides() as (client, servers):
        runs = await in_rotation(
            {side: partial(ask_all, of_side, pattern, requests) for side, of_side in servers.items()}, turns
        )
        loads = (await client.get_stats()).loads
    assert all(run.answered == requests for run in runs[OURS]), "ours has not answered all"
    title = f"turns.{pattern}"
    longest = statistics.median(run.longest_by_mean for run in runs[OURS])
    report(f"{title}.longest_by_mean", longest, 5, unit="of the mean", better="lower")
    report(f"{title}.loads", loads / turns / requests, 0.5, unit="a request", better="lower")
    for place, (name, unit) in enumerate(
        (("total", "s"), ("longest", "s"), ("longest_by_mean", "of the mean"), ("answered", "requests"))
    ):
        figures = {side: [run[place] for run in of_side] for side, of_side in runs.items()}
        report_each(f"{title}.{name}", figures, unit=unit, better="higher" if name == "answered" else "lower")


async def main(chosen: Choice) -> None:
    for pattern in chosen.parts:
        requests = QUICK_REQUESTS if chosen.quick else REQUESTS
        await compare(pattern, requests=requests, turns=chosen.turns or 1)


if __name__ == "__main__":
    anyio.run(main, choice(__doc__, parts=PATTERNS, models=MODEL_IDS))
