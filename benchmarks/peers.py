"""The servers that ours is compared with, each a process that ends with the benchmark.

Installed by ``make bench-peers`` (`xllamacpp`, which embeds llama.cpp's own server, and the web parts of
`llama_cpp.server`). What they are told is what serves them best: as many threads as ours has, flash attention
where llama.cpp thinks it good, logits of the last token only, no aborting of streams, and batches of 512 for
prompts, which are read as fast as in larger ones and leave others waiting for a quarter of the time.
"""

from __future__ import annotations

import json
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from subprocess import DEVNULL, PIPE

import anyio
import msgspec
from anyio.streams.buffered import BufferedByteReceiveStream

from answers import Server, llama_server, python_server
from service import THREADS
from suite.bus import parent

BATCH_TOKENS = 512
START_SECONDS = 60.0


class LlamaServer(msgspec.Struct, frozen=True, kw_only=True):
    """How llama.cpp's server is started."""

    model: str
    slots: int = 8
    slot_tokens: int = 2048
    unified: bool = False
    """One cache for all slots, of the same size in all, instead of one for each."""
    whole_window: bool = False
    """A full-size cache for sliding windows, so that a conversation can be gone on with."""


@asynccontextmanager
async def running_llama_server(settings: LlamaServer) -> AsyncIterator[Server]:
    """Its `/completion`, of a process of its own."""
    command = parent.command(sys.executable, __file__, msgspec.json.encode(settings).decode())
    async with await anyio.open_process(command, stdin=DEVNULL, stdout=PIPE, stderr=DEVNULL) as process:
        assert process.stdout is not None
        try:
            with anyio.fail_after(START_SECONDS):
                url = await BufferedByteReceiveStream(process.stdout).receive_until(b"\n", 256)
            yield llama_server(url.decode())
        finally:
            process.kill()


@asynccontextmanager
async def running_python_server(model: Path, context_tokens: int) -> AsyncIterator[Server]:
    """`llama_cpp.server`, which answers one after the other."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    settings = {
        "model": model,
        "host": "127.0.0.1",
        "port": port,
        "n_ctx": context_tokens,
        "n_threads": THREADS,
        "n_threads_batch": THREADS,
        "n_gpu_layers": 0,
        "logits_all": False,
        "flash_attn": True,
        "use_mlock": False,
        "interrupt_requests": False,
        "verbose": False,
    }
    options = [text for name, value in settings.items() for text in (f"--{name}", str(value))]
    command = parent.command(sys.executable, "-m", "llama_cpp.server", *options)
    async with await anyio.open_process(command, stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL) as process:
        try:
            with anyio.fail_after(START_SECONDS):
                while not await _listens(port):
                    assert process.returncode is None, "llama_cpp.server does not start: make bench-peers"
                    await anyio.sleep(0.05)
            yield python_server(f"http://127.0.0.1:{port}")
        finally:
            process.kill()


async def _listens(port: int) -> bool:
    try:
        stream = await anyio.connect_tcp("127.0.0.1", port)
    except OSError:
        return False
    await stream.aclose()
    return True


def run_llama_server(settings: LlamaServer) -> None:
    """Serve until killed; the address is the one line of output."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = settings.model
    params.n_parallel = settings.slots
    params.n_ctx = settings.slots * settings.slot_tokens
    params.kv_unified = settings.unified
    params.swa_full = settings.whole_window
    params.n_batch = params.n_ubatch = BATCH_TOKENS
    params.n_gpu_layers = 0
    params.fit_params = False
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = THREADS
    params.ui = False
    params.verbosity = 0
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    signal.pause()


if __name__ == "__main__":
    run_llama_server(msgspec.convert(json.loads(sys.argv[1]), LlamaServer))
