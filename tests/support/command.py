"""The `suite` command as a script runs it, against the service of one data directory."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import anyio

SECONDS = 40.0


class Command:
    """A command line whose commands find the service of a data directory."""

    def __init__(self, data_dir: Path) -> None:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("SUITE_")}
        self._environ = {**clean, "SUITE_DATA_DIR": str(data_dir)}

    async def run(self, *arguments: str) -> CompletedProcess[bytes]:
        command = [sys.executable, "-m", "suite", *arguments]
        with anyio.fail_after(SECONDS):
            return await anyio.run_process(command, env=self._environ, check=False)

    async def output(self, *arguments: str) -> str:
        """What a command that succeeds says."""
        done = await self.run(*arguments)
        assert (done.returncode, done.stderr) == (0, b"")
        return done.stdout.decode()

    async def document(self, *arguments: str) -> Any:
        return json.loads(await self.output(*arguments, "--json"))
