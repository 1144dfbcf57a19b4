"""Many streams at once: ours through the whole service, llama.cpp's own server, and `llama_cpp.server`.

    make bench-peers
    .venv/bin/python benchmarks/batching.py [--quick]

All have the same model file, threads and prompts, decode greedily and stream; they take turns, and who goes
first changes. Ours goes the whole way: client, NATS, the model's process and back, and an answer has ended
when it is in the log. The others are asked over HTTP. Every prompt is new and begins with other words.

Ours has 16 slots, llama.cpp's server 8, once with a cache for each slot and once with one for all, and for 16
clients also 16 slots with one cache. What each can hold in all is the same but for that.

- `N_clients`: tokens of all answers, as the servers count them, by the time from the first request to the end
  of the last answer; higher is better.
- `first_token.8_clients`: the slowest client's first text after its request.
- `gap.long_prompt`: the longest that one of 4 streams stands still while a prompt of about 1,500 tokens is
  read, from its request to its first text. Text is taken as it comes, on both sides: ours holds tokens
  back for at most 50 ms (ADR 9), which counts against it.

Prints a line of JSON for each figure and peer; `--quick` has one model and one turn.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import NamedTuple

import anyio
import msgspec

from answers import Answer, Server, ours
from harness import in_rotation, quick, report
from models import MODEL_IDS, model_file
from peers import LlamaServer, running_llama_server, running_python_server
from prompts import openings, scene
from service import CONTEXT_TOKENS, running_service

OURS, PYTHON = "ours", "llama_cpp_server"
SETTINGS = f"slots = 16\ncache_tokens = {8 * CONTEXT_TOKENS}"
TOKENS = 64
STREAMS, STREAM_TOKENS = 4, 128
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


@asynccontextmanager
async def running(model_id: str, *, larger: bool) -> AsyncIterator[Mapping[str, Server]]:
    """All servers with this model; `larger` also llama.cpp's with 16 slots."""
    model = model_file(model_id)
    peer = LlamaServer(model=str(model), slot_tokens=CONTEXT_TOKENS)
    unified = msgspec.structs.replace(peer, unified=True)
    async with AsyncExitStack() as stack:
        client, _ = await stack.enter_async_context(
            running_service(model_id=model_id, model_settings=SETTINGS)
        )
        await client.load_model(model_id)
        servers = {
            OURS: ours(client, model_id),
            "llama_server": await stack.enter_async_context(running_llama_server(peer)),
            "llama_server_unified": await stack.enter_async_context(running_llama_server(unified)),
            PYTHON: await stack.enter_async_context(running_python_server(model, CONTEXT_TOKENS)),
        }
        if larger:
            sixteen = msgspec.structs.replace(unified, slots=16)
            servers["llama_server_16"] = await stack.enter_async_context(running_llama_server(sixteen))
        for number, server in enumerate(servers.values()):
            await server(openings(f"warm up {number}", 1)[0], 8).read()
        yield servers


async def compare(name: str, model_id: str, *, clients: Sequence[int], tokens: int, turns: int) -> None:
    async with running(model_id, larger=turns > 1) as servers:
        batching = [side for side in servers if side not in (PYTHON, "llama_server_16")]
        for count in clients:
            sides = [*batching, *({8: [PYTHON], 16: ["llama_server_16"]}.get(count, []))]
            loads = await in_rotation(
                {side: partial(at_once, servers[side], count, tokens) for side in sides if side in servers},
                turns,
            )
            speeds = {side: [load.tokens_per_second for load in figures] for side, figures in loads.items()}
            tell(f"batching.{name}.{count}_clients", speeds, unit="tokens/s")
            if count == 8:
                waits = {s: [load.slowest_first_token_ms for load in figures] for s, figures in loads.items()}
                tell(f"batching.{name}.first_token.8_clients", waits, unit="ms")
        gaps: Mapping[str, Callable[[int], Awaitable[float]]] = {
            side: partial(longest_gap_ms, servers[side]) for side in batching
        }
        tell(f"batching.{name}.gap.long_prompt", await in_rotation(gaps, turns), unit="ms")


def tell(name: str, figures: Mapping[str, Sequence[float]], *, unit: str) -> None:
    """A line for each peer."""
    for peer in figures:
        if peer != OURS:
            report(
                f"{name}.{peer}",
                statistics.median(figures[OURS]),
                statistics.median(figures[peer]),
                unit=unit,
                better="lower" if unit == "ms" else "higher",
            )


async def main(is_quick: bool) -> None:
    if is_quick:
        await compare("smollm2", MODEL_IDS["smollm2"], clients=(1, 8, 16), tokens=48, turns=1)
        return
    for name, model_id in MODEL_IDS.items():
        await compare(name, model_id, clients=(1, 4, 8, 16), tokens=TOKENS, turns=5)


if __name__ == "__main__":
    anyio.run(main, quick(__doc__), backend_options={"use_uvloop": True})
