"""Milliseconds to a loaded model: a load request through the service, and a fresh process with `Llama`.

    .venv/bin/python benchmarks/load.py [--quick]

Ours is measured by a client, from the request to the reply that says loaded: a new process, its connection,
the model, and the event on disk. The reference is a fresh Python process that imports llama_cpp and
constructs `Llama` on the same file with the same context, from its start to its first line of output. They
take turns. Prints one line of JSON, lower is better.
"""

from __future__ import annotations

import sys
import time
from subprocess import PIPE

import anyio

from harness import in_turns, quick, report
from service import CONTEXT_TOKENS, MODEL, MODEL_ID, running_service

FRESH = f"""
import llama_cpp
llama_cpp.Llama({str(MODEL)!r}, n_ctx={CONTEXT_TOKENS}, n_gpu_layers=0, verbose=False)
print("ready", flush=True)
"""


async def fresh_process() -> float:
    started = time.perf_counter()
    async with await anyio.open_process([sys.executable, "-c", FRESH], stdout=PIPE) as process:
        assert process.stdout is not None
        await process.stdout.receive()
        took = (time.perf_counter() - started) * 1000
        process.kill()
    return took


async def main(turns: int) -> None:
    async with running_service() as (client, _):

        async def load() -> float:
            started = time.perf_counter()
            await client.load_model(MODEL_ID)
            took = (time.perf_counter() - started) * 1000
            await client.unload_model(MODEL_ID)
            return took

        ours, reference = await in_turns(load, fresh_process, turns)
    report("load.smollm2", ours, reference, unit="ms", better="lower")


if __name__ == "__main__":
    anyio.run(main, 7 if quick(__doc__) else 15)
