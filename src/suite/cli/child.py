"""Runs `suite serve` as a child process that ends with this one."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from subprocess import DEVNULL

import anyio
import anyio.abc
import anyio.to_thread

from suite.bus import parent
from suite.config import ConnectionFile
from suite.errors import ServeFailed

READY_SECONDS = 60.0
STOP_SECONDS = 20.0
"""How long the service may take to end in order before it is killed."""
_POLL_SECONDS = 0.02
_LAST_LINES = 12


@asynccontextmanager
async def serve_in_child(data_dir: Path, arguments: Sequence[str]) -> AsyncIterator[None]:
    """Run ``suite serve --data-dir DATA_DIR ARGUMENTS`` as a child while the context is open.

    The child is ready when the context is entered, and has ended when it is left. It does not see SUITE_...
    variables, ends with this process even if that is killed, and does not receive Ctrl-C. Raises ServeFailed
    with its last output when it does not start.
    """
    log = data_dir / "serve.log"
    command = parent.command(sys.executable, "-m", "suite", "serve", "--data-dir", str(data_dir), *arguments)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SUITE_")}
    with log.open("wb") as output:
        process = await anyio.open_process(
            command,
            stdin=DEVNULL,
            stdout=output,
            stderr=output,
            env=environment,
            start_new_session=True,
        )
    try:
        with anyio.move_on_after(READY_SECONDS) as limit:
            await _ready(process, data_dir)
        if limit.cancelled_caught or process.returncode is not None:
            raise ServeFailed(f"the service did not start; its last output:\n{await _tail(log)}")
        yield
    finally:
        with anyio.CancelScope(shield=True):
            await _stop(process)


async def _ready(process: anyio.abc.Process, data_dir: Path) -> None:
    """Return when connection.json exists, or when the process has ended."""
    path = anyio.Path(ConnectionFile.path(data_dir))
    while True:
        if process.returncode is not None or await path.exists():
            return
        await anyio.sleep(_POLL_SECONDS)


async def _stop(process: anyio.abc.Process) -> None:
    if process.returncode is None:
        process.terminate()
        with anyio.move_on_after(STOP_SECONDS):
            await process.wait()
    if process.returncode is None:
        process.kill()
    await process.wait()
    await process.aclose()


async def _tail(log: Path) -> str:
    lines = (await anyio.Path(log).read_text(errors="replace")).splitlines()
    return "\n".join(lines[-_LAST_LINES:]) or "nothing"
