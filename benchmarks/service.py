"""A real `suite serve` with the demo model, for benchmarks that go the whole way."""

from __future__ import annotations

import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from subprocess import DEVNULL

import anyio

import suite
from models import MODEL_IDS, directories, model_file
from suite import machine
from suite.client import Client
from suite.config import ConnectionFile
from suite.messages.actions.status import ModelInfo
from suite.messages.actor import NatsAccess

MODEL_ID = MODEL_IDS["smollm2"]
CONTEXT_TOKENS = 2048
SAME_CACHE = f"cache_tokens = {CONTEXT_TOKENS}"
"""Of a model's settings, for benchmarks whose reference has one context and no more."""
THREADS = machine.cores().value
"""That every side computes with."""

_SETTINGS = """
idle_timeout_seconds = 0
{settings}
"""
_MODEL_SETTINGS = f"""
[models."{{model_id}}"]
context_length = {CONTEXT_TOKENS}
n_gpu_layers = 0
n_threads = {THREADS}
{{model_settings}}
"""


@asynccontextmanager
async def running_service(
    settings: str = "",
    *,
    model_ids: Sequence[str] = (MODEL_ID,),
    model_settings: str = "",
    models_directory: Path | None = None,
) -> AsyncIterator[tuple[Client, NatsAccess]]:
    """A service in a process of its own, a client of it, and how others reach it.

    It serves all that `models.py` has, these models among them; or those of a directory. `settings` are
    further lines of its configuration, `model_settings` of the part of each of these models.
    """
    if models_directory is None:
        for model_id in model_ids:
            model_file(model_id)
    served = directories() if models_directory is None else (models_directory,)
    with tempfile.TemporaryDirectory() as directory:
        data_dir, config = Path(directory) / "data", Path(directory) / "suite.toml"
        config.write_text(_configuration(settings, model_ids, model_settings))
        command = [sys.executable, "-m", "suite", "serve", "--config", str(config)]
        command += ["--data-dir", str(data_dir)]
        command += [part for each in served for part in ("--models-dir", str(each))]
        process = await anyio.open_process(command, stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL)
        try:
            with anyio.fail_after(90):
                while not ConnectionFile.path(data_dir).exists():
                    await anyio.sleep(0.02)
            async with suite.connect(data_dir=data_dir) as client:
                await _files_read(client)
                yield client, ConnectionFile.read(data_dir).access
        finally:
            with anyio.CancelScope(shield=True):
                process.send_signal(signal.SIGTERM)
                await process.wait()
                await process.aclose()


async def _files_read(client: Client) -> None:
    """Wait until the service has read all models once, for their digests: it takes a core meanwhile."""
    with anyio.fail_after(60):
        while any(_is_unread(model) for model in (await client.list_models()).models):
            await anyio.sleep(0.05)


def _is_unread(model: ModelInfo) -> bool:
    """Adapters and projectors are read when they are used first."""
    return model.sha256 is None and model.variant is None and bool(model.capabilities)


def _configuration(settings: str, model_ids: Sequence[str], model_settings: str) -> str:
    of_models = (_MODEL_SETTINGS.format(model_id=id, model_settings=model_settings) for id in model_ids)
    return _SETTINGS.format(settings=settings) + "".join(of_models)
