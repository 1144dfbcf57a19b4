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
from suite.client import Client
from suite.config import ConnectionFile
from suite.messages.actor import NatsAccess

MODEL_ID = "SmolLM2-135M-Instruct.Q4_1"
MODEL = (
    Path(os.environ.get("SUITE_TEST_MODELS", Path(__file__).parent.parent / ".models")) / f"{MODEL_ID}.gguf"
)
CONTEXT_TOKENS = 2048

_CONFIG = f"""
{{settings}}
idle_timeout_seconds = 0
[models."{MODEL_ID}"]
context_length = {CONTEXT_TOKENS}
n_gpu_layers = 0
"""


@asynccontextmanager
async def running_service(settings: str = "") -> AsyncIterator[tuple[Client, NatsAccess]]:
    """A service in a process of its own, a client of it, and how others reach it.

    `settings` are further lines of its configuration.
    """
    with tempfile.TemporaryDirectory() as directory:
        data_dir, config = Path(directory) / "data", Path(directory) / "suite.toml"
        config.write_text(_CONFIG.format(settings=settings))
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
