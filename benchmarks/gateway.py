"""Streams over HTTP beside llama.cpp's own server, and what the gateway adds to a native request.

    make bench-peers
    .venv/bin/python benchmarks/gateway.py [--quick]

- `streams`: 1, 8 and 16 clients of `/v1/completions` at once, each with a prompt of its own, ours and
  llama.cpp's server with as many slots on the same file: tokens a second of all, from the first request to
  the end of the last, and the worst first token.
- `one_token`: a request for one token of a prompt that is in memory, over HTTP and natively over NATS, by
  the same service, in milliseconds; what is between them is the gateway's.
- `idle`: how many MB of memory the gateway takes more with 500 connections that have asked once and stay
  open; the reference is the same with llama.cpp's server.

Prints a line of JSON for each. Parts can be named, and the turns of each side given.
"""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import NamedTuple

import anyio
import psutil

from answers import Answer, Server, completions, ours
from harness import OURS, Choice, choice, in_rotation, report, report_each
from models import MADE_IDS, MODEL_IDS, model_file
from peers import LlamaServer, free_port, running_llama_server
from prompts import openings
from service import CONTEXT_TOKENS, running_service
from suite.client import Client
from suite.messages.actor import NatsAccess

MODELS = {**MODEL_IDS, "smollm2-q4_0": MADE_IDS["smollm2-q4_0"]}
CLIENTS: Sequence[int] = (1, 8, 16)
TOKENS, QUICK_TOKENS = 128, 32
REQUESTS, QUICK_REQUESTS = 100, 10
CONNECTIONS = 500
IDLE_SECONDS = 2.0
_MB = 1e6


class Figures(NamedTuple):
    """Of one turn of one side."""

    tokens_per_second: float
    worst_first_token_ms: float


class Http(NamedTuple):
    """A service with a gateway."""

    client: Client
    url: str
    access: NatsAccess


@asynccontextmanager
async def running_gateway(model_id: str, slots: int) -> AsyncIterator[Http]:
    """A service whose gateway has started."""
    port = free_port()
    http = f'[http]\nlisten = "127.0.0.1:{port}"'
    # Its own table comes before those of the models.
    async with running_service(http, model_ids=[model_id], model_settings=f"slots = {slots}") as (
        client,
        access,
    ):
        with anyio.fail_after(30):
            while not await _listens(port):
                await anyio.sleep(0.05)
        yield Http(client, f"http://127.0.0.1:{port}", access)


async def _listens(port: int) -> bool:
    try:
        await (await anyio.connect_tcp("127.0.0.1", port)).aclose()
    except OSError:
        return False
    return True


# --- streams ------------------------------------------------------------------------------------------------


async def stream_figures(server: Server, clients: int, tokens: int, turn: int) -> Figures:
    """Clients that ask at the same moment. Each prompt is new."""
    answers = [server(prompt, tokens) for prompt in openings(f"streams {clients} {turn}", clients)]
    await read_all(answers)
    seconds = max(answer.ended for answer in answers) - min(answer.asked for answer in answers)
    return Figures(
        sum(answer.tokens for answer in answers) / seconds, max(answer.first_token_ms for answer in answers)
    )


async def read_all(answers: Sequence[Answer]) -> None:
    async with anyio.create_task_group() as tasks:
        for answer in answers:
            tasks.start_soon(answer.read)


async def compare_streams(name: str, clients: int, *, tokens: int, turns: int) -> None:
    model_id = MODELS[name]
    settings = LlamaServer(model=str(model_file(model_id)), slots=clients, slot_tokens=CONTEXT_TOKENS)
    async with (
        running_gateway(model_id, clients) as http,
        running_llama_server(settings, api=partial(completions, model_id=model_id)) as llama_server,
    ):
        sides = {OURS: completions(http.url, model_id), "llama_server": llama_server}
        for server in sides.values():
            await read_all([server(prompt, 2) for prompt in openings(f"warm {name} {clients}", clients)])
        figures = await in_rotation(
            {side: partial(stream_figures, server, clients, tokens) for side, server in sides.items()}, turns
        )
    for field, unit in (("tokens_per_second", "tokens/s"), ("worst_first_token_ms", "ms")):
        values = {side: [getattr(each, field) for each in of_side] for side, of_side in figures.items()}
        report_each(f"gateway.streams.{name}.{clients}.{field}", values, unit=unit)


