"""The tutorial, command by command, as somebody would type it in a checkout after `make demo`."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from subprocess import DEVNULL, PIPE, STDOUT

import anyio
import anyio.abc
import pytest
from anyio.streams.buffered import BufferedByteReceiveStream

from support.documents import (
    REPOSITORY,
    WRITING,
    Block,
    Step,
    alike,
    alike_answer,
    blocks,
    rewritten,
    session,
    steps,
)
from support.models import gemma, smollm2

TUTORIAL = REPOSITORY / "docs" / "tutorial.md"
HOME = "/home/you"
SECONDS = 60.0
QUIET_SECONDS = 1.5
"""When nothing more is printed by what goes on, while the tutorial is written."""


class Desk:
    """Somebody's home with a checkout in it, a terminal in which the service runs, and another one."""

    def __init__(self, home: Path) -> None:
        self.checkout = home / "model-manager-suite"
        self.checkout.mkdir()
        assert gemma().parent == smollm2().parent
        (self.checkout / ".models").symlink_to(smollm2().parent)
        self._home = home
        self._process: anyio.abc.Process | None = None
        self._lines: BufferedByteReceiveStream | None = None

    async def do(self, step: Step, *, stays: bool) -> str:
        """What a step of the tutorial prints."""
        with anyio.fail_after(SECONDS):
            if step.command == "^C":
                return await self._interrupt()
            if stays:
                return await self._start(step)
            done = await anyio.run_process(
                ["bash", "-c", step.command],
                check=False,
                stdin=DEVNULL,
                stderr=STDOUT,
                cwd=self.checkout,
                env=self._environ,
            )
        return self._told(done.stdout)

    async def close(self) -> None:
        """End the service if the tutorial did not."""
        if self._process is not None and self._process.returncode is None:
            self._process.terminate()
            await self._process.wait()

    @property
    def _environ(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("SUITE_", "XDG_"))}
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        return kept | {"HOME": str(self._home), "PATH": path, "SUITE_NODE": "laptop", "COLUMNS": "120"}

    async def _start(self, step: Step) -> str:
        self._process = await anyio.open_process(
            ["bash", "-c", f"exec {step.command}"],
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=STDOUT,
            cwd=self.checkout,
            env=self._environ,
        )
        assert self._process.stdout is not None
        self._lines = BufferedByteReceiveStream(self._process.stdout)
        expected = len(step.output.splitlines())
        printed = b""
        while WRITING or printed.count(b"\n") < expected:
            with anyio.move_on_after(QUIET_SECONDS if WRITING and printed else SECONDS) as scope:
                printed += await self._lines.receive_until(b"\n", 10_000) + b"\n"
            if scope.cancelled_caught:
                break
        return self._told(printed)

    async def _interrupt(self) -> str:
        assert self._process is not None
        assert self._lines is not None
        self._process.send_signal(signal.SIGINT)
        printed = b"".join([part async for part in self._lines])
        assert await self._process.wait() == 0
        return self._told(printed)

    def _told(self, printed: bytes) -> str:
        return printed.decode().replace(str(self._home), HOME)


@asynccontextmanager
async def desk(home: Path) -> AsyncIterator[Desk]:
    each = Desk(home)
    try:
        yield each
    finally:
        with anyio.CancelScope(shield=True):
            await each.close()


@pytest.mark.timeout(180)
async def test_the_tutorial_is_what_happens(tmp_path: Path) -> None:
    text = TUTORIAL.read_text(encoding="utf-8")
    written: dict[Block, str] = {}
    async with desk(tmp_path) as at:
        for block in blocks(text):
            if block.title:
                (at.checkout / block.title).write_text(block.body, encoding="utf-8")
            if block.language != "console" or block.test == "not run":
                continue
            shown = steps(block.body)
            seen = [
                each._replace(output=await at.do(each, stays=block.test == "stays" and each is shown[-1]))
                for each in shown
            ]
            written[block] = session(seen)
            if not WRITING:
                compare = alike_answer if block.test == "answer" else alike
                for old, new in zip(shown, seen, strict=True):
                    assert compare(new.output) == compare(old.output), f"$ {old.command}"
    if WRITING:
        TUTORIAL.write_text(rewritten(text, written), encoding="utf-8")
