"""The `suite` command against the service of a data directory, in a thread: a process costs a second."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import anyio.to_thread

from suite.cli.main import main

SECONDS = 40.0


class Done(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


class Command:
    """A command line whose commands find the service of a data directory, one at a time."""

    def __init__(self, data_dir: Path) -> None:
        self._where = ("--data-dir", str(data_dir))

    async def run(self, *arguments: str) -> Done:
        with anyio.fail_after(SECONDS):
            return await anyio.to_thread.run_sync(partial(run_command, *arguments, *self._where))

    async def output(self, *arguments: str) -> str:
        """What a command that succeeds says."""
        done = await self.run(*arguments)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    async def lines(self, *arguments: str) -> list[str]:
        """The lines of that, without what fills up the last column."""
        return [line.rstrip() for line in (await self.output(*arguments)).splitlines()]

    async def document(self, *arguments: str) -> Any:
        return json.loads(await self.output(*arguments, "--json"))


def run_command(*arguments: str) -> Done:
    """Run a command line as it stands, in this process."""
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    with redirect_stdout(out), redirect_stderr(err):
        code = main(arguments)
    texts = (
        stream.buffer.getvalue().decode() for stream in (out, err) if isinstance(stream.buffer, io.BytesIO)
    )
    return Done(code, *texts)
