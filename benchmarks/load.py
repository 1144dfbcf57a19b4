"""Milliseconds to a loaded model: a load request through the service, and a fresh process with `Llama`.

    .venv/bin/python benchmarks/load.py [--quick]

Ours is measured by a client, from the request to the reply that says loaded: a process, its connection, the
model, and the event on disk. `load.smollm2` starts that process for the load; `load.standby` takes the one
that stands ready, and before its clock starts it waits until there is one again, as there is in a service
that was not loading a second or two ago. The reference is a fresh Python process that imports llama_cpp and
constructs `Llama` on the same file with the same context, from its start to its first line of output. They
take turns, with the file in the page cache. Prints a line of JSON for each of ours, lower is better.
"""

from __future__ import annotations

import sys
import time
from subprocess import PIPE

import anyio
import psutil

from harness import in_turns, quick, report
from models import model_file
from service import CONTEXT_TOKENS, MODEL_ID, SAME_CACHE, running_service

SETTLE_SECONDS = 1.0
"""For the imports of the process that stands ready."""
FRESH = f"""
import llama_cpp
llama_cpp.Llama({str(model_file(MODEL_ID))!r}, n_ctx={CONTEXT_TOKENS}, n_gpu_layers=0, verbose=False)
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


async def standing() -> None:
    """Wait until the service has a process ready."""
    while not any(
        "suite.actors.entry" in each.cmdline() for each in psutil.Process().children(recursive=True)
    ):
        await anyio.sleep(0.05)
    await anyio.sleep(SETTLE_SECONDS)


async def compare(name: str, turns: int, *, standby: bool) -> None:
    async with running_service(f"standby = {str(standby).lower()}", model_settings=SAME_CACHE) as (client, _):

        async def load() -> float:
            if standby:
                await standing()
            started = time.perf_counter()
            await client.load_model(MODEL_ID)
            took = (time.perf_counter() - started) * 1000
            await client.unload_model(MODEL_ID)
            return took

        ours, reference = await in_turns(load, fresh_process, turns)
    report(name, ours, reference, unit="ms", better="lower")


async def main(turns: int) -> None:
    await compare("load.smollm2", turns, standby=False)
    await compare("load.standby", turns, standby=True)


if __name__ == "__main__":
    anyio.run(main, 7 if quick(__doc__) else 15)
