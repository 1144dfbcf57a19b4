"""A real `suite serve` with the demo model, for benchmarks that go the whole way."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from subprocess import DEVNULL

import anyio

import suite
from suite import machine
from suite.client import Client
from suite.config import ConnectionFile
from suite.messages.actor import NatsAccess

MODELS = Path(os.environ.get("SUITE_TEST_MODELS", Path(__file__).parent.parent / ".models"))
MODEL_IDS = {"smollm2": "SmolLM2-135M-Instruct.Q4_1", "gemma3": "gemma-3-270m-it-Q4_K_M"}
MODEL_ID = MODEL_IDS["smollm2"]
MODEL = MODELS / f"{MODEL_ID}.gguf"
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

    `settings` are further lines of its configuration, `model_settings` of the model's part of it.
    """
    with tempfile.TemporaryDirectory() as directory:
        data_dir, config = Path(directory) / "data", Path(directory) / "suite.toml"
        config.write_text(_CONFIG.format(settings=settings, model_id=model_id, model_settings=model_settings))
        command = [sys.executable, "-m", "suite", "serve", "--config", str(config)]
        command += ["--data-dir", str(data_dir), "--models-dir", str(MODEL.parent)]
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
