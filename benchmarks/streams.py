"""Many streams on one model with a separate KV cache, and with a unified one, through the whole service.

    .venv/bin/python benchmarks/streams.py [--quick]

Both services have the same model file, slots, threads and prompts, and decode greedily; they take turns, and
who goes first changes. Each stream goes on from a prompt that its slot has read before the first turn, so
that what counts is generating. The reference is the unified cache (`kv_cache = "unified"`), with the same
number of tokens in all.

- `streams.C_clients.T_tokens`: tokens of all answers by the time from the first request to the end of the
  last answer; each goes on from T tokens. Higher is better.

Prints a line of JSON for each; `--quick` has one turn.
"""

from __future__ import annotations

import statistics
from contextlib import AsyncExitStack
from functools import partial

import anyio

from answers import Server, ours
from harness import in_rotation, quick, report
from prompts import scene
from service import CONTEXT_TOKENS, MODEL_ID, running_service

LOADS = ((8, 700), (16, 64))
ANSWER_TOKENS = 48


def settings(form: str, slots: int) -> str:
    return f'kv_cache = "{form}"\nslots = {slots}\ncache_tokens = {slots * CONTEXT_TOKENS}'


async def at_once(server: Server, clients: int, tokens: int, turn: int) -> float:  # noqa: ARG001
    """Tokens a second of all streams."""
    answers = [
        server(scene(f"stream {client}", tokens), ANSWER_TOKENS, f"stream {client}")
        for client in range(clients)
    ]
    async with anyio.create_task_group() as tasks:
        for answer in answers:
            tasks.start_soon(answer.read)
    seconds = max(answer.ended for answer in answers) - min(answer.asked for answer in answers)
    return sum(answer.tokens for answer in answers) / seconds


async def compare(clients: int, tokens: int, turns: int) -> None:
    async with AsyncExitStack() as stack:
        servers = {}
        for form in ("separate", "unified"):
            client, _ = await stack.enter_async_context(
                running_service(model_settings=settings(form, clients))
            )
            await client.load_model(MODEL_ID)
            servers[form] = ours(client, MODEL_ID)
            await at_once(servers[form], clients, tokens, 0)
        sides = {form: partial(at_once, server, clients, tokens) for form, server in servers.items()}
        speeds = await in_rotation(sides, turns)
    separate, unified = (statistics.median(speeds[form]) for form in ("separate", "unified"))
    name = f"streams.{clients}_clients.{tokens}_tokens"
    report(name, separate, unified, unit="tokens/s", better="higher")


async def main(is_quick: bool) -> None:
    for clients, tokens in LOADS:
        await compare(clients, tokens, turns=1 if is_quick else 5)


if __name__ == "__main__":
    anyio.run(main, quick(__doc__), backend_options={"use_uvloop": True})
