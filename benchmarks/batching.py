"""Many streams at once: ours through the whole service, llama.cpp's own server, and `llama_cpp.server`.

    make bench-peers
    .venv/bin/python benchmarks/batching.py [--quick]

All have the same model file, threads and prompts, decode greedily and stream; they take turns, and who goes
first changes. Ours goes the whole way: client, NATS, the model's process and back, and an answer has ended
when it is in the log. The others are asked over HTTP. Every prompt is new and begins with other words.

Ours has 16 slots. llama.cpp's server has, with a cache for each slot, as many slots as there are clients
(`llama_server`) and twice as many (`llama_server_twice`), and as many with one cache for all of them
(`llama_server_unified`). A slot can hold the same on all sides.

- `N_clients`: tokens of all answers, as the servers count them, by the time from the first request to the end
  of the last answer; higher is better.
- `first_token.8_clients`: the slowest client's first text after its request.
- `gap.long_prompt`: the longest that one of 4 streams stands still while a prompt of about 1,500 tokens is
  read, from its request to its first text. Text is taken as it comes, on both sides: ours holds tokens
  back for at most 50 ms (ADR 9), which counts against it.

Prints a line of JSON for each figure and peer; `--quick` has one model and one turn. Parts (numbers of
clients, and `gap`) and models can be named, and the turns of each side given.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import anyio

from answers import Answer, Server, ours
from harness import OURS, Choice, choice, in_rotation, report_each
from models import MADE_IDS, MODEL_IDS, model_file
from peers import running_llama_servers, running_python_server
from prompts import openings, scene
from service import CONTEXT_TOKENS, running_service

MODELS = {**MODEL_IDS, "smollm2-q4_0": MADE_IDS["smollm2-q4_0"]}
PYTHON = "llama_cpp_server"
GAP = "gap"
SETTINGS = f"slots = 16\ncache_tokens = {16 * CONTEXT_TOKENS}"
TOKENS = 64
STREAMS, STREAM_TOKENS = 4, 256
LONG_WORDS, LONG_TOKENS = 1500, range(1400, 1650)
RUNNING_SECONDS = 0.2
"""For which the streams run before the long prompt comes."""


class Load(NamedTuple):
    tokens_per_second: float
    slowest_first_token_ms: float


async def at_once(server: Server, clients: int, tokens: int, turn: int) -> Load:
    answers = [server(prompt, tokens) for prompt in openings(f"{clients} {turn}", clients)]
    async with anyio.create_task_group() as tasks:
        for answer in answers:
            tasks.start_soon(answer.read)
    seconds = max(answer.ended for answer in answers) - min(answer.asked for answer in answers)
    assert max(answer.reused_tokens for answer in answers) <= 4, "the prompts must differ"
    return Load(
        sum(answer.tokens for answer in answers) / seconds, max(answer.first_token_ms for answer in answers)
    )


async def longest_gap_ms(server: Server, turn: int) -> float:
    streams = [server(prompt, STREAM_TOKENS) for prompt in openings(f"gap {turn}", STREAMS)]
    long = server(scene(f"long {turn}", LONG_WORDS), 4)
    async with anyio.create_task_group() as tasks:
        for stream in streams:
            tasks.start_soon(stream.read)
        for stream in streams:
            await stream.begun.wait()
        await anyio.sleep(RUNNING_SECONDS)
        await long.read()
    assert long.prompt_tokens in LONG_TOKENS, f"the long prompt has {long.prompt_tokens} tokens"
    assert all(stream.times[-1] > long.times[0] for stream in streams), "a stream ended too soon"
    return max(map(partial(_longest_gap, long), streams)) * 1000


def _longest_gap(long: Answer, stream: Answer) -> float:
    """Of those that were not over when the prompt came, and had begun before it was read."""
    return max(
        end - begin
        for begin, end in itertools.pairwise(stream.times)
        if end > long.asked and begin < long.times[0]
    )


# --- the sides ----------------------------------------------------------------------------------------------


class Compared:
    """Ours and `llama_cpp.server`, the same for any number of clients, beside llama.cpp's server."""

    def __init__(self, name: str, model: Path, own: Server, python: Server, turns: int) -> None:
        self._name, self._model, self._turns = f"batching.{name}", model, turns
        self._ours, self._python = own, python

    async def clients(self, count: int, tokens: int) -> None:
        async with self._sides(count) as sides:
            if count == 8:
                sides[PYTHON] = self._python
            loads = await in_rotation(
                {side: partial(at_once, server, count, tokens) for side, server in sides.items()}, self._turns
            )
        speeds = {side: [load.tokens_per_second for load in figures] for side, figures in loads.items()}
        report_each(f"{self._name}.{count}_clients", speeds, unit="tokens/s")
        if count == 8:
            waits = {s: [load.slowest_first_token_ms for load in figures] for s, figures in loads.items()}
            report_each(f"{self._name}.first_token.8_clients", waits, unit="ms")

    async def gap(self) -> None:
        async with self._sides(STREAMS + 1) as sides:
            figures = await in_rotation(
                {side: partial(longest_gap_ms, server) for side, server in sides.items()}, self._turns
            )
        report_each(f"{self._name}.gap.long_prompt", figures, unit="ms")

    @asynccontextmanager
    async def _sides(self, clients: int) -> AsyncIterator[dict[str, Server]]:
        async with running_llama_servers(self._model, clients, CONTEXT_TOKENS) as peers:
            sides = {OURS: self._ours, **peers}
            for number, server in enumerate(sides.values()):
                await server(openings(f"warm up {number}", 1)[0], 8).read()
            yield sides


async def compare(name: str, parts: Sequence[str], *, tokens: int, turns: int) -> None:
    model_id = MODELS[name]
    model = model_file(model_id)
    async with (
        running_service(model_ids=[model_id], model_settings=SETTINGS) as (client, _),
        running_python_server(model, CONTEXT_TOKENS) as python,
    ):
        await client.load_model(model_id)
        compared = Compared(name, model, ours(client, model_id), python, turns)
        for part in parts:
            if part == GAP:
                await compared.gap()
            else:
                await compared.clients(int(part), tokens)


async def main(chosen: Choice) -> None:
    if chosen.quick:
        await compare("smollm2", [part for part in chosen.parts if part != "4"], tokens=48, turns=1)
        return
    for name in chosen.models:
        await compare(name, chosen.parts, tokens=TOKENS, turns=chosen.turns or 5)


if __name__ == "__main__":
    parts = ("1", "4", "8", "16", GAP)
    anyio.run(main, choice(__doc__, parts=parts, models=MODELS), backend_options={"use_uvloop": True})
