"""The `suite` command against the service of a data directory, in a thread: a process costs a second."""

from __future__ import annotations

import io
import json
import sys
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
    """A command line whose commands find the service of a data directory, one at a time.

    Without one, they find what they find by themselves.
    """

    def __init__(self, data_dir: Path | None = None) -> None:
        self._where = () if data_dir is None else ("--data-dir", str(data_dir))

    async def run(self, *arguments: str, input: str = "") -> Done:
        with anyio.fail_after(SECONDS):
            return await anyio.to_thread.run_sync(partial(run_command, *arguments, *self._where, input=input))

    async def output(self, *arguments: str, input: str = "") -> str:
        """What a command that succeeds says."""
        done = await self.run(*arguments, input=input)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    async def lines(self, *arguments: str) -> list[str]:
        """The lines of that, without what fills up the last column."""
        return [line.rstrip() for line in (await self.output(*arguments)).splitlines()]

    async def document(self, *arguments: str, input: str = "") -> Any:
        return json.loads(await self.output(*arguments, "--json", input=input))

    async def refusal(self, *arguments: str) -> str:
        """What a command that is refused complains of."""
        done = await self.run(*arguments)
        assert (done.returncode, done.stdout) == (1, "")
        return done.stderr


def run_command(*arguments: str, input: str = "") -> Done:
    """Run a command line as it stands, in this process."""
    stdin, sys.stdin = sys.stdin, io.TextIOWrapper(io.BytesIO(input.encode()), "utf-8")
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    try:
        with redirect_stdout(out), redirect_stderr(err):
            code = main(arguments)
    finally:
        sys.stdin = stdin
    texts = (
        stream.buffer.getvalue().decode() for stream in (out, err) if isinstance(stream.buffer, io.BytesIO)
    )
    return Done(code, *texts)
