"""A real `suite serve` with the demo model, for benchmarks that go the whole way."""

from __future__ import annotations

import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from subprocess import DEVNULL

import anyio

import suite
from models import MODEL_IDS, directories, model_file
from suite import machine
from suite.client import Client
from suite.config import ConnectionFile
from suite.messages.actor import NatsAccess

MODEL_ID = MODEL_IDS["smollm2"]
CONTEXT_TOKENS = 2048
SAME_CACHE = f"cache_tokens = {CONTEXT_TOKENS}"
"""Of a model's settings, for benchmarks whose reference has one context and no more."""
THREADS = machine.cores().value
"""That every side computes with."""

_CONFIG = f"""
idle_timeout_seconds = 0
{{settings}}
[models."{{model_id}}"]
context_length = {CONTEXT_TOKENS}
n_gpu_layers = 0
n_threads = {THREADS}
{{model_settings}}
"""


@asynccontextmanager
async def running_service(
    settings: str = "", *, model_id: str = MODEL_ID, model_settings: str = ""
) -> AsyncIterator[tuple[Client, NatsAccess]]:
    """A service in a process of its own, a client of it, and how others reach it.

    It serves all that `models.py` has, this model among them. `settings` are further lines of its
    configuration, `model_settings` of the model's part of it.
    """
    model_file(model_id)
    with tempfile.TemporaryDirectory() as directory:
        data_dir, config = Path(directory) / "data", Path(directory) / "suite.toml"
        config.write_text(_CONFIG.format(settings=settings, model_id=model_id, model_settings=model_settings))
        command = [sys.executable, "-m", "suite", "serve", "--config", str(config)]
        command += ["--data-dir", str(data_dir)]
        command += [part for directory in directories() for part in ("--models-dir", str(directory))]
        process = await anyio.open_process(command, stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL)
        try:
            with anyio.fail_after(30):
                while not ConnectionFile.path(data_dir).exists():
                    await anyio.sleep(0.02)
            async with suite.connect(data_dir=data_dir) as client:
                yield client, ConnectionFile.read(data_dir).access
        finally:
            with anyio.CancelScope(shield=True):
                process.send_signal(signal.SIGTERM)
                await process.wait()
                await process.aclose()
