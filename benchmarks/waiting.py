"""`suite serve` whose models take as long for each step as a big model on a GPU of its own::

    python benchmarks/waiting.py serve ...      # all that `suite serve` takes
    BENCH_STEP_MS=50                      # how long a step takes

A few cores cannot compute what three machines do. So a model's process computes its step, of a model that is
tiny, and waits for the rest of the time. All else is what it always is: nodes, processes, tokens.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from subprocess import PIPE

import anyio
import anyio.abc

STEP_SECONDS = float(os.environ.get("BENCH_STEP_MS", "50")) / 1000


async def open_process(inherited: Sequence[int] = (), *, exports_spans: bool = False) -> anyio.abc.Process:
    """Start this program as a model's process, as `suite.node.process.open_process` starts the real one."""
    del exports_spans
    return await anyio.open_process(
        [sys.executable, __file__],
        stdin=PIPE,
        stdout=PIPE,
        stderr=PIPE,
        start_new_session=True,
        pass_fds=inherited,
    )


def serve_model() -> None:
    from suite.actors import entry
    from suite.engine.backend import BatchEntry
    from suite.engine.llama_model import LlamaModel

    compute = LlamaModel.decode

    def decode(self: LlamaModel, entries: Sequence[BatchEntry]) -> bool:
        began = time.monotonic()
        is_done = compute(self, entries)
        time.sleep(max(0.0, STEP_SECONDS - (time.monotonic() - began)))
        return is_done

    LlamaModel.decode = decode  # type: ignore[method-assign]
    entry.main()


def serve_node() -> None:
    from suite.cli.main import main
    from suite.node import process

    process.open_process = open_process
    sys.exit(main())


if __name__ == "__main__":
    serve_node() if len(sys.argv) > 1 else serve_model()
