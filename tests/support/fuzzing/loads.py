"""Mutated model files, loaded: their own processes may fail or crash, and nothing else does."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Final

import anyio

import suite
from suite.client import Client
from suite.engine.gguf.file import inspect
from suite.errors import SuiteError
from support.fuzzing.gguf import Files, whole_seeds
from support.fuzzing.run import Target
from support.fuzzing.service import UNLIKELY, FuzzedService

SECONDS: Final = 120.0
AT_ONCE: Final = 6


class Loadable:
    """Makes files that pass their inspection, so that they are really loaded."""

    def __init__(self, directory: Path) -> None:
        self._files = Files(whole_seeds(directory))
        self._path = directory / "inspected.gguf"

    def make(self, random: Random) -> bytes:
        """A file that looks like a model, and is wrong somewhere."""
        while True:
            content = self._files.make(random)
            self._path.write_bytes(content)
            with suppress(SuiteError):
                inspect(self._path)
                return content


class Loader:
    """Puts files into a directory of models, has them loaded, and uses them."""

    def __init__(self, client: Client, directory: Path) -> None:
        self._client = client
        self._directory = directory
        self._count = 0

    async def check(self, content: bytes) -> str:
        """What became of the load, and of what was asked of the model then."""
        self._count += 1
        model_id = f"m{self._count}"
        path = self._directory / f"{model_id}.gguf"
        _put(path, content)
        try:
            return await self._used(model_id)
        finally:
            path.unlink()

    async def _used(self, model_id: str) -> str:
        if (refused := await _refusal(lambda: self._loaded(model_id))) is not None:
            return refused
        uses = (
            lambda: self._client.generate_text(model_id, "Once upon", max_tokens=3),
            lambda: self._client.generate_text(
                model_id, messages=[{"role": "user", "content": "x"}], max_tokens=3
            ),
            lambda: self._client.embed(model_id, ["x"]),
            lambda: self._client.unload_model(model_id),
        )
        outcomes = [await _refusal(use) for use in uses]
        return "loaded, " + ", ".join(each or "ok" for each in outcomes)

    async def _loaded(self, model_id: str) -> None:
        """Load it as soon as the node has seen it."""
        while True:
            try:
                await self._client.load_model(model_id)
                return
            except SuiteError as error:
                if error.code != "model_not_found" and "is still being copied" not in error.message:
                    raise
            await anyio.sleep(0.2)


async def _refusal(ask: Callable[[], Awaitable[object]]) -> str | None:
    try:
        await ask()
    except SuiteError as error:
        assert error.code not in UNLIKELY, error
        error.message.encode()
        return error.code
    return None


def _put(path: Path, content: bytes) -> None:
    """Have it there at once, as an old file."""
    arriving = path.with_suffix(".arriving")
    arriving.write_bytes(content)
    os.utime(arriving, (1e9, 1e9))
    arriving.rename(path)


@asynccontextmanager
async def loads(service: FuzzedService) -> AsyncIterator[Target[bytes]]:
    """Files through a load, and a few requests."""
    with TemporaryDirectory(prefix="fuzz-") as directory:
        async with suite.connect(data_dir=service.data_dir) as client:
            yield Target(
                name="loads",
                make=Loadable(Path(directory)).make,
                check=Loader(client, service.models).check,
                written=bytes,
                seconds=SECONDS,
                at_once=AT_ONCE,
                afterwards=service.check,
                processes=service.processes,
            )