# --- one token ----------------------------------------------------------------------------------------------


async def compare_one_token(name: str, *, requests: int) -> None:
    model_id = MODELS[name]
    (prompt,) = openings("one token", 1)
    async with running_gateway(model_id, 8) as http:
        sides = {OURS: completions(http.url, model_id), "native": ours(http.client, model_id)}
        took: dict[str, list[float]] = {side: [] for side in sides}
        for _ in range(requests):
            for side, server in sides.items():
                answer = await server(prompt, 1).read()
                took[side].append((answer.ended - answer.asked) * 1000)
    over_http, native = (statistics.median(took[side]) for side in sides)
    report(f"gateway.one_token.{name}", over_http, native, unit="ms", better="lower")
    report(f"gateway.one_token.{name}.added", over_http - native, 2.0, unit="ms", better="lower")


# --- idle connections ---------------------------------------------------------------------------------------


async def compare_idle(name: str) -> None:
    model_id = MODELS[name]
    settings = LlamaServer(model=str(model_file(model_id)), slots=8, slot_tokens=CONTEXT_TOKENS)
    urls: list[str] = []

    def note_url(url: str) -> Server:
        urls.append(url)
        return completions(url, model_id)

    async with running_gateway(model_id, 8) as http:
        ours_mb = await idle_mb(http.url, _process("suite", "gateway"))
    async with running_llama_server(settings, api=note_url):
        theirs_mb = await idle_mb(urls[0], _process("peers.py"))
    report(f"gateway.idle.{CONNECTIONS}", ours_mb, theirs_mb, unit="MB", better="lower")


def _process(*words: str) -> psutil.Process:
    """The process below this one whose command has these words, the last one if one runs another."""
    found = [
        each
        for each in psutil.Process().children(recursive=True)
        if all(any(word in part for part in each.cmdline()[1:]) for word in words)
    ]
    return found[-1]


async def idle_mb(url: str, process: psutil.Process) -> float:
    """What connections cost that have asked for the list of models and stay open."""
    host, port = url.removeprefix("http://").split(":")
    request = f"GET /v1/models HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode()
    writers: list[asyncio.StreamWriter] = []

    async def ask() -> None:
        reader, writer = await asyncio.open_connection(host, int(port))
        writers.append(writer)
        writer.write(request)
        assert b" 200 " in await reader.readline()

    await ask()
    before = process.memory_info().rss
    for _ in range(CONNECTIONS):
        await ask()
    await anyio.sleep(IDLE_SECONDS)
    grown = process.memory_info().rss - before
    for writer in writers:
        writer.close()
    return grown / _MB


async def main(chosen: Choice) -> None:
    turns = chosen.turns or (1 if chosen.quick else 5)
    for name in chosen.models[:1] if chosen.quick else chosen.models:
        if "streams" in chosen.parts:
            for clients in CLIENTS[:2] if chosen.quick else CLIENTS:
                tokens = QUICK_TOKENS if chosen.quick else TOKENS
                await compare_streams(name, clients, tokens=tokens, turns=turns)
        if "one_token" in chosen.parts:
            await compare_one_token(name, requests=QUICK_REQUESTS if chosen.quick else REQUESTS)
    if "idle" in chosen.parts:
        await compare_idle(chosen.models[0])


if __name__ == "__main__":
    parts = ("streams", "one_token", "idle")
    anyio.run(main, choice(__doc__, parts=parts, models=MODELS), backend_options={"use_uvloop": True})
